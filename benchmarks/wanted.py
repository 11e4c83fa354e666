"""The list of wanted runs, most valuable first, which `campaign.py` prints and runs.

Change the list only here. A variant to try is one more entry, its name continued after a comma.
"""

from dataclasses import replace

from entries import Autoencoder, Entry, Refinement
from systems import (
    ATTENTION,
    BASELINE,
    CNN_BY_MUON,
    DINOV2,
    GREFEL,
    LONG_MAE,
    LONG_VIT_MAE,
    LONGEST_MAE,
    MAE,
    MAE_OF_6,
    MILD_VIT,
    SCRATCH,
    SHORT_VIT_MOE,
    SMALL,
    SMALL_MAE,
    SMALL_SCRATCH,
    SMALL_VIT,
    SMALL_VIT_MAE,
    SMALL_VIT_PATCH,
    SMALL_VIT_TINY,
    START,
    STRONG,
    STRONG_VIT,
    VIT_BY_MUON,
    VIT_MAE,
    VIT_MAE_OF_6,
    VIT_MOE,
    VIT_SMALL,
    VOTERS,
)

from fer_lib.files import InputError

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
        "the milder run overfitted: stronger draws, more stochastic depth; by Muon, see the log",
        model="vit_cnn",
        settings=STRONG_VIT,
    ),
    Entry(
        "vit_patch",
        "as vit_cnn, so that only the stem differs",
        model="vit_patch",
        settings=STRONG_VIT,
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
        "muon",
        "the optimizer with which `speedrun.py` takes a thinner network to 65.8 % on validation",
        CNN_BY_MUON,
    ),
    ATTENTION.variant(
        "muon, no gates",
        "what do the gates add? The best attention_cnn without them",
        CNN_BY_MUON | {"options": {"attention": "none"}},
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
    SMALL_VIT_PATCH,
    SMALL_VIT_PATCH.variant(
        "muon",
        "does it learn sooner by Muon? Only optimizer, momentum and rate differ",
        VIT_BY_MUON,
    ),
    SMALL_VIT_PATCH.variant(
        "muon, mixup",
        "without mixup and stochastic depth it overfitted from its 31st epoch on",
        VIT_BY_MUON
        | {
            "mixup": 0.2,
            "options": SMALL_VIT_PATCH.settings["options"] | {"drop_path": 0.1},
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
        "the same network from a random start; its rate and layer decay are guesses",
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
    SMALL_VIT_TINY,
    SMALL_VIT_TINY.variant(
        "muon",
        "does Muon need only half of the epochs?",
        VIT_BY_MUON | {"epochs": 40},
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
