"""Define the entries of the list of wanted runs: how each kind is found, tried out and run."""

import tempfile
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.augment import Augmentation
from fer_lib.config import TrainConfig
from fer_lib.data import FaceSet, load_faces
from fer_lib.data.refined import load_refined, refined_path, save_refined
from fer_lib.files import InputError
from fer_lib.graph import WARM_UP
from fer_lib.learner import Learner
from fer_lib.pretrain import PretrainConfig, Pretraining, pretrain, pretraining
from fer_lib.pretrain.folder import find_pretraining
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import merged_options, recipe
from fer_lib.refine import folds, rules
from fer_lib.runs import RunFolder, find_run, runs_folder
from fer_lib.train import train

BACKBONE = {"backbone": "vit_small_patch14_dinov2", "img_size": 112}
"""The ViT whose weights the file `--weights` contains, and the side of its input in pixels."""

RULES = {"majority": rules.majority, "soft": rules.soft_average}
"""The rules by which voters make labels that trainings learn from."""

FEW = 256
"""Maximum number of validation images, and of test images, in a dry run."""


@cache
def faces_of(dataset: str, data_dir: str | None) -> FaceSet:
    """Load the faces of a dataset; each dataset is read once per process."""
    return load_faces(dataset, data_dir, say=lambda line: None)


def few(faces: FaceSet, train: int) -> FaceSet:
    """Return the first `train` training images and the first `FEW` images of each other split."""
    most = {"train": train, "valid": FEW, "test": FEW}
    return faces.subset(np.concatenate([faces.where(name)[:n] for name, n in most.items()]))


@dataclass(frozen=True)
class Place:
    """Where entries find their inputs and leave their results.

    Attributes:
        data_dir: folder or file of the data, or None: see `load_faces`.
        runs: folder of all runs; None: `runs/`.
        weights: safetensors file of `BACKBONE`, or None.
        dataset: used instead of every entry's own dataset, as "sample" is in a test.
        changes: settings to change in all entries.
    """

    data_dir: str | None = None
    runs: str | None = None
    weights: str | None = None
    dataset: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def faces(self, dataset: str) -> FaceSet:
        return faces_of(self.dataset or dataset, self.data_dir)


@dataclass(frozen=True)
class Entry:
    """One training.

    Attributes:
        name: unique; the system and, for a variant, what is special about it after a comma.
        why: one line on the settings.
        model, recipe, labels, seed, settings: see `TrainConfig`; settings that are not given here
            are those of the recipe.
        dataset: name of the dataset that it learns from, unless `Place.dataset` replaces it.
        start: what the weights start from: "random", "file" (`Place.weights`) or "faces" (the
            encoder of the entry in `needs`).
        needs: the entry that must be finished before this one, or None.
    """

    name: str
    why: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: str = "ours"
    dataset: str = "fer2013"
    labels: str = "original"
    start: str = "random"
    seed: int = 0
    needs: "Entry | None" = None

    @property
    def system(self) -> str:
        return self.name.split(",")[0]

    def seeded(self, seed: int) -> "Entry":
        return replace(self, name=f"{self.name}, seed {seed}", seed=seed)

    def variant(self, name: str, why: str, settings: dict[str, Any], **others: Any) -> "Entry":
        """Return a copy with some settings of the recipe, or other attributes, changed."""
        changed = {"name": f"{self.name}, {name}", "why": why, "settings": self.settings | settings}
        return replace(self, **changed | others)

    def wants_file(self) -> bool:
        """Return whether the entry cannot be run without `Place.weights`."""
        return self.start == "file"

    def config(self, place: Place | None = None) -> TrainConfig:
        """Return the settings of the training.

        If the file it starts from is not there yet (always so without a place), `pretrained` is a
        placeholder: "WEIGHTS" or "ENCODER".
        """
        pretrained: bool | str = False
        start: dict[str, Any] = {}
        if self.start == "file":
            pretrained, start = (place and place.weights) or "WEIGHTS", BACKBONE
        elif self.start == "faces":
            run = place and self.needs.run(place)
            pretrained = str(run.encoder_path) if run and run.finished else "ENCODER"
            start = self.needs.config(place).classifier_options
        given = (self.settings, place.changes if place else {})
        options = merged_options(start, *(one.get("options", {}) for one in given))
        changes = {key: value for one in given for key, value in one.items()}
        changes.pop("options", None)
        mine, draws = self.settings.get("augmentation"), changes.get("augmentation")
        if isinstance(mine, Augmentation) and isinstance(draws, dict):  # not of the recipe's draws
            changes["augmentation"] = asdict(mine) | draws
        fixed = {"seed": self.seed, "labels": self.labels, "pretrained": pretrained}
        return recipe(self.model, self.recipe, options=options, **fixed, **changes)

    def run(self, place: Place) -> RunFolder | None:
        """Return the run of this entry, finished or not; None if it has not begun."""
        return find_run(self.config(place), place.faces(self.dataset), place.runs)

    def finished(self, place: Place) -> bool:
        run = self.run(place)
        return bool(run and run.finished)

    def do(self, place: Place) -> None:
        """Train to the end; an unfinished run resumes."""
        train(self.config(place), place.faces(self.dataset), runs=place.runs, quiet=True)

    def dry_run(self, place: Place) -> None:
        """Try one step of training and one of prediction, at full size, on the dataset's images."""
        config = self.config(place)
        if self.start == "faces":  # the encoder may not exist yet
            config = replace(config, pretrained=False)
        if self.labels.startswith("refined"):  # these may not exist yet
            config = replace(config, labels="original")
        one_step(config, place.faces(self.dataset))

    def progress(self, place: Place) -> pd.DataFrame | None:
        """Return the rows of `metrics.csv` so far, or None if there is no such file yet."""
        run = self.run(place)
        return run.metrics() if run and (run.folder / "metrics.csv").exists() else None


