"""Compare the network of a training with that of its recipe, and give it a name."""

import re
from typing import Any

from fer_lib.recipes import own_start, recipe

LEARNING = {
    *("dropout", "drop_path", "drop_path_rate", "weight_init"),
    *("spread_weight", "centre_weight", "branch_weight", "balance", "z"),
}
"""Options of models that affect how they learn, but not the network itself."""

SMALL_PATCH = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
"""Options of the smaller of the two sizes in which `vit_patch` was published."""


def network(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that define the network itself, with those of its backbone in one dict."""
    plain = {key: value for key, value in options.items() if key != "backbone_options"}
    inner = options.get("backbone_options") or {}
    return {key: value for key, value in (plain | inner).items() if key not in LEARNING}


def changed(train: dict[str, Any]) -> dict[str, Any]:
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
    return changed(train) in ({}, SMALL_PATCH if train["model"] == "vit_patch" else {})


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
    apart, start = changed(train), train.get("pretrained")
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
