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
    same = {name: getattr(config, name) for name in ("seed", "cuda_graph", "epochs")}
    # Another backbone is one change; that it lacks the preset's sizes does not count as another.
    same["options"] = {key: value for key, value in config.options.items() if key == "backbone"}
    of_recipe = config.model, config.recipe, config.preset
    before = flat(recipe(*of_recipe, **same)) | {"epochs": recipe(*of_recipe).epochs}
    before.pop("backbone", None)
    after = flat(config)
    return [
        f"{key}={text(after.get(key, 'default'))}"
        for key in after | before
        if after.get(key) != before.get(key)
    ]


def text(value: Any) -> str:
    """Return a value as JSON, but text as it is."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def flat(config: TrainConfig) -> dict[str, Any]:
    """Return all settings in one dict, including those of the model and of the augmentation."""
    values = config.to_dict()
    options, draws = values.pop("options"), values.pop("augmentation")
    if isinstance(values["pretrained"], str):  # files of all runs have the same names: name the run
        start = Path(values["pretrained"])
        values["pretrained"] = (start.parent if own_start(str(start)) else start).name
    options |= options.pop("backbone_options", None) or {}
    return values | options | {f"augmentation.{key}": value for key, value in draws.items()}
