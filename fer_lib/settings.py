"""Settings as people give them: on a command line, and in a notebook."""

import argparse
import ast
import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fer_lib.config import PRESETS, TrainConfig
from fer_lib.files import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

APART = ("model", "name", "recipe", "preset")
"""What names the recipe that settings change, and is no such setting."""
SET = {"nargs": "+", "action": "extend", "default": [], "metavar": "NAME=VALUE"}
"""Of a command line's `--set`, which may be given more than once."""


def add_arguments(parser: argparse.ArgumentParser, settings: str) -> None:
    """Add what every training takes; `settings` names the class whose fields `--set` changes."""
    add = parser.add_argument
    add("--dataset", default="sample", help="sample, fer2013, ferplus, rafdb, or a name")
    add("--data-dir", help="folder or file of the data; default: data/<dataset>, then Kaggle")
    add("--preset", choices=PRESETS, help="default: sample, or quick on real data")
    add("--seed", type=int, default=0)
    add("--runs", help="folder of all runs; default: runs/")
    change = f"settings of {settings} to change"
    add("--set", **SET, help=change)


def own_changes(changes: Any, *apart: str, parameter: str = "changes") -> dict[str, Any]:
    """The settings that a notebook changes by this `parameter`, as they are.

    Raises:
        InputError: they are no dict, or name, also among a model's options, one of `APART` or
            `apart`, which have a parameter of their own.
    """
    options = changes.get("options", {}) if isinstance(changes, dict) else {}
    for what, value in ((parameter, changes), (f"options of {parameter}", options)):
        if not isinstance(value, dict):
            raise InputError(f"{what}={value!r} is no dict: by papermill, give it with -y")
    for name in (*APART, *apart):
        if name in changes or name in options:
            raise InputError(f"{name} in {parameter} has a parameter of its own: set that instead")
    return changes


def several(value: str | Iterable[str], known: Collection[str] = ()) -> list[str]:
    """A list, also of a single name that was given without one.

    Raises:
        InputError: a name is not among the `known`, where there are such, or none was given.
    """
    names = [value] if isinstance(value, str) else list(value)
    if known and (not names or set(names) - set(known)):
        odd = ", ".join(sorted(set(names) - set(known))) or "an empty list"
        raise InputError(f"this notebook is not made for {odd}: give some of {', '.join(known)}")
    return names


def parse_settings(texts: Iterable[str], apart: Iterable[str] = APART) -> dict[str, Any]:
    """Read several NAME=VALUE; InputError for a name of `apart`, which has its own argument."""
    settings = dict(map(parse_setting, texts))
    if own := settings.keys() & set(apart):
        name = min(own)
        raise InputError(f"{name} is not changed by --set: it has an argument of its own")
    return settings


def parse_setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value as JSON or Python where it is that, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, not {text!r}")
    for read in (json.loads, ast.literal_eval):  # true and True, null and None
        try:
            return name, read(value)
        except (ValueError, SyntaxError, TypeError):  # the last where a key is a list
            pass
    return name, value


def side_by_side(configs: Mapping[Hashable, TrainConfig]) -> "DataFrame":
    """The settings in which some trainings differ, as text: a row each, and a column a training.

    Those of the augmentation have rows of their own; what names the recipe is left out.

    Args:
        configs: by the titles of the columns.
    """
    import pandas as pd  # a second of time, which a prediction can do without

    settings = {title: config.to_dict() for title, config in configs.items()}
    columns = {title: every | every.pop("augmentation") for title, every in settings.items()}
    table = pd.DataFrame(columns, dtype=object).drop(["model", "recipe", "preset"]).map(str)
    return table[table.nunique(axis=1) > 1]
