"""Recipes of all models, as published and our own, their shorter presets, and changes to them."""

from pathlib import Path
from typing import Any

from fer_lib.augment import Augmentation
from fer_lib.config import TrainConfig, changed_augmentation
from fer_lib.data.loading import SAMPLE
from fer_lib.files import InputError
from fer_lib.models import MODULES


def default_preset(dataset: str) -> str:
    """Return the default preset: "sample" for drawn faces, else "quick", not hours of training."""
    return "sample" if SAMPLE.fullmatch(dataset) else "quick"


CNN_PUBLISHED = {
    "epochs": 50,
    "schedule": "plateau",
    "patience": 10,
    "clip_grad": 1.0,
    "class_weights": True,
    "augmentation": Augmentation(
        flip=0.5, affine=0.7, rotate=15, translate=0.1, scale=(0.85, 1.15), photometric=0.5,
        brightness=0.2, contrast=0.2, noise=0.2, dropout=0.3,
    ),
}  # fmt: skip
# The published runs underfitted. So: a larger learning rate with warm-up and cosine, a moving
# average, milder augmentation, and no class weights, which trade accuracy for rare classes.
CNN_OURS = {
    "epochs": 30,
    "lr": 2e-3,
    "weight_decay": 0.02,
    "warmup_epochs": 3,
    "clip_grad": 1.0,
    "label_smoothing": 0.05,
    "ema_decay": 0.998,
    "augmentation": Augmentation(
        flip=0.5, affine=0.8, rotate=10, translate=0.06, scale=(0.95, 1.1)
    ),
}
SCRATCH_PUBLISHED = {
    "epochs": 100,
    "lr": 5e-4,
    "weight_decay": 0.01,
    "warmup_epochs": 5,
    "label_smoothing": 0.05,
    "options": {"dropout": 0.15},
    "augmentation": Augmentation(
        flip=0.5, affine=0.7, rotate=10, translate=0.05, scale=(0.9, 1.1), crop=(0.85, 1.0),
        photometric=0.5, brightness=0.2, contrast=0.2, erase=0.25,
    ),
}  # fmt: skip
# First, to fit the faces: initial weights of wider spread and the milder augmentation of the CNNs,
# with which vit_cnn learned sooner (benchmarks/log.md). Later, against overfitting to 28,709
# faces: stochastic depth and mixup, not dropout, ten times the weight decay, and a moving average.
SCRATCH_OURS = SCRATCH_PUBLISHED | {
    "batch_size": 128,
    "weight_decay": 0.1,
    "clip_grad": 1.0,
    "mixup": 0.2,
    "ema_decay": 0.999,
    "options": {"drop_path": 0.1, "weight_init": "jax"},
    "augmentation": CNN_OURS["augmentation"],
}
# Fine-tuning as in https://arxiv.org/abs/2106.08254: each layer learns more slowly than the one
# after it, so that pretrained weights are adapted rather than overwritten.
FINE_TUNING = {
    "pretrained": True,
    "epochs": 20,
    "batch_size": 64,
    "lr": 2e-4,
    "weight_decay": 0.05,
    "layer_decay": 0.75,
    "warmup_epochs": 2,
    "clip_grad": 1.0,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "ema_decay": 0.999,
    "flip_tta": True,
    "options": {"backbone_options": {"drop_path_rate": 0.1}},
    "augmentation": Augmentation(
        flip=0.5, affine=0.8, rotate=10, translate=0.06, scale=(0.95, 1.1), erase=0.25
    ),
}
MAE_PUBLISHED = {
    "pretrained": True,
    "epochs": 80,
    "lr": 3e-5,
    "head_lr_scale": 5.0,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "frozen_layers": 5,
    "mixup": 0.2,
    "ema_decay": 0.999,
    "ema_warmup": False,
    "flip_tta": True,
    "augmentation": Augmentation(flip=0.5, crop=(0.8, 1.0)),
}
MOE_PUBLISHED = {
    "pretrained": True,
    "epochs": 5,
    "batch_size": 32,
    "lr": 1e-5,
    "weight_decay": 0.01,
    "schedule": "plateau",
    "plateau_metric": "valid_loss",
    "plateau_factor": 0.2,
    "plateau_patience": 2,
    "options": {"balance": 0.0, "z": 0.0},  # the published network had no loss for its router
    "augmentation": Augmentation(
        flip=0.5, affine=1.0, rotate=10, translate=0.1, scale=(0.9, 1.1), photometric=1.0,
        brightness=0.2, contrast=0.2,
    ),
}  # fmt: skip
GREFEL_PUBLISHED = {
    "pretrained": True,
    "epochs": 150,
    "lr": 5e-5,
    "weight_decay": 0.005,
    "warmup_epochs": 5,
    "label_smoothing": 0.11,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema_decay": 0.9999,
    "ema_warmup": False,
    "options": {"dropout": 0.15},
    "augmentation": Augmentation(flip=0.5, affine=0.5, rotate=10, translate=0.05, erase=0.25),
}
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("baseline_cnn", "published"): CNN_PUBLISHED,
    # Less dropout than published (0.5, 0.3): such a small network lacks capacity, not noise.
    ("baseline_cnn", "ours"): CNN_OURS | {"options": {"dropout": [0.2, 0.1]}},
    ("attention_cnn", "published"): CNN_PUBLISHED | {"options": {"attention": "published"}},
    ("attention_cnn", "ours"): CNN_OURS | {"weight_decay": 0.05},
    ("vit_patch", "published"): SCRATCH_PUBLISHED,
    ("vit_patch", "ours"): SCRATCH_OURS,
    ("vit_cnn", "published"): SCRATCH_PUBLISHED,
    ("vit_cnn", "ours"): SCRATCH_OURS,
    ("vit_tiny", "published"): CNN_PUBLISHED
    | {"pretrained": True, "lr": 5e-5, "patience": 20, "warmup_epochs": 5},
    ("vit_tiny", "ours"): FINE_TUNING,
    ("vit_mae", "published"): MAE_PUBLISHED,
    # The encoder of a masked autoencoder has never learned to classify, so it needs longer.
    ("vit_mae", "ours"): FINE_TUNING | {"epochs": 30, "warmup_epochs": 3},
    ("vit_moe", "published"): MOE_PUBLISHED,
    ("vit_moe", "ours"): FINE_TUNING,
    ("grefel", "published"): GREFEL_PUBLISHED,
    # Each branch has its own loss too, or the surest one takes the weight and all of the gradient.
    ("grefel", "ours"): FINE_TUNING | {"options": FINE_TUNING["options"] | {"branch_weight": 0.3}},
    # Starts from a finished run of grefel, on the same data or on other data.
    ("grefel", "finetune"): GREFEL_PUBLISHED
    | {
        "epochs": 50,
        "lr": 2e-5,
        "weight_decay": 0.007,
        "warmup_epochs": 2,
        "options": {"dropout": 0.18},
    },
}
QUICK = {"epochs": 3, "limit": 8192, "ema_warmup": True}
LIGHT = Augmentation(flip=0.5, affine=0.5, rotate=10, translate=0.05)
SMALL = {
    "epochs": 12,
    "batch_size": 64,
    "ema_decay": 0.99,
    "ema_warmup": True,
    "mixup": 0.0,
    "augmentation": LIGHT,
}
SMALL_SCRATCH = SMALL | {"lr": 1e-3, "options": {"embed_dim": 96, "depth": 2, "num_heads": 3}}
# The same networks, small enough for two cores. As they start from random weights, they have a
# larger learning rate, which is that of vit_patch and vit_cnn in this preset.
SMALL_BACKBONE = SMALL | {
    "pretrained": False,
    "lr": 1e-3,
    "layer_decay": 1.0,
    "head_lr_scale": 1.0,
    "frozen_layers": 0,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "patience": None,
    "cutmix": 0.0,
    "options": {
        "img_size": 48,
        "in_chans": 1,
        "backbone_options": {"patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3},
    },
}
SHORTER: dict[tuple[str, ...], dict[str, Any]] = {
    ("baseline_cnn", "sample"): {"epochs": 24, "options": {"width": 32}},
    ("attention_cnn", "sample"): {"epochs": 12, "options": {"width": 24}},
    ("vit_patch", "sample"): SMALL_SCRATCH,
    ("vit_cnn", "sample"): SMALL_SCRATCH,
    ("vit_tiny", "sample"): SMALL_BACKBONE,
    ("vit_mae", "sample"): SMALL_BACKBONE,
    ("vit_moe", "sample"): SMALL_BACKBONE,
    ("grefel", "sample"): SMALL_BACKBONE,
    ("grefel", "sample", "finetune"): SMALL_BACKBONE | {"epochs": 4, "lr": 2e-4},
    **{(model, "quick"): QUICK for model in MODULES},
}
"""(model, preset) -> what the short preset changes in all recipes; with a recipe: in this one."""


def recipe(model: str, name: str = "ours", preset: str = "full", **overrides: Any) -> TrainConfig:
    """Return the recipe of a model, shortened by a preset and changed by `overrides`.

    `options`, `backbone_options` in them, and an augmentation given as a dict change only what they
    name. But another `backbone` drops the `backbone_options` and `img_size` of a preset.

    Raises:
        InputError: there is no such model, recipe, preset or setting, or settings contradict each
            other.
    """
    if (model, name) not in RECIPES:
        every = ", ".join(f"{key[1]} {key[0]}" for key in RECIPES)
        raise InputError(f"there is no recipe {name!r} of {model!r}; there are {every}")
    if "recipe" in overrides:
        raise InputError("recipe is not a setting to change: choose a recipe by its name")
    TrainConfig.check_types(overrides)
    shorter = dict(SHORTER.get((model, preset, name), SHORTER.get((model, preset), {})))
    values = dict(RECIPES[model, name])
    plain, small, own = (one.pop("options", {}) for one in (values, shorter, overrides))
    known = plain | small
    if "backbone" in own and "backbone_options" in small:
        known = {key: known[key] for key in known if key not in ("backbone_options", "img_size")}
    options = merged_options(known, own)
    values |= shorter | overrides
    if isinstance(draws := overrides.get("augmentation"), dict):
        before = (RECIPES[model, name] | shorter).get("augmentation", Augmentation())
        values["augmentation"] = changed_augmentation(before, draws)
    if "warmup_epochs" not in overrides:
        values["warmup_epochs"] = min(values.get("warmup_epochs", 0), values["epochs"] / 5)
    return TrainConfig.from_dict(
        {"model": model, "recipe": name, "preset": preset, "options": options, **values}
    )


def merged_options(*parts: dict[str, Any]) -> dict[str, Any]:
    """Merge options of a model; later parts take precedence, also within `backbone_options`."""
    options, inner = {}, {}
    for part in parts:
        options |= part
        if isinstance(known := part.get("backbone_options"), dict):
            inner |= known
            options["backbone_options"] = dict(inner)
    return options


OF_WEIGHTS = ("attention", "backbone_options")
"""Options of recipes that decide which weights a network has, so a fine-tuning keeps the run's."""

OWN_STARTS = {
    "best.safetensors": "run",
    "encoder.safetensors": "pretraining",
    "autoencoder.safetensors": "pretraining",
}


def own_start(pretrained: str | bool) -> str | None:
    """Return by its name what wrote a weights file, "run" or "pretraining"; None for others."""
    return OWN_STARTS.get(Path(pretrained).name) if isinstance(pretrained, str) else None
