"""The list of wanted runs, most valuable first, which `campaign.py` prints and runs.

Change the list only here. A variant to try is one more entry, its name continued after a comma.
"""

from dataclasses import replace

from entries import Autoencoder, Entry, Refinement

from fer_lib.augment import Augmentation
from fer_lib.files import InputError
from fer_lib.recipes import CNN_OURS

STRONG = Augmentation(
    flip=0.5, affine=1.0, rotate=12, translate=0.08, scale=(0.9, 1.15), erase=0.25
)
CNN = {"batch_size": 256, "lr": 4e-3, "warmup_epochs": 5, "flip_tta": True}
LONG_CNN = CNN | {"epochs": 80, "mixup": 0.2, "label_smoothing": 0.1, "augmentation": STRONG}
MUON = {"epochs": 60, "optimizer": "muon", "lr": 0.008, "momentum": 0.95, "weight_decay": 0.02}
THIN = MUON | {
    **{"epochs": 18, "warmup_epochs": 3, "mixup": 0.2, "label_smoothing": 0.1},
    **{"ema_decay": 0.995, "augmentation": replace(STRONG, erase=0.1)},
}
DINOV2 = {"batch_size": 128, "lr": 3e-4, "options": {"backbone_options": {"drop_path_rate": 0.2}}}
SCRATCH = {"batch_size": 256, "flip_tta": True, "augmentation": STRONG}
LONG_VIT = SCRATCH | {"epochs": 120, "lr": 7e-4, "mixup": 0.2, "options": {"drop_path": 0.2}}

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
FIRST = (
    VIT_SMALL,
    GREFEL,
    VIT_MOE,
    VOTERS,
    GREFEL.variant(
        "FERPlus",
        "eight classes, learned from the votes, which are soft already: no smoothing",
        {"label_smoothing": 0.0},
        dataset="ferplus",
        labels="votes",
    ),
    ATTENTION,
    BASELINE,
    MAE,
    VIT_MAE,
    Entry(
        "vit_cnn",
        "the milder run memorised its faces: stronger augmentation, more stochastic depth",
        model="vit_cnn",
        settings=LONG_VIT,
    ),
    Entry(
        "vit_patch",
        "as vit_cnn, so that only the stem differs",
        model="vit_patch",
        settings=LONG_VIT,
    ),
    Entry(
        "vit_tiny",
        "random lower layers have nothing that a small rate would protect: one rate for all",
        model="vit_tiny",
        settings=SCRATCH
        | {"epochs": 50, "warmup_epochs": 5, "lr": 1e-3, "mixup": 0.4, "layer_decay": 1.0},
    ),
    VIT_SMALL.variant(
        "224 pixels",
        "does resolution limit it? 256 tokens in place of 64, four times the work",
        {"options": DINOV2["options"] | {"img_size": 224}},
    ),
)
"""Every system with the settings that we think best, and what may improve the best of them."""

SEEDS, BEST = (1, 2), 4
"""Further seeds, and how many systems get them: the best of `FIRST` on FER2013 validation."""

