"""The systems with the settings that we think best, of which the list of wanted runs is made."""

from dataclasses import replace

from entries import Autoencoder, Entry, Refinement

from fer_lib.augment import Augmentation
from fer_lib.recipes import CNN_OURS

STRONG = Augmentation(
    flip=0.5, affine=1.0, rotate=12, translate=0.08, scale=(0.9, 1.15), erase=0.25
)
CNN = {"batch_size": 256, "lr": 4e-3, "warmup_epochs": 5, "flip_tta": True}
LONG_CNN = CNN | {"epochs": 80, "mixup": 0.2, "label_smoothing": 0.1, "augmentation": STRONG}
MUON = {"optimizer": "muon", "momentum": 0.95}
CNN_BY_MUON = MUON | {"epochs": 60, "lr": 0.008, "weight_decay": 0.02}
VIT_BY_MUON = MUON | {"lr": 2e-3}
THIN = CNN_BY_MUON | {
    **{"epochs": 18, "warmup_epochs": 3, "mixup": 0.2, "label_smoothing": 0.1},
    **{"ema_decay": 0.995, "augmentation": replace(STRONG, erase=0.1)},
}
DINOV2 = {"batch_size": 128, "lr": 3e-4, "options": {"backbone_options": {"drop_path_rate": 0.2}}}
SCRATCH = {"batch_size": 256, "flip_tta": True, "augmentation": STRONG}
STRONG_VIT = SCRATCH | VIT_BY_MUON | {"epochs": 60, "mixup": 0.2, "options": {"drop_path": 0.2}}

MAE = Autoencoder(
    "mae",
    "patches of 4 pixels, as vit_patch; its encoder (14 MB) fits into an archive of results",
    settings={
        **{"epochs": 200, "batch_size": 512, "lr": 3e-3, "warmup_epochs": 20},
        **{"patch_size": 4, "depth": 8},
    },
)
SMALL_MAE = Autoencoder(
    "mae, patches of 8",
    "a network that two cores without a GPU pretrain in less than an hour",
    settings={"epochs": 80, "batch_size": 256, "patch_size": 8, "depth": 6},
)
LONG_MAE = SMALL_MAE.variant("longer", "its loss still fell at the last epoch", {"epochs": 160})
LONGEST_MAE = SMALL_MAE.variant(
    "320 epochs", "160 epochs gave 3 points more than 80", {"epochs": 320}
)
MAE_OF_6 = Autoencoder(
    "mae, patches of 6",
    "the preset but longer, since of patches of 8 twice the epochs gave 3 points",
    settings={"epochs": 400},
)
MILD = {"mixup": 0.0, "flip_tta": True, "augmentation": CNN_OURS["augmentation"]}
SMALL = MILD | {"epochs": 20, "batch_size": 128, "warmup_epochs": 2}
MILD_VIT = MILD | {"epochs": 120, "batch_size": 256, "lr": 7e-4, "mixup": 0.1}
SMALL_SCRATCH = SMALL | {"lr": 5e-4, "layer_decay": 1.0}
SMALL_VIT = SMALL_MAE.config().classifier_options
START = {"backbone_options": SMALL_VIT["backbone_options"] | {"weight_init": "jax"}}
AS_VIT_SMALL = "as vit_small, except for the head, its losses and three equal channels"
VIT_SMALL = Entry(
    "vit_small",
    "vit_tiny's class on ViT-S/14; a batch of 128 fills the device, and the rate suits it",
    model="vit_tiny",
    settings=DINOV2,
    start="file",
)
GREFEL = Entry("grefel", AS_VIT_SMALL, model="grefel", settings=DINOV2, start="file")
VIT_MOE = Entry("vit_moe", AS_VIT_SMALL, model="vit_moe", settings=DINOV2, start="file")
ATTENTION = Entry(
    "attention_cnn",
    "a batch for the device, the rate by its square root; longer, so with mixup and erasing",
    model="attention_cnn",
    settings=LONG_CNN,
)
BASELINE = Entry(
    "baseline_cnn",
    "it lacks capacity rather than augmentation: only longer, with nothing stronger",
    model="baseline_cnn",
    settings=CNN | {"epochs": 100},
)
VIT_MAE = Entry(
    "vit_mae",
    "a small network on 48 pixels takes more epochs and a larger rate than a ViT-B",
    model="vit_mae",
    settings={
        **{"epochs": 60, "batch_size": 256, "lr": 1e-3, "warmup_epochs": 5},
        "options": {"backbone_options": {"drop_path_rate": 0.1}},
    },
    start="faces",
    needs=MAE,
)
VIT_MAE_OF_6 = VIT_MAE.variant(
    "patches of 6", "less than half of the tokens, so a longer pretraining", {}, needs=MAE_OF_6
)
VOTERS = Refinement(
    "voters",
    "by Muon, which needs few epochs: 101 minutes of two cores with bf16, partly beside tests",
    voters=(
        (ATTENTION, THIN | {"options": {"width": 32, "attention": "none"}}),
        (replace(ATTENTION, seed=1), THIN | {"epochs": 14, "options": {"width": 32}}),
        (replace(BASELINE, seed=2), THIN),
    ),
    folds=3,
)
SMALL_VIT_PATCH = Entry(
    "vit_patch, patches of 8",
    "the smaller published size; milder draws, a smaller rate and a wider start, see the log",
    model="vit_patch",
    settings=MILD
    | {
        **{"epochs": 45, "lr": 5e-4, "warmup_epochs": 1},
        "options": {
            **{"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4},
            **{"drop_path": 0.0, "weight_init": "jax"},
        },
    },
)
SMALL_VIT_TINY = Entry(
    "vit_tiny, patches of 8",
    "as the vit_mae from scratch, but with a head of three layers and four times the epochs",
    model="vit_tiny",
    settings=SMALL_SCRATCH | {"epochs": 80, "options": START | {"img_size": SMALL_VIT["img_size"]}},
)
SMALL_VIT_MAE = Entry(
    "vit_mae, patches of 8",
    "what does pretraining on the faces give to a small network?",
    model="vit_mae",
    settings=SMALL | {"lr": 1e-3},
    start="faces",
    needs=SMALL_MAE,
)
LONG_VIT_MAE = SMALL_VIT_MAE.variant(
    "longer pretraining", "only the encoder differs", {}, needs=LONG_MAE
)
SHORT_VIT_MOE = VIT_MOE.variant(
    "10 epochs", "half as long, for two cores without a GPU", {"epochs": 10}
)
