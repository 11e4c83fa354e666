"""Out-of-fold voters: our own models, each of which votes on labels that it did not learn from."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fer_lib.arguments import own_changes, several
from fer_lib.augment import Prepare
from fer_lib.batches import probabilities, training_rows
from fer_lib.changed import changed_settings
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.data.splits import group_keys, grouped_split
from fer_lib.device import processes
from fer_lib.evaluate import aligned, load_predictions
from fer_lib.files import InputError
from fer_lib.models.weights import read_metadata
from fer_lib.recipes import merged_options, recipe
from fer_lib.refine.ballots import Ballots
from fer_lib.runs import Run, find_run, runs_folder
from fer_lib.train import require_buildable, train


def fold_sets(faces: FaceSet, folds: int, seed: int) -> list[FaceSet]:
    """Split the training images into folds, and make fold k the test images of set k.

    Exact and near copies stay in one fold, and each fold has its share of every class; of a class
    with few images, the first fold may get less or more (see `grouped_split`). The training images
    of set k are those of all other folds. Its validation images, on which the epoch is chosen, are
    those of `faces` without copies of images in fold k. The test images of `faces` are in no set.

    Returns:
        One set for each fold, named `<name>-fold-<k>-of-<folds>` with k from 1.

    Raises:
        InputError: `folds` is not a whole number between 2 and the number of training images, or a
            fold would be empty.
    """
    rows = faces.where("train")
    if not (isinstance(folds, int) and 2 <= folds <= len(rows)):
        raise InputError(
            f"folds={folds!r} must be a whole number between 2 and {len(rows)}, the number of "
            "training images"
        )
    keys = group_keys(faces.images)
    shares = {str(number): 1 / folds for number in range(folds)}
    place = np.full(len(faces), "", dtype="<U8")
    place[rows] = grouped_split(faces.labels[rows], keys[rows], shares, seed)
    if not set(shares) <= set(place.tolist()):
        raise InputError(
            f"folds={folds} is more than the {len(rows)} training images allow once copies stay "
            "together and each class is divided: use fewer folds"
        )
    sets = []
    for number in range(folds):
        held = place == str(number)
        valid = (faces.split == "valid") & ~np.isin(keys, keys[held])
        keep = (place != "") | valid
        some = faces.subset(keep)
        some.split = np.where(held, "test", faces.split)[keep]
        some.name = f"{faces.name}-fold-{number + 1}-of-{folds}"
        sets.append(some)
    return sets


def voter_configs(
    voters: Sequence[str | tuple[str, dict[str, Any]]],
    preset: str,
    seed: int,
    changes: dict[str, Any],
) -> list[TrainConfig]:
    """Build the configuration of each voter: our recipe, with consecutive seeds.

    Args:
        voters: for each voter its model, or its model and changes to its settings, as in
            `["baseline_cnn", {"epochs": 5}]`.
        seed: seed of the first voter.
        changes: changes to the settings of all voters; a voter's own changes take precedence, also
            within `options` and `augmentation`.

    Raises:
        InputError: `voters` or `changes` have the wrong form, `changes` contain the seed or another
            setting with a parameter of its own, a voter's own changes another model, recipe or
            preset, two voters have the same configuration, so that one
            training would have two votes, or see `recipes.recipe`.
    """
    own_changes(changes, "seed")
    if not isinstance(voters, Sequence):
        raise InputError(
            f'voters={voters!r} is no list of models: write some, as in ["baseline_cnn"], or [] '
            "for none"
        )
    configs = []
    for number, voter in enumerate(several(voters)):
        match [voter] if isinstance(voter, str) else voter:
            case [str(model)]:
                more = {}
            case [str(model), dict(more)]:
                pass
            case _:
                raise InputError(
                    f"voter {voter!r} is neither a model nor a model with its changes, as in "
                    '["baseline_cnn", {"epochs": 5}]'
                )
        own_changes(more, parameter=f"the changes of voter {model}")
        both = {"seed": seed + number} | changes | more
        for name, merged in (("options", merged_options), ("augmentation", operator.or_)):
            if all(isinstance(one.get(name), dict) for one in (changes, more)):
                both[name] = merged(changes[name], more[name])
        config = recipe(model, "ours", preset, **both)
        if config in configs:
            raise InputError(
                f"two voters are the same training, {model} with seed {config.seed}: give them "
                "different seeds or settings"
            )
        configs.append(config)
    return configs


def train_folds(
    config: TrainConfig,
    faces: FaceSet,
    *,
    folds: int,
    runs: str | Path | None,
    progress: bool = False,
) -> list[tuple[Run, FaceSet]]:
    """Train, resume or load the models of one voter, one for each of `fold_sets`.

    The seed of the config draws the folds and the weights. The runs are in `<runs>/folds/`.

    Args:
        runs: folder of all runs; None for `runs/` in `files.home()`.
        progress: show a bar for each epoch.

    Returns:
        For each fold, the run and the set that it was trained on.

    Raises:
        InputError: the config would train on labels other than the original ones, or start from
            weights that have learned from labels; or see `fold_sets`.
    """
    if config.labels != "original":
        raise InputError(f"voters learn from the original labels, not from {config.labels!r}")
    if isinstance(config.pretrained, str) and "model" in read_metadata(config.pretrained):
        raise InputError(
            f"{config.pretrained} has learned from labels that such a voter would vote on: start "
            "it from a backbone's file or from a pretraining without labels"
        )
    folder, done = runs_folder(runs) / "folds", []
    for some in fold_sets(faces, folds, config.seed):
        known = find_run(config, some, folder)
        run = train(config, some, runs=folder, progress=progress, quiet=True)
        if not (known and known.finished):
            right = run.results["test"]["full"]["accuracy"]
            name = f"{config.model} s{config.seed}, {some.name}"
            print(f"{name}: matches {right:.1%} of the labels {faces.mark}".rstrip(), flush=True)
        done.append((run, some))
    return done


def fold_votes(
    faces: FaceSet,
    rows: np.ndarray,
    configs: Sequence[TrainConfig],
    *,
    folds: int,
    runs: str | Path | None = None,
    progress: bool = False,
) -> Ballots:
    """Let the models of `train_folds` vote on images, as one voter for each config.

    On a training image, the voter's vote comes from its one model that did not learn from it. On
    any other image, it is the mean of its models, none of which was trained on validation or test
    images (copies of some are among the training images, as the audit shows); but the epochs of the
    models were chosen on validation labels.

    Args:
        configs: one for each voter; without any, the ballots have no voter.
        rows: row numbers of the images to vote on.

    Raises:
        InputError: see `train_folds`.
    """
    for config in configs:
        require_buildable(config, faces)  # or a voter is refused only after others were trained
    names, parts = [], [np.empty((0, len(rows), len(faces.classes)), np.float32)]
    for config in configs:
        trained = train_folds(config, faces, folds=folds, runs=runs, progress=progress)
        parts.append(_votes(faces, rows, [run for run, _ in trained])[None])
        names.append(f"{config.model} s{config.seed}, {folds} folds")
    if len(set(names)) < len(names):  # they differ in other settings
        names = list(voter_names(configs, folds))
    return Ballots(tuple(names), np.concatenate(parts))


def voter_names(configs: Sequence[TrainConfig], folds: int) -> tuple[str, ...]:
    """Name each voter by all that its votes depend on, for the file of the refined labels."""
    return tuple(
        f"{config.model} s{config.seed}, {folds} folds: {' '.join(changed_settings(config))}"
        for config in configs
    )


def echo(
    faces: FaceSet, config: TrainConfig, *, folds: int, runs: str | Path | None = None
) -> pd.DataFrame:
    """Measure how often a voter's models name the label of unseen and of learned training images.

    If the true labels are known, only images with a wrong label count: such a label can only be
    remembered. Each model is asked about at most 2,000 learned images, drawn by the seed
    of the config.

    Args:
        config, folds, runs: as for `train_folds`, which finds or trains the models.

    Returns:
        Rows `never seen` and `learned`; columns `images` (number asked about, over all models) and
        `names the label` (share; None if there are no images).
    """
    wrong = np.ones(len(faces), bool) if faces.truth is None else faces.labels != faces.truth
    right: dict[str, list[np.ndarray]] = {"never seen": [], "learned": []}
    for run, some in train_folds(config, faces, folds=folds, runs=runs):
        doubtful, held = np.isin(some.ids, faces.ids[wrong]), some.where("test")
        kept = aligned(some, load_predictions(run.folder / "predictions.npz"), "test").argmax(1)
        right["never seen"].append((kept == some.labels[held])[doubtful[held]])
        learned = training_rows(some, config.limit, config.seed)
        learned = np.random.default_rng(config.seed).permutation(learned[doubtful[learned]])[:2000]
        answers = predict(run, some.images[learned]).argmax(1)
        right["learned"].append(answers == some.labels[learned])
    every = {kind: np.concatenate(parts) for kind, parts in right.items()}
    table = {
        kind: {"images": len(of), "names the label": float(of.mean()) if len(of) else None}
        for kind, of in every.items()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def _votes(faces: FaceSet, rows: np.ndarray, runs: Sequence[Run]) -> np.ndarray:
    """Return the probabilities that the models of one voter give, (len(rows), K) float32."""
    place = {name: row for row, name in enumerate(faces.ids.tolist())}
    p = np.full((len(faces), len(faces.classes)), np.nan, np.float32)
    for run in runs:
        kept = load_predictions(run.folder / "predictions.npz")
        p[[place[name] for name in kept.test_ids.tolist()]] = kept.test_probabilities
    others = rows[faces.split[rows] != "train"]
    if len(others):
        p[others] = np.mean([predict(run, faces.images[others]) for run in runs], axis=0)
    return p[rows]


def predict(run: Run, images: np.ndarray) -> np.ndarray:
    """Predict class probabilities (N, K) float32 of uint8 images (N, C, H, W) by a run's model."""
    device = processes().device
    model = run.load_model().to(device)
    prepare, flip = Prepare(model.pretrained_cfg, device), run.train_config.flip_tta
    pixels = torch.from_numpy(images).to(device)
    return probabilities(model, pixels, prepare, flip=flip).cpu().numpy()
