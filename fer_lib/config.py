"""All settings of a training except the data: `TrainConfig`."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Self, get_args, get_origin

from fer_lib.augment import Augmentation
from fer_lib.data.refined import LABELS
from fer_lib.files import InputError

PRESETS = ("sample", "quick", "full")
RECIPE_NAMES = ("published", "ours", "finetune")
CHOICES = {
    "recipe": RECIPE_NAMES,
    "preset": PRESETS,
    "schedule": ("cosine", "plateau", "constant"),
    "plateau_metric": ("valid_accuracy", "valid_loss"),
    "precision": ("auto", "bf16", "fp16", "no"),
}
"""The values that a setting may have."""
RANGES: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "0 or more and below 2**32": (lambda x: 0 <= x < 2**32, ("seed",)),
    "above 0": (lambda x: x > 0, ("epochs", "batch_size", "accumulate", "lr")),
    "0 or more": (
        lambda x: x >= 0,
        (
            *("weight_decay", "momentum", "head_lr_scale", "frozen_layers", "warmup_epochs"),
            *("plateau_patience", "mixup", "cutmix"),
        ),
    ),
    "0 or more and below 1": (lambda x: 0 <= x < 1, ("label_smoothing", "ema_decay")),
    "above 0, at most 1": (lambda x: 0 < x <= 1, ("layer_decay",)),
    "above 0, below 1": (lambda x: 0 < x < 1, ("plateau_factor",)),
    "1 or more, or null": (lambda x: x is None or x >= 1, ("limit", "patience")),
    "above 0, or null": (lambda x: x is None or x > 0, ("clip_grad",)),
}
"""Range of numbers, as error messages name it -> whether it contains a value; its settings."""

GONE = {"logit_adjustment": 0.0, "holes": 4, "hole": 0.125}
"""Settings of earlier versions, with the only value that runs had; two of the augmentation."""


class Settings:
    """Base class of dataclasses of settings: converts them to plain values and back.

    Attributes:
        kind: what error messages call the settings, such as "training".
        besides: what the message on an unknown setting ends with.
    """

    kind, besides = "", ""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON has them, so that lists and tuples give the same dict."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make settings from what `to_dict` returned; missing fields keep their defaults.

        Raises:
            InputError: a field is unknown, a value has a wrong type or is not allowed, or settings
                contradict each other.
        """
        values = without_gone(values)
        cls.check_types(values)
        if "augmentation" in values:
            values = values | {"augmentation": read_augmentation(values["augmentation"])}
        return cls(**values)

    @classmethod
    def check_types(cls, values: dict[str, Any]) -> None:
        """Raise InputError if a field is unknown, or a value does not have its field's type."""
        types = {one.name: one.type for one in fields(cls)}
        if unknown := values.keys() - types:
            names = ", ".join(sorted(unknown))
            raise InputError(f"unknown {cls.kind} setting: {names}{cls.besides}")
        for name, value in values.items():
            if not fits(value, types[name]):
                raise InputError(f"{name}={value!r} is not of the type {types[name]}")


