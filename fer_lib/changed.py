"""What a run changed in its recipe."""

import json
from pathlib import Path
from typing import Any

from fer_lib.config import TrainConfig
from fer_lib.recipes import own_start, recipe


def changed_settings(config: TrainConfig) -> list[str]:
    """List what a run changed in its recipe, as in ["epochs=5", "width=16"]; [] for nothing.

    The seed does not count, nor `cuda_graph`, nor a warm-up that is shorter because there are fewer
    epochs. Values are JSON; `default` means that the recipe sets an option and the run does not.
    """
    before, after = flat(of_recipe(config)), flat(config.to_dict())
    return [
        f"{key}={text(after.get(key, 'default'))}"
        for key in after | before
        if after.get(key) != before.get(key)
    ]


def of_recipe(config: TrainConfig) -> dict[str, Any]:
    """Return what the recipe of a run sets, at the run's seed, `cuda_graph` and warm-up.

    `epochs` are the recipe's own. Another backbone drops the preset's sizes, as in `recipe`, and is
    itself not among the options.
    """
    names = config.model, config.recipe, config.preset
    same = {name: getattr(config, name) for name in ("seed", "cuda_graph", "epochs")}
    same["options"] = {key: value for key, value in config.options.items() if key == "backbone"}
    values = recipe(*names, **same).to_dict() | {"epochs": recipe(*names).epochs}
    values["options"].pop("backbone", None)
    return values


def text(value: Any) -> str:
    """Return a value as JSON, but text as it is."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config in one dict, with those of the model and the augmentation."""
    options, draws = dict(values["options"]), values["augmentation"]
    rest = {key: value for key, value in values.items() if key not in ("options", "augmentation")}
    if isinstance(rest["pretrained"], str):  # files of all runs have the same names: name the run
        start = Path(rest["pretrained"])
        rest["pretrained"] = (start.parent if own_start(str(start)) else start).name
    options |= options.pop("backbone_options", None) or {}
    return rest | options | {f"augmentation.{key}": value for key, value in draws.items()}
