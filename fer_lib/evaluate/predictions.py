"""Store the probabilities of validation and test images, and read them in the faces' order."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.files import InputError, replacing


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of validation and test images, by image id.

    Attributes:
        valid_ids, test_ids: (N,) str.
        valid_probabilities, test_probabilities: (N, K) float32, rows sum to 1.
        classes: the K class names, in the order of the columns.
        pictures_digest: SHA-256 over pixels and ids of the predicted images. It leaves out labels,
            votes and training images, so that the same predictions may be scored against other
            labels.
    """

    valid_ids: np.ndarray
    valid_probabilities: np.ndarray
    test_ids: np.ndarray
    test_probabilities: np.ndarray
    classes: tuple[str, ...]
    pictures_digest: str

    @classmethod
    def of(cls, faces: FaceSet, valid: np.ndarray, test: np.ndarray) -> "Predictions":
        """Build predictions from the probabilities of validation and test images.

        Args:
            valid, test: (N, K) float, in the order of `faces.where("valid")` and `("test")`.

        Raises:
            ValueError: the arrays do not fit the faces, or a row is not a distribution.
        """
        ids = [faces.ids[faces.where(split)] for split in ("valid", "test")]
        valid, test = (np.asarray(array, np.float32) for array in (valid, test))
        made = cls(ids[0], valid, ids[1], test, tuple(faces.classes), _pictures_digest(faces))
        if problem := made.problem():
            raise ValueError(problem)
        return made

    def problem(self) -> str:
        """Return what is wrong with the arrays, or "" if nothing is."""
        for split in ("valid", "test"):
            ids, rows = getattr(self, f"{split}_ids"), getattr(self, f"{split}_probabilities")
            if rows.shape != (len(ids), len(self.classes)):
                return f"{split}: {rows.shape} probabilities for {len(ids)} images"
            if len(set(ids.tolist())) != len(ids):
                return f"{split}: an id is listed twice"
            if not np.allclose(rows.sum(1), 1, atol=1e-3) or (rows < 0).any():
                return f"{split}: a row is not a probability distribution"
        return ""


def _pictures_digest(faces: FaceSet) -> str:
    rows = np.concatenate([faces.where("valid"), faces.where("test")])
    digest = hashlib.sha256("\n".join(faces.ids[rows].tolist()).encode())
    digest.update(np.ascontiguousarray(faces.images[rows]))
    return digest.hexdigest()


def save_predictions(path: str | Path, predictions: Predictions, *, small: bool = False) -> None:
    """Write an npz file with one array for each attribute, whole or not at all.

    Args:
        small: compress, in half precision (see `halved`), to a seventh of the size.
    """
    write, kept = (np.savez_compressed, halved(predictions)) if small else (np.savez, predictions)
    with replacing(path) as temporary:
        write(temporary, **asdict(kept))


def halved(predictions: Predictions) -> Predictions:
    """Convert predictions to half precision; the largest probability of a row stays the largest.

    A probability above 0 but below 6e-8, the smallest positive number in half precision, becomes
    that number and not 0, which would mean impossible. So it adds at most 17 to a negative
    log-likelihood.

    Two probabilities that differ by less than 1/2000 may become equal, and the first of them would
    be the answer. In that case the largest becomes the next larger number.
    """
    found = {}
    for name in ("valid_probabilities", "test_probabilities"):
        exact = getattr(predictions, name)
        rounded, answers = exact.astype(np.float16), exact.argmax(1)
        rounded[(rounded == 0) & (exact > 0)] = np.finfo(np.float16).smallest_subnormal
        rows = np.flatnonzero(rounded.argmax(1) != answers)
        rounded[rows, answers[rows]] = np.nextafter(rounded[rows].max(1), np.float16(2))
        found[name] = rounded
    return replace(predictions, **found)


def load_predictions(path: str | Path) -> Predictions:
    """Read a file that `save_predictions` wrote, in single precision.

    Raises:
        InputError: the file is missing, damaged, or not a file of predictions.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in Predictions.__dataclass_fields__}
        for name in ("valid_probabilities", "test_probabilities"):
            arrays[name] = arrays[name].astype(np.float32)
        classes = tuple(arrays.pop("classes").tolist())
        digest = str(arrays.pop("pictures_digest"))
        read = Predictions(**arrays, classes=classes, pictures_digest=digest)
        problem = read.problem()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: train the model first") from None
    except Exception as error:  # on flipped bytes, zipfile and numpy raise almost anything
        problem = str(error) or type(error).__name__
    if problem:
        raise InputError(
            f"{path} is not a complete file of predictions ({problem}): delete the run folder that "
            "contains it and train again"
        )
    return read


def aligned(faces: FaceSet, predictions: Predictions, split: str) -> np.ndarray:
    """Return probabilities (n, K) of a split, "test" or "valid", in the order of the faces.

    Row i belongs to image `faces.where(split)[i]`.

    Raises:
        InputError: the predictions are not for exactly these images, or for other classes; or the
            faces were changed after loading (see `FaceSet.require_unchanged`).
    """
    faces.require_unchanged()
    return in_order(faces, predictions, split)


def in_order(faces: FaceSet, predictions: Predictions, split: str) -> np.ndarray:
    """Do what `aligned` does, but without the slow check that the faces are unchanged."""
    if predictions.classes != tuple(faces.classes):
        raise InputError(
            f"the predictions are for the classes {', '.join(predictions.classes)}, but "
            f"{faces.name} has {', '.join(faces.classes)}: predict with a model trained on those"
        )
    wanted = faces.ids[faces.where(split)].tolist()
    ids = getattr(predictions, f"{split}_ids").tolist()
    missing, other = sorted(set(wanted) - set(ids)), sorted(set(ids) - set(wanted))
    if missing or other:
        raise InputError(
            f"the predictions lack {len(missing)} of the {len(wanted)} {split} images of "
            f"{faces.name} and have {len(other)} others; one such image is "
            f"{(missing + other)[0]!r}: use the data that the model was trained with, or predict "
            "again"
        )
    if predictions.pictures_digest != _pictures_digest(faces):
        raise InputError(
            f"the predictions were made on other pictures than those of {faces.name}, under the "
            "same ids: use the data that the model was trained with, or predict again"
        )
    row_of = {name: row for row, name in enumerate(ids)}
    order = [row_of[name] for name in wanted]
    return getattr(predictions, f"{split}_probabilities")[order]
