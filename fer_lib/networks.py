"""Which network a training has: its recipe's own, or another, and what that is called."""

import re
from typing import Any

from fer_lib.recipes import own_start, recipe

LEARNING = {
    *("dropout", "drop_path", "drop_path_rate", "weight_init"),
    *("spread_weight", "centre_weight", "branch_weight", "balance", "z"),
}
"""Options of models that say how one learns, and change nothing of the network itself."""

SMALL_PATCH = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
"""Options of the smaller of the two sizes in which `vit_patch` was published."""


def network(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a model that are of the network itself, those of its backbone among them."""
    plain = {key: value for key, value in options.items() if key != "backbone_options"}
    inner = options.get("backbone_options") or {}
    return {key: value for key, value in (plain | inner).items() if key not in LEARNING}


def changed(train: dict[str, Any]) -> dict[str, Any]:
    """What a training has changed in the network of its recipe; None for what only that has."""
    before = recipe(train["model"], train["recipe"], train["preset"]).to_dict()
    mine, plain = (network(one["options"]) for one in (train, before))
    return {key: mine.get(key) for key in mine | plain if mine.get(key) != plain.get(key)}


def same_network(train: dict[str, Any]) -> bool:
    """Whether a training has the network of its recipe, or one that was published besides.

    Args:
        train: settings as `TrainConfig.to_dict` gives them.
    """
    return changed(train) in ({}, SMALL_PATCH if train["model"] == "vit_patch" else {})


def taken_out(train: dict[str, Any]) -> list[str]:
    """The parts that a training leaves out of its network, to see what they add."""
    options = train["options"]
    parts = {"gates": options.get("attention") == "none", "experts": options.get("experts") == 1}
    return [name for name, out in parts.items() if out]


def backbone_name(name: str) -> str:
    """A timm name as papers call that network, "ViT-S/14 (DINOv2)"; others as they are."""
    match = re.fullmatch(r"vit_(tiny|small|base|large)_patch(\d+)_dinov2", name)
    return f"ViT-{match[1][0].upper()}/{match[2]} (DINOv2)" if match else name


def label(config: dict[str, Any]) -> str:
    """What the network of a run is called: its model, and what it is on, after or without.

    A backbone at sizes of its own says little by its name, so its depth is told.

    Args:
        config: of the run: `train`, and `pretraining` where its encoder comes from one.
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
