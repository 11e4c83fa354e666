"""How each model is trained: `TrainConfig`, and the recipes as published and ours."""

import json
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin

from fer_lib.augment import Augmentation
from fer_lib.files import InputError

PRESETS = ("sample", "quick", "full")


def default_preset(dataset: str) -> str:
    """The preset where none is given: a first look, never hours of training by surprise."""
    return "sample" if dataset == "sample" else "quick"


@dataclass(frozen=True)
class TrainConfig:
    """Everything about a training but the data; equal configs on equal data are the same run.

    Attributes:
        model: name of the model (`fer_lib.models.MODULES`).
        recipe: "published" or "ours", a name for the values below.
        preset: "sample", "quick" or "full", likewise.
        seed: rules initial weights, batches, augmentation and dropout.
        options: keyword arguments of the model's constructor.
        labels: training targets, "original" or "votes"; validation and test keep their labels.
        limit: train on this many images, drawn once by the seed; None for all.
        epochs: passes over the training images.
        batch_size: images of one optimizer step, over all processes.
        accumulate: parts that a batch is split into, one after the other, to save memory.
        optimizer: "adamw", "sgd", or another of timm's names.
        lr: largest learning rate.
        weight_decay: on weights with two dimensions or more; norms and biases have none.
        momentum: of SGD.
        head_lr_scale: learning rate of the classifier as a multiple of `lr`.
        layer_decay: factor on the learning rate for each layer away from the head.
        frozen: names of modules or parameters that are not trained.
        unfreeze: (epoch, name) pairs: this one of `frozen` is trained from that epoch on, from 0.
        schedule: "cosine" (to zero), "plateau" (of the validation accuracy) or "constant".
        warmup_epochs: epochs of linear warm-up.
        plateau_factor, plateau_patience: of "plateau", patience in epochs.
        patience: epochs without a better validation accuracy before stopping; None: never.
        clip_grad: largest norm of the gradient; None: no clipping.
        label_smoothing: share of the target spread over all classes.
        class_weights: weight classes by inverse frequency.
        logit_adjustment: tau of the log-prior added to the logits in training.
        mixup, cutmix: alpha of the Beta distribution; 0: none.
        ema_decay: of the moving average of the weights, which is then what is validated and kept.
        augmentation: draws for each training image.
        precision: "bf16", "fp16", "no" (float32), or "auto": bf16 where the device computes in it.
        compile: run the model through torch.compile (slower on the CPUs tried).
    """

    model: str
    recipe: str = "ours"
    preset: str = "full"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    labels: str = "original"
    limit: int | None = None
    epochs: int = 30
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    head_lr_scale: float = 1.0
    layer_decay: float = 1.0
    frozen: tuple[str, ...] = ()
    unfreeze: tuple[tuple[int, str], ...] = ()
    schedule: str = "cosine"
    warmup_epochs: float = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    patience: int | None = None
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    class_weights: bool = False
    logit_adjustment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self):
        choices = {
            "recipe": ("published", "ours"),
            "preset": PRESETS,
            "labels": ("original", "votes"),
            "schedule": ("cosine", "plateau", "constant"),
            "precision": ("auto", "bf16", "fp16", "no"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        for name in ("epochs", "batch_size", "accumulate", "lr"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be 1 or more, not {self.limit}")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size}"
            )
        if self.warmup_epochs >= self.epochs:
            raise InputError(f"{self.warmup_epochs} warm-up epochs leave none of {self.epochs}")
        if self.class_weights and self.logit_adjustment:
            raise InputError(
                "class_weights and logit_adjustment both correct for rare classes: take one"
            )
        if loose := {name for _, name in self.unfreeze} - set(self.frozen):
            raise InputError(f"unfreeze names {sorted(loose)}, which frozen does not")

    def frozen_at(self, epoch: int) -> tuple[str, ...]:
        """Names that are frozen in an epoch, counted from 0."""
        free = {name for start, name in self.unfreeze if epoch >= start}
        return tuple(name for name in self.frozen if name not in free)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        """The same text for the same settings, whether they were lists or tuples."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Inverse of `to_dict`, also after a trip through JSON; missing fields keep the default.

        Raises:
            InputError: a field is unknown.
        """
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise InputError(f"unknown training setting: {', '.join(sorted(unknown))}")
        for one in fields(cls):
            if one.name in values and not fits(values[one.name], one.type):
                raise InputError(f"{one.name}={values[one.name]!r} is not of the type {one.type}")
        values = dict(values)
        values["frozen"] = tuple(values.get("frozen", ()))
        values["unfreeze"] = tuple(tuple(pair) for pair in values.get("unfreeze", ()))
        augmentation = values.get("augmentation", {})
        if isinstance(augmentation, dict):
            ranges = {
                key: tuple(augmentation[key]) for key in ("scale", "crop") if key in augmentation
            }
            try:
                values["augmentation"] = Augmentation(**augmentation | ranges)
            except TypeError as error:
                raise InputError(f"unknown augmentation setting ({error})") from None
        return cls(**values)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value, also one read from JSON, is of an annotated type."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = [get_origin(kind) or kind for kind in kinds]
    if isinstance(value, bool):
        return bool in kinds
    wider = {float: (int, float), tuple: (list, tuple), Augmentation: (dict, Augmentation)}
    return any(isinstance(value, wider.get(kind, kind)) for kind in kinds)


CNN_PUBLISHED = {
    "epochs": 50,
    "schedule": "plateau",
    "patience": 10,
    "clip_grad": 1.0,
    "class_weights": True,
    "augmentation": Augmentation(
        flip=0.5,
        affine=0.7,
        rotate=15,
        translate=0.1,
        scale=(0.85, 1.15),
        photometric=0.5,
        brightness=0.2,
        contrast=0.2,
        noise=0.2,
        dropout=0.3,
    ),
}
# No class weights (they trade accuracy for rare classes), a larger rate with warm-up and cosine, a
# moving average, and milder augmentation: the published runs underfitted.
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
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("baseline_cnn", "published"): CNN_PUBLISHED,
    # Less dropout than published (0.5, 0.3): so small a network is short of capacity, not of noise.
    ("baseline_cnn", "ours"): CNN_OURS | {"options": {"dropout": [0.2, 0.1]}},
    ("attention_cnn", "published"): CNN_PUBLISHED | {"options": {"attention": "published"}},
    ("attention_cnn", "ours"): CNN_OURS | {"weight_decay": 0.05},
}
QUICK = {"epochs": 3, "limit": 8192}
SHORTER: dict[tuple[str, str], dict[str, Any]] = {
    ("baseline_cnn", "sample"): {"epochs": 12},
    ("attention_cnn", "sample"): {"epochs": 12, "options": {"width": 24}},
    ("baseline_cnn", "quick"): QUICK,
    ("attention_cnn", "quick"): QUICK,
}
"""What the two short presets change in a recipe of a model."""


def recipe(model: str, name: str = "ours", preset: str = "full", **overrides: Any) -> TrainConfig:
    """Return the recipe of a model, shortened by a preset and changed by `overrides`.

    Raises:
        InputError: there is no such model, recipe, preset or setting, or settings contradict.
    """
    if (model, name) not in RECIPES:
        known = ", ".join(sorted({key[0] for key in RECIPES}))
        raise InputError(
            f"no recipe {name!r} of {model!r}: models are {known}, recipes published, ours"
        )
    shorter = dict(SHORTER.get((model, preset), {}))
    values = dict(RECIPES[model, name])
    options = values.pop("options", {}) | shorter.pop("options", {}) | overrides.pop("options", {})
    values |= shorter | overrides
    if "warmup_epochs" not in overrides:
        values["warmup_epochs"] = min(values.get("warmup_epochs", 0), values["epochs"] / 5)
    return TrainConfig.from_dict(
        {"model": model, "recipe": name, "preset": preset, "options": options, **values}
    )
