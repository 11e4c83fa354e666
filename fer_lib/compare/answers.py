"""What all runs answered to the same images, read once from their kept predictions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fer_lib.compare.names import named
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import in_order, labels_by_part, load_predictions
from fer_lib.files import InputError
from fer_lib.runs import Run


@dataclass(frozen=True)
class Answers:
    """Probabilities of R runs for the validation and the test images of the same faces.

    Attributes:
        names: R short names (`short_names`).
        faces: whose order of images the columns have.
        valid, test: (R, N, K) float32.
    """

    names: list[str]
    faces: FaceSet
    valid: np.ndarray
    test: np.ndarray

    def labels(self, split: str) -> np.ndarray:
        """(N,) int64 of "valid" or "test"."""
        return self.faces.labels[self.faces.where(split)]

    @property
    def predicted(self) -> np.ndarray:
        """(R, N) int64: the class that each run gives each test image."""
        return self.test.argmax(2)

    @property
    def correct(self) -> np.ndarray:
        """(R, N) bool: whether each run is right on each test image."""
        return self.predicted == self.labels("test")

    def correct_on(self, part: str) -> np.ndarray:
        """(R, M) bool: the same on a part of the test images, named as in `labels_by_part`.

        None of them (M = 0) where the faces have no such part.
        """
        labels = labels_by_part(self.faces).get(part, np.full(self.test.shape[1], -1))
        return (self.predicted == labels)[:, labels >= 0]

    def of(self, names: Sequence[str]) -> "Answers":
        """Those of named runs alone, in this order."""
        rows = self.rows(names)
        return Answers(list(names), self.faces, self.valid[rows], self.test[rows])

    def rows(self, names: Sequence[str]) -> list[int]:
        """Row numbers of named runs.

        Raises:
            InputError: there is no run of a name.
        """
        for name in names:
            if name not in self.names:
                raise InputError(f"no run {name!r} here: use some of {', '.join(self.names)}")
        return [self.names.index(name) for name in names]


def read_answers(runs: Sequence[Run] | Mapping[str, Run], faces: FaceSet) -> Answers:
    """Read the predictions of runs; weights are not needed.

    Args:
        runs: also by names of one's own, which then take the place of the short ones.

    Raises:
        InputError: there are no runs, the faces were changed after loading, a run was trained on
            other data, or its predictions are missing or of other images.
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


def require_runs(runs: Collection) -> None:
    """Raise InputError, which says what to do, where there are no runs."""
    if not runs:
        raise InputError(
            "there is no finished run of these data and this preset: train one first, with "
            "notebook 03_cnn or python -m fer_lib.train"
        )
