"""Everything about a training but the data: `TrainConfig`."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Self, get_args, get_origin

from fer_lib.augment import Augmentation
from fer_lib.data.refined import LABELS
from fer_lib.files import InputError

PRESETS = ("sample", "quick", "full")
RECIPE_NAMES = ("published", "ours", "finetune")


class Settings:
    """What every dataclass of settings has: plain values, and back from them if they fit.

    Attributes:
        kind: what an error calls them, and what it adds `besides`.
    """

    kind, besides = "", ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the same for the same settings, whether they were lists or tuples."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; missing fields keep the default.

        Raises:
            InputError: see `check_types`, or settings contradict.
        """
        cls.check_types(values)
        if "augmentation" in values:
            values = values | {"augmentation": read_augmentation(values["augmentation"])}
        return cls(**values)

    @classmethod
    def check_types(cls, values: dict[str, Any]) -> None:
        """Raise InputError where a field is unknown, or a value of another type than its field."""
        types = {one.name: one.type for one in fields(cls)}
        if unknown := values.keys() - types:
            names = ", ".join(sorted(unknown))
            raise InputError(f"unknown {cls.kind} setting: {names}{cls.besides}")
        for name, value in values.items():
            if not fits(value, types[name]):
                raise InputError(f"{name}={value!r} is not of the type {types[name]}")


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Everything about a training but the data; equal configs on equal data are the same run.

    Attributes:
        model: name of the model (`fer_lib.models.MODULES`).
        recipe: "published", "ours" or "finetune", a name for the values below.
        preset: "sample", "quick" or "full", likewise.
        seed: rules initial weights, batches, augmentation and dropout.
        options: keyword arguments of the model's constructor.
        pretrained: what the weights start from: False (at random), True (from the backbone's hub),
            or a safetensors file, of the backbone or of a finished run.
        labels: training targets: "original", "votes", or "refined_<rule>", with ":soft" for the
            soft ones of a rule (`fer_lib.refine`); validation and test keep their own labels.
        limit: train on this many images, drawn once by the seed; None for all.
        epochs: passes over the training images.
        batch_size: images of one optimizer step, over all processes.
        accumulate: parts that a batch is split into, one after the other, to save memory.
        optimizer: "adamw", "sgd", or another of timm's names.
        lr: largest learning rate.
        weight_decay: on weights with two dimensions or more; norms and biases have none.
        momentum: of the optimizers that have one, such as "sgd" and "muon".
        head_lr_scale: learning rate of the classifier as a multiple of `lr`.
        layer_decay: factor on the learning rate for each layer away from the head.
        frozen_layers: so many layers, from the input on, are not trained. Of a ViT, layer 0 is the
            embedding of patches and positions, layer 1 the first block; of a CNN the first stage.
        unfreeze_every: gradual unfreezing (https://arxiv.org/abs/1801.06146): after every so many
            epochs, the last of the frozen layers is trained too; None: never.
        schedule: "cosine" (to zero), "plateau" (of `plateau_metric`) or "constant".
        warmup_epochs: epochs of linear warm-up.
        plateau_metric: "valid_accuracy" or "valid_loss".
        plateau_factor, plateau_patience: of "plateau", patience in epochs.
        patience: epochs without a better validation accuracy before stopping; None: never.
        clip_grad: largest norm of the gradient; None: no clipping.
        label_smoothing: share of the target spread over all classes.
        class_weights: weight classes by inverse frequency.
        logit_adjustment: tau of the log-prior added to the logits in training.
        mixup, cutmix: alpha of the Beta distribution; 0: none.
        ema_decay: largest decay of the moving average of the weights, which is then what is kept;
            in step n it is at most 1 - n^(-2/3) (the warm-up of timm's `ModelEmaV3`).
            The weights themselves are validated beside it.
        flip_tta: a prediction is the mean of those of the image and of its mirror image.
        augmentation: draws for each training image.
        precision: "bf16", "fp16", "no" (float32), or "auto": bf16 where the device computes in it.
        compile: run the model through torch.compile (no faster on the CPUs tried).
        cuda_graph: on one NVIDIA GPU, record a training step once and replay it: the same up to
            rounding, sooner where kernels are small. That takes adamw in bf16 or float32, layers
            that stay frozen or free, and shapes known beforehand (not vit_moe's); without one of
            these, steps run as written.
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
    logit_adjustment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
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
        choices = {
            "recipe": RECIPE_NAMES,
            "preset": PRESETS,
            "schedule": ("cosine", "plateau", "constant"),
            "plateau_metric": ("valid_accuracy", "valid_loss"),
            "precision": ("auto", "bf16", "fp16", "no"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} is one of {', '.join(map(str, allowed))}, not {getattr(self, name)!r}"
                )
        if self.labels not in ("original", "votes") and not LABELS.fullmatch(self.labels):
            raise InputError(
                f"labels is original, votes, refined_RULE or refined_RULE:soft, not {self.labels!r}"
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be 0 or more and below 2**32, not {self.seed}")
        for name in ("epochs", "batch_size", "accumulate", "lr"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in (
            *("weight_decay", "momentum", "head_lr_scale", "warmup_epochs", "plateau_patience"),
            *("mixup", "cutmix", "frozen_layers"),
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be 0 or more and below 1, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be above 0, at most 1, not {self.layer_decay}")
        if not 0 < self.plateau_factor < 1:
            raise InputError(f"plateau_factor must be above 0, below 1, not {self.plateau_factor}")
        for name in ("limit", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, or null, not {getattr(self, name)}")
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise InputError(f"clip_grad must be above 0, or null, not {self.clip_grad}")
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
        if self.unfreeze_every is not None and (self.unfreeze_every < 1 or not self.frozen_layers):
            raise InputError(
                f"unfreeze_every={self.unfreeze_every} is a number of epochs, 1 or more, and needs "
                "frozen_layers"
            )

    @property
    def may_record(self) -> bool:
        """Whether these settings let a training step be recorded as a CUDA graph."""
        return self.cuda_graph and self.optimizer == "adamw" and not self.unfreeze_every

    def frozen_at(self, epoch: int) -> int:
        """Number of layers that are frozen in an epoch, counted from 0."""
        thawed = epoch // self.unfreeze_every if self.unfreeze_every else 0
        return max(0, self.frozen_layers - thawed)


def read_augmentation(values: dict[str, Any] | Augmentation) -> Augmentation:
    """An augmentation, also from a dict of its settings; InputError where they are none."""
    if isinstance(values, Augmentation):
        return values
    try:
        ranges = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Augmentation(**values | ranges)
    except TypeError as error:
        raise InputError(
            f"augmentation={values} does not fit the settings of Augmentation ({error})"
        ) from None


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value, also one read from JSON, is of an annotated type."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = [get_origin(kind) or kind for kind in kinds]
    if isinstance(value, bool):
        return bool in kinds
    wider = {float: (int, float), tuple: (list, tuple), Augmentation: (dict, Augmentation)}
    return any(isinstance(value, wider.get(kind, kind)) for kind in kinds)