LATER = (
    *(
        Entry(f"{model}, published", "for the comparison", model=model, recipe="published")
        for model in ("baseline_cnn", "attention_cnn")
    ),
    ATTENTION.variant(
        "no gates",
        "what does attention add? The same without it",
        {"options": {"attention": "none"}},
    ),
    ATTENTION.variant(
        "muon",
        "the optimizer with which `speedrun.py` takes a thinner network to 65.8 % on validation",
        MUON,
    ),
    GREFEL.variant("40 epochs", "validation still rose at the last of 20", {"epochs": 40}),
    BASELINE.variant(
        "mixup",
        "without mixup it fitted its training images better than others",
        {"mixup": 0.2},
    ),
    ATTENTION.variant(
        "no erasing",
        "with it and mixup, training accuracy was hardly above validation after 80 epochs",
        {"augmentation": replace(STRONG, erase=0.0)},
    ),
    *(
        Entry(
            f"{model}, milder",
            "a small vit_patch learned sooner with milder draws, a smaller rate and a wider start",
            model=model,
            settings=MILD_VIT | {"options": {"weight_init": "jax"}},
        )
        for model in ("vit_cnn", "vit_patch")
    ),
    Entry(
        "vit_tiny, patches of 6",
        "at the native 48 pixels, with a third of the tokens, and so twice as long",
        model="vit_tiny",
        settings=MILD_VIT
        | {
            **{"layer_decay": 1.0, "warmup_epochs": 5},
            "options": {
                **{"img_size": 48, "in_chans": 1},
                "backbone_options": {"patch_size": 6, "weight_init": "jax"},
            },
        },
    ),
    Entry(
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
    ),
    SHORT_VIT_MOE,
    SMALL_MAE,
    SMALL_VIT_MAE,
    SMALL_VIT_MAE.variant(
        "mixup",
        "without mixup and erasing its accuracy was level from the 13th epoch on",
        {"mixup": 0.2, "augmentation": STRONG},
    ),
    Entry(
        "vit_mae, patches of 8, from scratch",
        "the same network from a random start, with the rate and layer decay that suit it",
        model="vit_mae",
        settings=SMALL_SCRATCH | {"options": SMALL_VIT | START},
    ),
    LONG_MAE,
    LONG_VIT_MAE,
    LONGEST_MAE,
    SMALL_VIT_MAE.variant("320 epochs", "only the encoder differs", {}, needs=LONGEST_MAE),
    MAE_OF_6,
    VIT_MAE_OF_6,
    VIT_MAE_OF_6.variant(
        "milder", "what was best after patches of 8, but longer", SMALL | {"lr": 1e-3, "epochs": 30}
    ),
    Entry(
        "vit_tiny, patches of 8",
        "as the vit_mae from scratch, but with a head of three layers and four times the epochs",
        model="vit_tiny",
        settings=SMALL_SCRATCH
        | {"epochs": 80, "options": START | {"img_size": SMALL_VIT["img_size"]}},
    ),
    SHORT_VIT_MOE.variant(
        "refined",
        "as the one of 10 epochs, so that only the labels differ",
        {},
        labels="refined_majority",
        needs=VOTERS,
    ),
    SHORT_VIT_MOE.variant(
        "soft labels",
        "soft labels by the voters helped small networks, where hard ones of the majority did not",
        {},
        labels="refined_soft:soft",
        needs=VOTERS,
    ),
    VIT_MOE.variant(
        "refined",
        "as vit_moe, so that only the labels differ; at 10 epochs they took 6 points away",
        {},
        labels="refined_majority",
        needs=VOTERS,
    ),
)
"""Entries that come after the further seeds, including those that a CPU can run."""

NOT_HERE = (
    ("vit_tiny", "ImageNet, by timm", "recipes published and ours"),
    ("vit_mae", "facebook/vit-mae-base", "recipes published and ours, at the published size"),
    ("vit_moe", "google/vit-base-patch16-224-in21k", "recipes published and ours, `mha` and `mla`"),
    ("grefel", "ViT-B/16 of ImageNet-21k, by timm", "recipes published and ours, both data sets"),
    (
        "refinement",
        "`fer_lib.refine.hub.HUB_VOTERS`",
        "the published rule, with voters of the published kind",
    ),
)
"""Not run here, as they start from weights of a hub: (system, weights, what is left out)."""


def every() -> list[Entry]:
    """Return all entries, including all those with further seeds, of which only some are run."""
    trains = [entry for entry in FIRST if not isinstance(entry, Autoencoder | Refinement)]
    return [*FIRST, *(entry.seeded(seed) for seed in SEEDS for entry in trains), *LATER]


def by_name(name: str) -> Entry:
    """Return the entry of a name; raise InputError if there is none."""
    known = {entry.name: entry for entry in every()}
    if name not in known:
        raise InputError(f"there is no entry {name!r}: use one of {'; '.join(known)}")
    return known[name]
