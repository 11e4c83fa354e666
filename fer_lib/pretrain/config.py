"""All settings of a pretraining except the data: `PretrainConfig`, and its presets."""

import json
import math
import shlex
from dataclasses import dataclass, field, fields
from typing import Any

from fer_lib.augment import Augmentation
from fer_lib.config import Settings, TrainConfig, changed_augmentation
from fer_lib.files import InputError

BACKBONE = "vit_tiny_patch16_224"
"""timm's name of the ViT that is the encoder, at other sizes; both take inputs from -1 to 1."""

LR_OF_256 = 2e-3
"""Learning rate for a batch of 256 images; it grows with the batch size, as in the paper.

The paper's is 1.5e-4, for a wider network and batches of 4096; FER2013 has seven such batches.
"""


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """All settings of a pretraining except the data.

    Equal settings on equal data are the same pretraining.

    Attributes:
        preset: "sample", "quick" or "full", a name for the values below.
        seed: seed of the initial weights, batches, augmentation and masks.
        limit: number of training images to use, drawn once by the seed; None for all.
        epochs: number of passes over the training images.
        batch_size: number of images in one optimizer step.
        lr: largest learning rate, reached by a linear warm-up and lowered to 0 by a cosine.
        weight_decay: decay of weights with two dimensions or more; norms and biases have none.
        warmup_epochs: epochs of linear warm-up.
        mask_ratio: share of the patches that the encoder does not see.
        norm_pix_loss: predict each patch minus its mean, divided by its standard deviation.
        img_size: side of the grey input image, pixels.
        patch_size: side of a patch, pixels.
        embed_dim, depth, num_heads: sizes of the encoder, as timm names them; its MLPs are 4 times
            as wide as `embed_dim`.
        decoder_dim, decoder_depth, decoder_heads: the same sizes of the decoder.
        augmentation: random changes to each training image.
        precision: "bf16", "fp16", "no" (float32), or "auto", as in `TrainConfig`.
        cuda_graph: record a step and replay it, as in `TrainConfig`; the pretraining counts as the
            same with and without it.
    """

    preset: str = "full"
    seed: int = 0
    limit: int | None = None
    epochs: int = 200
    batch_size: int = 256
    lr: float = LR_OF_256
    weight_decay: float = 0.05
    warmup_epochs: float = 10
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    img_size: int = 48
    patch_size: int = 6
    embed_dim: int = 192
    depth: int = 6
    num_heads: int = 6
    decoder_dim: int = 96
    decoder_depth: int = 2
    decoder_heads: int = 4
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(flip=0.5, crop=(0.6, 1.0))
    )
    precision: str = "auto"
    cuda_graph: bool = field(default=True, compare=False)

    kind = "pretraining"

    def __post_init__(self):
        _ = self.training  # refuses wrong values of the settings that every training has
        for name in ("patch_size", "depth", "decoder_depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.img_size < 1 or self.img_size % self.patch_size:
            raise InputError(f"patch_size={self.patch_size} must divide img_size={self.img_size}")
        for dim, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_heads")):
            width, parts = getattr(self, dim), getattr(self, heads)
            if parts < 1 or width < 1 or width % parts or width % 4:
                raise InputError(f"{dim}={width} must be a multiple of {heads}={parts} and of 4")
        require_mask_ratio(self.mask_ratio, self.patches)

    @property
    def training(self) -> TrainConfig:
        """The settings that a pretraining shares with every training."""
        names = {f.name for f in fields(self)} & {f.name for f in fields(TrainConfig)}
        return TrainConfig(model="vit_mae", **{name: getattr(self, name) for name in names})

    @property
    def patches(self) -> int:
        """Number of patches in one image."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def classifier_options(self) -> dict[str, Any]:
        """Options of `create_model("vit_mae", ...)` for a classifier on the encoder."""
        names = ("patch_size", "embed_dim", "depth", "num_heads")
        sizes = {name: getattr(self, name) for name in names}
        outside = {"img_size": self.img_size, "in_chans": 1}
        return {"backbone": BACKBONE, **outside, "backbone_options": sizes}

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Size, mean and standard deviation of the input, for `fer_lib.augment.Prepare`."""
        return {"input_size": (1, self.img_size, self.img_size), "mean": (0.5,), "std": (0.5,)}


def require_mask_ratio(ratio: float, patches: int) -> None:
    """Raise InputError if masking a share of the patches hides none or leaves none visible."""
    seen = patches * (1 - ratio)  # if this is NaN, it fails the comparison below
    if not (1 <= seen < math.inf and int(seen) < patches):
        raise InputError(f"mask_ratio={ratio} must hide some of the {patches} patches, not all")


PRETRAINING: dict[str, dict[str, Any]] = {
    "sample": {
        "epochs": 12,
        "batch_size": 32,
        "lr": 3e-3,
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 4,
        "decoder_dim": 48,
        "decoder_depth": 1,
    },
    "quick": {"epochs": 10, "batch_size": 128, "limit": 8192, "embed_dim": 128, "num_heads": 4},
    "full": {},
}
"""What each preset changes in `PretrainConfig`."""


def pretraining(preset: str = "full", **overrides: Any) -> PretrainConfig:
    """Return the settings of a preset, changed by `overrides`.

    Unless the preset or `overrides` contain them, the learning rate is `LR_OF_256` times
    batch_size / 256, and the warm-up takes at most a tenth of the epochs.

    Args:
        overrides: fields of `PretrainConfig`. A dict for `augmentation` changes only its own keys.

    Raises:
        InputError: there is no such preset or setting, or settings contradict each other.
    """
    if preset not in PRETRAINING:
        raise InputError(f"preset is one of {', '.join(PRETRAINING)}, not {preset!r}")
    values = PRETRAINING[preset] | overrides
    if isinstance(draws := overrides.get("augmentation"), dict):
        before = PretrainConfig().augmentation
        values["augmentation"] = changed_augmentation(before, draws)
    config = PretrainConfig.from_dict({"warmup_epochs": 0, **values, "preset": preset})
    derived = {
        "lr": LR_OF_256 * config.batch_size / 256,
        "warmup_epochs": min(PretrainConfig.warmup_epochs, config.epochs / 10),
    }
    return PretrainConfig.from_dict(config.to_dict() | derived | values)


def pretraining_command(config: PretrainConfig, dataset: str) -> str:
    """Return the shell command that pretrains with this config; DIR is the folder of the data."""
    apart = ("preset", "seed", "cuda_graph")
    after = {key: value for key, value in config.to_dict().items() if key not in apart}
    plain = pretraining(config.preset).to_dict() | {k: after[k] for k in ("lr", "warmup_epochs")}
    free = {key: value for key, value in after.items() if value != plain[key]}
    derived = pretraining(config.preset, **free).to_dict()
    changed = free | {key: value for key, value in after.items() if value != derived[key]}
    words = ["--dataset", dataset, "--data-dir", "DIR", "--preset", config.preset]
    words += ["--seed", str(config.seed), *["--set"] * bool(changed)]
    words += [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in changed.items()]
    return shlex.join(["python", "-m", "fer_lib.pretrain", *words])
