"""Runs as a user names them on a command line: by path, by name, or by a pattern of paths."""

from collections.abc import Iterable
from pathlib import Path

from fer_lib.files import InputError, exists, expanded, matches
from fer_lib.runs import Run, runs_folder


def given_path(given: str | Path, what: str = "the folder of a run") -> Path:
    """Return the path as given, or else, if it is `NAME` or `runs/NAME`, that in `runs_folder`.

    Args:
        what: what must be there, for the error message.

    Raises:
        InputError: it is in neither place.
    """
    path, where = expanded(given), ""
    if not exists(path) and Path(given).parent in (Path(), Path("runs")):
        path, where = runs_folder() / Path(given).name, f", here or in {runs_folder()}"
    if not exists(path):
        raise InputError(f"there is no {given}{where}: give {what}")
    return path


def given_runs(given: Iterable[str | Path]) -> list[Run]:
    """Read the runs that paths, names and patterns name, in this order.

    Raises:
        InputError: a pattern matches nothing, or what one of them names is not a run.
    """
    return [Run(given_path(path)) for one in given for path in matches(one)]