def one_step(config: TrainConfig, faces: FaceSet) -> None:
    """Train one batch, validate, and predict as a run does at its end."""
    learner = Learner(replace(config, limit=config.batch_size), few(faces, config.batch_size))
    train_one(learner)
    learner.validate()
    learner.held_out.predict("test", learner.kept, "no")


def train_one(learner: Learner | MaskedLearner) -> None:
    """Train a batch; if steps are recorded, often enough that one is recorded and replayed."""
    for epoch in range(WARM_UP + 1 if learner.recorded else 1):
        learner.train_epoch(epoch)


class Autoencoder(Entry):
    """A pretraining: a masked autoencoder on the training images without labels."""

    def config(self, place: Place | None = None) -> PretrainConfig:
        """Return the settings; those in `Place.changes` that only a training has are ignored."""
        known, changes = PretrainConfig.__dataclass_fields__, place.changes if place else {}
        shared = {key: value for key, value in changes.items() if key in known}
        return pretraining("full", **{"seed": self.seed} | self.settings | shared)

    def run(self, place: Place) -> Pretraining | None:
        root = runs_folder(place.runs) / "pretraining"
        return find_pretraining(self.config(place), place.faces(self.dataset), root)

    def do(self, place: Place) -> None:
        pretrain(self.config(place), place.faces(self.dataset), runs=place.runs)

    def dry_run(self, place: Place) -> None:
        config = self.config(place)
        config = replace(config, limit=config.batch_size)
        learner = MaskedLearner(config, few(place.faces(self.dataset), config.batch_size))
        train_one(learner)
        learner.validate()


@dataclass(frozen=True)
class Refinement(Entry):
    """New labels for the training images, by voters that did not learn from them.

    There is a file of labels by each rule of `RULES`.

    Attributes:
        voters: pairs of an entry and the changes to its settings.
        folds: number of parts of the training images; each voter is trained once without each part.
    """

    voters: tuple[tuple[Entry, dict[str, Any]], ...] = ()
    folds: int = 5

    def wants_file(self) -> bool:
        return any(entry.wants_file() for entry, _ in self.voters)

    def configs(self, place: Place | None = None) -> list[TrainConfig]:
        """Return the training settings of each voter."""
        return [entry.config(place) for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """Return the entries of the voters with the changes to their settings."""
        return [replace(entry, settings=entry.settings | changes) for entry, changes in self.voters]

    def run(self, place: Place) -> None:
        """Return None: a refinement consists of many trainings."""

    def files(self, place: Place) -> dict[str, Path]:
        """Return the path of the file of refined labels by each rule."""
        return {rule: refined_path(place.faces(self.dataset).name, rule) for rule in RULES}

    def told(self, place: Place) -> tuple[str, ...]:
        """Return the names of the voters, as the file of labels has them."""
        return folds.voter_names(self.configs(place), self.folds)

    def made(self, place: Place) -> list[str]:
        """Return the rules whose files exist and have labels by these voters."""
        faces, told = place.faces(self.dataset), self.told(place)
        # Reading them raises InputError if they belong to other faces.
        return [
            rule
            for rule, path in self.files(place).items()
            if path.exists() and load_refined(faces, rule).voters == told
        ]

    def finished(self, place: Place) -> bool:
        return len(self.made(place)) == len(RULES)

    def do(self, place: Place) -> None:
        files, made = self.files(place), self.made(place)
        missing = [rule for rule in files if rule not in made]
        for rule in missing:
            if files[rule].exists():
                raise InputError(
                    f"{files[rule]} is by other voters than those of {self.name}: move it away"
                )
        faces, configs = place.faces(self.dataset), self.configs(place)
        rows = faces.where("train")
        ballots = folds.fold_votes(faces, rows, configs, folds=self.folds, runs=place.runs)
        for rule in missing:
            refined = RULES[rule](ballots, faces.labels[rows], faces.classes)
            save_refined(faces, rows, refined, self.told(place))

    def dry_run(self, place: Place) -> None:
        for entry in self.entries():
            entry.dry_run(place)


def rehearse(place: Place) -> Path:
    """Run a small network on few images to its end, in a temporary folder; return the run's folder.

    Faults in what only the end of a run needs (scores, figures) thus show before the long work.
    """
    entry = Entry("rehearsal", model="baseline_cnn", settings={"epochs": 1})
    faces = few(place.faces(entry.dataset), 64)
    return train(entry.config(place), faces, runs=tempfile.mkdtemp(), quiet=True).folder