@dataclass(frozen=True)
class TrainConfig(Settings):
    """All settings of a training except the data; equal configs on equal data are the same run.

    Attributes:
        model: name of the model (`fer_lib.models.MODULES`).
        recipe: "published", "ours" or "finetune", the recipe that the values below come from.
        preset: "sample", "quick" or "full", the preset that they come from.
        seed: determines initial weights, batches, augmentation and dropout.
        options: keyword arguments of the model's constructor.
        pretrained: what the weights start from: False (at random), True (from the backbone's hub),
            or a safetensors file, of the backbone or of a finished run.
        labels: training targets: "original", "votes", or "refined_<rule>", with ":soft" for the
            rule's soft labels (`fer_lib.refine`); validation and test keep their own labels.
        limit: number of training images, drawn once by the seed; None for all.
        epochs: passes over the training images.
        batch_size: images in one optimizer step, over all processes.
        accumulate: number of parts that a batch is split into, one after the other, to save memory.
        optimizer: "adamw", "sgd", or another of timm's names; its "muon" has no Nesterov momentum
            ("nmuon" has) and also trains the classifier.
        lr: largest learning rate.
        weight_decay: decay of weights with two dimensions or more; norms, biases and what a model's
            `no_weight_decay()` names have none.
        momentum: momentum of the optimizers that have one, such as "sgd" and "muon".
        head_lr_scale: learning rate of the classifier, as a multiple of `lr`.
        layer_decay: factor on the learning rate for each layer away from the head.
        frozen_layers: number of layers, from the input on, that are not trained. In a ViT, layer 0
            is the embedding of patches and positions, layer 1 the first block; in a CNN, layer 0 is
            the first stage.
        unfreeze_every: gradual unfreezing (https://arxiv.org/abs/1801.06146): each time this many
            epochs have passed, the last frozen layer is trained too; None: never.
        schedule: "cosine" (to zero), "plateau" (of `plateau_metric`) or "constant".
        warmup_epochs: epochs of linear warm-up.
        plateau_metric: "valid_accuracy" or "valid_loss".
        plateau_factor: factor on the learning rate at a plateau.
        plateau_patience: epochs without improvement that "plateau" tolerates.
        patience: epochs without a better validation accuracy before training stops; None: never.
        clip_grad: largest norm of the gradient; None: no clipping.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weight classes by inverse frequency.
        mixup, cutmix: alpha of the Beta distribution; 0: none.
        ema_decay: largest decay of the moving average of the weights; 0: none. The average is then
            what is validated and kept, and the accuracy of the weights themselves is recorded too.
        ema_warmup: let the decay of step n be at most 1 - n^(-2/3) (timm's `ModelEmaV3`), so that
            the average forgets the first weights; 0.999 is then reached after 31,623 steps.
        flip_tta: average the predictions for an image and its mirror image.
        augmentation: what is drawn at random for each training image.
        precision: "bf16", "fp16", "no" (float32; a GPU may train convolutions in TF32), or "auto":
            bf16 if the device computes in it (see `fer_lib.device.choose_precision`).
        compile: run the model through torch.compile (no faster on the CPUs tried).
        cuda_graph: on one NVIDIA GPU, record a training step once and replay it: the same up to
            rounding, and faster if kernels are small. This needs adamw in bf16 or float32, no
            `unfreeze_every`, and shapes known beforehand (unlike vit_moe's); otherwise, steps run
            as written.
    """

    model: str
    recipe: str = "ours"
    preset: str = "full"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool | str = False
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
    frozen_layers: int = 0
    unfreeze_every: int | None = None
    schedule: str = "cosine"
    warmup_epochs: float = 0
    plateau_metric: str = "valid_accuracy"
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    patience: int | None = None
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    class_weights: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    ema_warmup: bool = True
    flip_tta: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"
    compile: bool = False
    cuda_graph: bool = True

    kind = "training"
    besides = (
        "; those of the model go into options={…}, those of the augmentation into augmentation={…}"
    )

    def __post_init__(self):
        for name in CHOICES:
            require_choice(name, getattr(self, name))
        if self.labels not in ("original", "votes") and not LABELS.fullmatch(self.labels):
            raise InputError(
                f"labels is original, votes, refined_RULE or refined_RULE:soft, not {self.labels!r}"
            )
        for name in sorted(self.options.keys() & {"name", "num_classes", "pretrained"}):
            raise InputError(
                f"{name} is no option of a model: the classes are those of the data, and model and "
                "pretrained are settings of their own"
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value}")
        for bounds, (contains, names) in RANGES.items():
            for name in names:
                if not contains(getattr(self, name)):
                    raise InputError(f"{name} must be {bounds}, not {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size}"
            )
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warm-up epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})"
            )
        if self.unfreeze_every is not None and (self.unfreeze_every < 1 or not self.frozen_layers):
            raise InputError(
                f"unfreeze_every={self.unfreeze_every} must be 1 or more, or null, and "
                "needs frozen_layers above 0"
            )

    @property
    def may_record(self) -> bool:
        """Whether these settings allow recording a training step as a CUDA graph."""
        return self.cuda_graph and self.optimizer == "adamw" and not self.unfreeze_every

    def frozen_at(self, epoch: int) -> int:
        """Return the number of frozen layers in an epoch; epochs are counted from 0."""
        thawed = epoch // self.unfreeze_every if self.unfreeze_every else 0
        return max(0, self.frozen_layers - thawed)


def require_choice(name: str, value: Any) -> None:
    """Raise InputError if a setting has a value that is not in its `CHOICES`."""
    if value not in CHOICES[name]:
        raise InputError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}")


def without_gone(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those of `GONE`, which equal settings of earlier versions have.

    Raises:
        InputError: one of them has another value than runs had.
    """
    for name in values.keys() & GONE.keys():
        if values[name] != GONE[name]:
            raise InputError(
                f"{name}={values[name]!r} was a setting of earlier versions; this one always "
                f"computes with {GONE[name]}: leave it out"
            )
    return {name: value for name, value in values.items() if name not in GONE}


def read_augmentation(values: dict[str, Any] | Augmentation) -> Augmentation:
    """Return an augmentation, made from a dict of its settings if it is one.

    Raises:
        InputError: the dict has an unknown setting or a value that is not allowed.
    """
    if isinstance(values, Augmentation):
        return values
    values = without_gone(values)
    try:
        ranges = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Augmentation(**values | ranges)
    except TypeError as error:
        raise InputError(
            f"augmentation={values} does not fit the settings of Augmentation ({error})"
        ) from None


def changed_augmentation(before: Augmentation, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an augmentation, some of them changed.

    Raises:
        InputError: `changes` is empty, as if it switched the augmentation off.
    """
    if not changes:
        raise InputError(
            "augmentation={} changes nothing: name what to change, as in "
            '{"flip": 0, "affine": 0, "crop": [1, 1], "photometric": 0, "erase": 0}'
        )
    return asdict(before) | changes


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value, which may come from JSON, has an annotated type.

    An int counts as a float, a list as a tuple, and a dict as an `Augmentation`.
    """
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = [get_origin(kind) or kind for kind in kinds]
    if isinstance(value, bool):
        return bool in kinds
    wider = {float: (int, float), tuple: (list, tuple), Augmentation: (dict, Augmentation)}
    return any(isinstance(value, wider.get(kind, kind)) for kind in kinds)
