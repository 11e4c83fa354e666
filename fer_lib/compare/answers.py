"""Read the predictions of several runs for the same images."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_lib.compare.names import named
from fer_lib.config import require_choice
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import in_order, labels_by_part, load_predictions
from fer_lib.files import InputError
from fer_lib.runs import Run, list_runs


@dataclass(frozen=True)
class Answers:
    """Probabilities of R runs for the validation and the test images of the same faces.

    Attributes:
        names: R names of runs, as `short_names` makes them unless others are given.
        faces: the data; the second axis of `valid` is in the order of `faces.where("valid")`, that
            of `test` in the order of `faces.where("test")`.
        valid, test: (R, N, K) float32, for N images and K classes.
    """

    names: list[str]
    faces: FaceSet
    valid: np.ndarray
    test: np.ndarray

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of the images of a split, "valid" or "test": (N,) int64."""
        return self.faces.labels[self.faces.where(split)]

    @property
    def predicted(self) -> np.ndarray:
        """The class that each run predicts for each test image: (R, N) int64."""
        return self.test.argmax(2)

    @property
    def correct(self) -> np.ndarray:
        """Whether each run is right on each test image: (R, N) bool."""
        return self.predicted == self.labels("test")

    def correct_on(self, part: str) -> np.ndarray:
        """Return whether each run is right on each image of a part of the test images.

        Args:
            part: a key of `labels_by_part`, whose labels count here.

        Returns:
            (R, M) bool for the M images of the part; M = 0 if the faces have no such part.
        """
        labels = labels_by_part(self.faces).get(part, np.full(self.test.shape[1], -1))
        return (self.predicted == labels)[:, labels >= 0]

    def of(self, names: Sequence[str]) -> "Answers":
        """Return the answers of the named runs alone, in the order of `names`.

        Raises:
            InputError: a name is not that of a run.
        """
        rows = self.rows(names)
        return Answers(list(names), self.faces, self.valid[rows], self.test[rows])

    def rows(self, names: Sequence[str]) -> list[int]:
        """Return the row numbers of the named runs.

        Raises:
            InputError: a name is not that of a run.
        """
        for name in names:
            if name not in self.names:
                raise InputError(f"no run {name!r} here: use some of {', '.join(self.names)}")
        return [self.names.index(name) for name in names]


def read_answers(runs: Sequence[Run] | Mapping[str, Run], faces: FaceSet) -> Answers:
    """Read the kept predictions of runs; their weights are not needed.

    Args:
        runs: a sequence, whose runs are named by `short_names`, or a dict of runs by other names.
        faces: the data that the runs were trained on.

    Raises:
        InputError: there are no runs, the faces were changed after loading, a run was trained on
            other data, or its predictions are missing, damaged or for other images.
    """
    require_runs(runs)
    faces.require_unchanged()
    parts: dict[str, list[np.ndarray]] = {"test": [], "valid": []}
    called = named(runs)
    for run in called.values():
        run.require_data(faces)
        predictions = load_predictions(run.folder / "predictions.npz")
        for split, arrays in parts.items():
            arrays.append(in_order(faces, predictions, split))
    return Answers(list(called), faces, **{k: np.stack(v) for k, v in parts.items()})


TRAIN = "train one first, with notebook 03_cnn or python -m fer_lib.train"


def require_runs(runs: Collection) -> None:
    """Raise an InputError that says how to train a run if there are none."""
    if not runs:
        raise InputError(f"there is no finished run of these data and this preset: {TRAIN}")


def finished_runs(faces: FaceSet, preset: str, folder: str | Path | None = None) -> list[Run]:
    """List the finished runs on these faces with a preset, oldest first.

    Args:
        folder: folder of all runs, as `list_runs` takes it.

    Raises:
        InputError: there is no such preset, or no such run; the message names the other presets
            that have runs on these faces.
    """
    require_choice("preset", preset)
    every = list_runs(folder, fingerprint=faces.fingerprint)
    if runs := [run for run in every if run.train_config.preset == preset]:
        return runs
    others = Counter(run.train_config.preset for run in every)
    known = " and ".join(f"{number} with {name}" for name, number in others.items())
    there = f"these data have {known}: set preset, or " if others else ""
    raise InputError(f"there is no finished run of these data with preset {preset}: {there}{TRAIN}")
