"""What runs changed in their recipes, or differ in; whether a network is the recipe's; its name."""

import json
import re
from pathlib import Path
from typing import Any

from fer_lib.config import TrainConfig
from fer_lib.recipes import own_start, recipe

LEARNING = {
    *("dropout", "drop_path", "drop_path_rate", "weight_init"),
    *("spread_weight", "centre_weight", "branch_weight", "balance", "z"),
}
"""Options of models that affect how they learn, but not the network itself."""

SMALL_PATCH = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
"""Options of the smaller of the two sizes in which `vit_patch` was published."""


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


def network(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that define the network itself, with those of its backbone in one dict."""
    plain = {key: value for key, value in options.items() if key != "backbone_options"}
    inner = options.get("backbone_options") or {}
    return {key: value for key, value in (plain | inner).items() if key not in LEARNING}


def network_changes(train: dict[str, Any]) -> dict[str, Any]:
    """Return what a training has changed in the network of its recipe.

    Args:
        train: settings as `TrainConfig.to_dict` gives them.

    Returns:
        Option -> value in the training, which is None if only the recipe has the option.
    """
    before = recipe(train["model"], train["recipe"], train["preset"]).to_dict()
    mine, plain = (network(one["options"]) for one in (train, before))
    return {key: mine.get(key) for key in mine | plain if mine.get(key) != plain.get(key)}


def same_network(train: dict[str, Any]) -> bool:
    """Return whether a training has its recipe's network, or the smaller published `vit_patch`.

    Args:
        train: settings as `TrainConfig.to_dict` gives them.
    """
    return network_changes(train) in ({}, SMALL_PATCH if train["model"] == "vit_patch" else {})


def taken_out(train: dict[str, Any]) -> list[str]:
    """Return the parts ("gates", "experts") that a training leaves out, to see what they add."""
    options = train["options"]
    parts = {"gates": options.get("attention") == "none", "experts": options.get("experts") == 1}
    return [name for name, out in parts.items() if out]


def backbone_name(name: str) -> str:
    """Return a DINOv2 name of timm as papers write it, "ViT-S/14 (DINOv2)"; others unchanged."""
    match = re.fullmatch(r"vit_(tiny|small|base|large)_patch(\d+)_dinov2", name)
    return f"ViT-{match[1][0].upper()}/{match[2]} (DINOv2)" if match else name


def label(config: dict[str, Any]) -> str:
    """Name the network of a run, as in "vit_mae after own MAE (160 epochs) with 6 blocks".

    If a training changes the depth of its backbone, the depth is given and not the backbone, whose
    name then says little.

    Args:
        config: the run's config, with `train`, and with `pretraining` if its encoder is from one.
    """
    train, pretraining = config["train"], config.get("pretraining")
    apart, start = network_changes(train), train.get("pretrained")
    words = [f"without {part}" for part in taken_out(train)]
    if own_start(start) == "pretraining":
        words.append("after own MAE")
        words += [f"({pretraining['epochs']} epochs)"] if pretraining else []
    if apart.get("depth") and "backbone_options" in train["options"]:
        words.append(f"with {apart['depth']} blocks")
    elif apart.get("patch_size"):
        words.append(f"on patches of {apart['patch_size']}")
    elif apart.get("backbone"):
        words.append(f"on {backbone_name(apart['backbone'])}")
    return " ".join([train["model"], *words])
