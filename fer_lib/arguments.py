"""Read settings that users give on a command line or in a notebook, and find the files in them."""

import argparse
import ast
import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_lib.config import PRESETS, TrainConfig
from fer_lib.files import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

APART = ("model", "name", "recipe", "preset")
"""Names that choose the recipe, so they are not settings that can be changed in it."""
SET = {"nargs": "+", "action": "extend", "default": [], "metavar": "NAME=VALUE"}
"""Arguments of `add_argument` for `--set`, which may be given more than once."""


def add_arguments(
    parser: argparse.ArgumentParser, settings: str, example: str = "epochs=5"
) -> None:
    """Add the arguments that the commands of all trainings take.

    Args:
        settings: name of the class whose fields `--set` changes, for the help text.
        example: a setting, for the help text.
    """
    add = parser.add_argument
    public = "sample, fer2013, ferplus or rafdb"
    add("--dataset", default="sample", help=f"{public}; or a name for class folders of your own")
    source = "as last read, then data/<dataset>, then Kaggle"
    add("--data-dir", help=f"folder or file of the data; default: {source}")
    add("--preset", choices=PRESETS, help="default: sample, or quick on real data")
    add("--seed", type=int, default=0, help="of all random numbers; default: 0")
    add("--runs", help="folder of all runs; default: runs/")
    change = f"settings of {settings} to change, as in {example}"
    add("--set", **SET, help=change)


def own_changes(changes: Any, *apart: str, parameter: str = "changes") -> dict[str, Any]:
    """Check the settings that a notebook changes, and return them as they are.

    Args:
        changes: the value of the notebook's parameter; it should be a dict.
        apart: names that, like those of `APART`, have a parameter of their own.
        parameter: name of the notebook's parameter, for error messages.

    Raises:
        InputError: the settings or the model's options in them are not a dict, or contain a name
            that has a parameter of its own.
    """
    options = changes.get("options", {}) if isinstance(changes, dict) else {}
    for what, value, such in (
        (parameter, changes, '{"epochs": 5}'),
        (f"options of {parameter}", options, '{"width": 32}'),
    ):
        if not isinstance(value, dict):
            raise InputError(
                f"{what}={value!r} is not a dict such as {such} (in papermill, pass it with -y)"
            )
    for name in (*APART, *apart):
        if name in changes or name in options:
            raise InputError(f"{name} in {parameter} has a parameter of its own: set that instead")
    return changes


def several(value: str | Iterable[str], known: Collection[str] = ()) -> list[str]:
    """Return names as a list, even if a single name was given as a plain string.

    Args:
        known: the names that are allowed; if it is empty, all are.

    Raises:
        InputError: a name is not allowed, or only some are allowed and none was given.
    """
    names = [value] if isinstance(value, str) else list(value)
    if known and (not names or set(names) - set(known)):
        odd = ", ".join(sorted(set(names) - set(known))) or "an empty list"
        raise InputError(f"this notebook is not made for {odd}: give some of {', '.join(known)}")
    return names


def parse_settings(texts: Iterable[str], apart: Iterable[str] = APART) -> dict[str, Any]:
    """Read several texts of the form NAME=VALUE into a dict.

    Args:
        apart: names that may not be set, as they have arguments of their own.

    Raises:
        InputError: a text has no "=", or its name is one of `apart`.
    """
    settings = dict(map(parse_setting, texts))
    if own := settings.keys() & set(apart):
        name = min(own)
        raise InputError(f"{name} cannot be changed by --set: it has an argument of its own")
    return settings


def parse_setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is read as JSON or Python if possible, else kept as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, not {text!r}")
    for read in (json.loads, ast.literal_eval):  # true and True, null and None
        try:
            return name, read(value)
        except (ValueError, SyntaxError, TypeError):  # the last if a key is a list
            pass
    return name, value


PATHS = ("pretrained", "hub_voters", "model", "pictures")
"""Parameters that may name files or folders; made absolute, as notebooks run elsewhere."""


def absolute(value: Any, name: str = "") -> Any:
    """Make existing paths in a value absolute, if `PATHS` has the name of the parameter or key."""
    if isinstance(value, dict):
        return {key: absolute(one, key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [absolute(one, name) for one in value]
    if isinstance(value, str) and value and name in PATHS:
        with suppress(OSError, RuntimeError):  # too long for a path, or an unknown user
            path = Path(value).expanduser()
            return str(path.resolve()) if path.exists() else value
    return value


def named_files(value: Any, name: str = "") -> list[Path]:
    """Return the files that a value from `absolute` names; for a folder, all files in it."""
    if isinstance(value, dict):
        return [path for key, one in value.items() for path in named_files(one, key)]
    if isinstance(value, list):
        return [path for one in value for path in named_files(one, name)]
    if not isinstance(value, str) or name not in PATHS or not Path(value).is_absolute():
        return []
    path = Path(value)
    return [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())


def side_by_side(configs: Mapping[Hashable, TrainConfig]) -> "DataFrame":
    """Return a table of the settings in which trainings differ.

    Settings of the augmentation have rows of their own; model, recipe and preset are left out.

    Args:
        configs: column title -> config of a training.

    Returns:
        One row for each setting and one column for each training, all values as text.
    """
    import pandas as pd  # takes a second to import, which a prediction does not need

    settings = {title: config.to_dict() for title, config in configs.items()}
    columns = {title: every | every.pop("augmentation") for title, every in settings.items()}
    table = pd.DataFrame(columns, dtype=object).drop(["model", "recipe", "preset"]).map(str)
    return table[table.nunique(axis=1) > 1]
