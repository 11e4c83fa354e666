"""What an entry of the list of wanted runs is, and how each kind is found, tried out and done."""

import tempfile
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
"""The ViT that a file of weights (`--weights`) is of, and the side of its input in pixels."""

FEW = 256
"""Images of validation and of test that a dry run takes, at most."""


@cache
def faces_of(dataset: str, data_dir: str | None) -> FaceSet:
    """The faces of a dataset, read once in a process."""
    return load_faces(dataset, data_dir, say=lambda line: None)


def few(faces: FaceSet, train: int) -> FaceSet:
    """So many of the training images, and some of the others."""
    most = {"train": train, "valid": FEW, "test": FEW}
    return faces.subset(np.concatenate([faces.where(name)[:n] for name, n in most.items()]))


@dataclass(frozen=True)
class Place:
    """Where entries find and leave what they need.

    Attributes:
        weights: safetensors file of `BACKBONE`, or None.
        dataset: takes the place of every entry's own, as "sample" does in a test.
        changes: settings of all entries to change.
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
        name: unique; the system, then what is special about a variant after a comma.
        why: one line on the settings.
        model, recipe, labels, seed, settings: of `TrainConfig`; what the settings do not name is
            as the recipe has it.
        start: what the weights start from: "random", "file" (that of `Place.weights`) or "faces"
            (the encoder of the entry that it needs).
        needs: the entry that must be finished before this one.
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
        """The same but for some settings of its recipe, or other attributes."""
        changed = {"name": f"{self.name}, {name}", "why": why, "settings": self.settings | settings}
        return replace(self, **changed | others)

    def wants_file(self) -> bool:
        """Whether it cannot be done without `Place.weights`."""
        return self.start == "file"

    def config(self, place: Place | None = None) -> TrainConfig:
        """The settings; a file that is not there, as without a place, is a word in capitals."""
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
        fixed = {"seed": self.seed, "labels": self.labels, "pretrained": pretrained}
        return recipe(self.model, self.recipe, options=options, **fixed, **changes)

    def run(self, place: Place) -> RunFolder | None:
        """Its run, finished or not."""
        return find_run(self.config(place), place.faces(self.dataset), place.runs)

    def finished(self, place: Place) -> bool:
        run = self.run(place)
        return bool(run and run.finished)

    def do(self, place: Place) -> None:
        """Run it to its end, from wherever it stands."""
        train(self.config(place), place.faces(self.dataset), runs=place.runs, quiet=True)

    def dry_run(self, place: Place) -> None:
        """A step of training and one of prediction, at full size, on real images."""
        config = self.config(place)
        if self.start == "faces":  # the encoder is not there yet
            config = replace(config, pretrained=False)
        if self.labels.startswith("refined"):  # nor are they
            config = replace(config, labels="original")
        one_step(config, place.faces(self.dataset))

    def progress(self, place: Place) -> pd.DataFrame | None:
        """Its rows of `metrics.csv` so far."""
        run = self.run(place)
        return run.metrics() if run and (run.folder / "metrics.csv").exists() else None


def one_step(config: TrainConfig, faces: FaceSet) -> None:
    """Train one batch, validate, and predict as a run does at its end."""
    learner = Learner(replace(config, limit=config.batch_size), few(faces, config.batch_size))
    train_one(learner)
    learner.validate()
    learner.held_out.predict("test", learner.kept, "no")


def train_one(learner: Learner | MaskedLearner) -> None:
    """Train a batch; so often that the step is recorded and replayed, where it is to be."""
    for epoch in range(WARM_UP + 1 if learner.recorded else 1):
        learner.train_epoch(epoch)


class Autoencoder(Entry):
    """A masked autoencoder on the training images without labels."""

    def config(self, place: Place | None = None) -> PretrainConfig:
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
    """Labels that the majority of some voters, each out of fold, gives to the training images.

    Attributes:
        voters: entries, and settings of each to change.
        folds: parts of the training images; a voter is trained once without each.
    """

    voters: tuple[tuple[Entry, dict[str, Any]], ...] = ()
    folds: int = 5

    def wants_file(self) -> bool:
        return any(entry.wants_file() for entry, _ in self.voters)

    def configs(self, place: Place | None = None) -> list[TrainConfig]:
        """The settings of the voters."""
        return [entry.config(place) for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """The voters, with the changes to their settings."""
        return [replace(entry, settings=entry.settings | changes) for entry, changes in self.voters]

    def run(self, place: Place) -> None:
        """There is none: it is many trainings."""

    def file(self, place: Place) -> Path:
        return refined_path(place.faces(self.dataset).name, "majority")

    def told(self, place: Place) -> tuple[str, ...]:
        """Who votes, as the file of labels names them."""
        return folds.voter_names(self.configs(place), self.folds)

    def finished(self, place: Place) -> bool:
        if not self.file(place).exists():
            return False
        # Refuses those of other faces.
        return load_refined(place.faces(self.dataset), "majority").voters == self.told(place)

    def do(self, place: Place) -> None:
        if self.file(place).exists():
            raise InputError(
                f"{self.file(place)} is by other voters than those of {self.name}: move it away"
            )
        faces, configs = place.faces(self.dataset), self.configs(place)
        rows = faces.where("train")
        ballots = folds.fold_votes(faces, rows, configs, folds=self.folds, runs=place.runs)
        mended = rules.majority(ballots, faces.labels[rows], faces.classes)
        save_refined(faces, rows, mended, self.told(place))

    def dry_run(self, place: Place) -> None:
        for entry in self.entries():
            entry.dry_run(place)


def rehearse(place: Place) -> Path:
    """A whole run of a small network on few images, in a temporary folder; returns that run.

    What only the end of a run needs (scores, figures) fails here, before the long work.
    """
    entry = Entry("rehearsal", model="baseline_cnn", settings={"epochs": 1})
    faces = few(place.faces(entry.dataset), 64)
    return train(entry.config(place), faces, runs=tempfile.mkdtemp(), quiet=True).folder
