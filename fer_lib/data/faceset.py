"""The class FaceSet: images, labels, votes and splits of one dataset, and its cache on disk."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.files import InputError, read_json, replacing, write_json
from fer_lib.labels import EMOTIONS

SPLITS = ("train", "valid", "test")


@dataclass
class FaceSet:
    """Faces with labels; row i of every array is the same face.

    Attributes:
        name: dataset name, as in `load_faces(name)`.
        images: (N, C, H, W) uint8, C = 1 (grey) or 3 (RGB).
        labels: (N,) int64, index into `classes`.
        split: (N,) str, one of "train", "valid", "test".
        ids: (N,) str, unique, and the same whenever the dataset is read.
        classes: class names in the canonical order.
        votes: (N, 10) float32 counts over `labels.VOTES`, or None.
        truth: (N,) int64 labels before label noise (drawn faces only), or None.
        manifest: where the faces came from: `layout`, `source`, `dropped` (reason -> count),
            `mark` (a caveat that belongs on every table and figure, or ""), `counts`,
            `fingerprint`, `remarks` (list of sentences), `split` (`official`, else how it was
            drawn), and for drawn faces `planted` (the faults that were put in).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...] = EMOTIONS
    votes: np.ndarray | None = None
    truth: np.ndarray | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mark(self) -> str:
        """Caveat to print on every table and figure made from these faces ("" for none)."""
        return self.manifest.get("mark", "")

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that a result can depend on; computed once, then kept."""
        if "fingerprint" not in self.manifest:
            self.manifest["fingerprint"] = fingerprint(self)
        return self.manifest["fingerprint"]

    def require_unchanged(self) -> None:
        """Raise InputError if the faces have changed since the fingerprint was computed.

        Training and scoring call this first: otherwise labels that were replaced in memory, for
        example by refined ones, could be mistaken for those of the dataset.
        """
        if self.fingerprint != fingerprint(self):
            raise InputError(
                f"{self.name} was changed after it was loaded: load it again; refined labels are "
                "for training only, as its setting `labels`"
            )

    def where(self, split: str) -> np.ndarray:
        """Return the row numbers of a split in ascending order, int64."""
        return np.flatnonzero(self.split == split)

    def require(self, *splits: str) -> None:
        """Raise InputError if one of these splits has no image."""
        names = {"train": "training", "valid": "validation", "test": "test"}
        if absent := [names[split] for split in splits if not len(self.where(split))]:
            raise InputError(
                f"{self.name} has no {' and no '.join(absent)} images: give data with images for "
                "each split or, if the data are your own, more images of each class that clearly "
                "differ: near copies, such as the frames of one video, stay in one split"
            )

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and class, as in `counts()["train"]["happy"]`."""
        table = {}
        for split in SPLITS:
            number = np.bincount(self.labels[self.where(split)], minlength=len(self.classes))
            table[split] = dict(zip(self.classes, number.tolist(), strict=True))
        return table

    def subset(self, rows: np.ndarray) -> "FaceSet":
        """Return the faces of `rows` (indices or a mask), which get a fingerprint of their own."""
        manifest = {k: v for k, v in self.manifest.items() if k not in ("fingerprint", "counts")}
        arrays = {key: array[rows] for key, array in self.arrays().items()}
        return replace(self, manifest=manifest, **arrays)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names of their attributes, without those that are None."""
        return {key: value for key, value in vars(self).items() if isinstance(value, np.ndarray)}


def fingerprint(faces: FaceSet) -> str:
    """Return the SHA-256 (hex) of images, labels, splits, ids, classes and votes."""
    digest = hashlib.sha256("|".join(faces.classes).encode())
    for array in (faces.images, faces.labels, faces.votes):
        if array is not None:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array))
    for array in (faces.split, faces.ids):
        digest.update("\n".join(array.tolist()).encode())
    return digest.hexdigest()


def save(faces: FaceSet, folder: Path) -> None:
    """Write `faces.npz` and `manifest.json` into `folder`, each completely or not at all.

    The counts and the fingerprint of the faces are put into their manifest.

    Raises:
        InputError: a file cannot be written.
    """
    faces.manifest |= {"counts": faces.counts(), "fingerprint": fingerprint(faces)}
    with replacing(folder / "faces.npz") as temporary:
        np.savez(temporary, classes=np.array(faces.classes), **faces.arrays())
    write_json(folder / "manifest.json", {"name": faces.name, **faces.manifest})


def load(folder: Path) -> FaceSet:
    """Read the faces that `save` wrote into `folder`.

    Raises:
        InputError: a file is missing or cannot be read, or the fingerprint of the faces is not the
            one in the manifest.
    """
    path = folder / "faces.npz"
    manifest = read_json(folder / "manifest.json")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        classes = tuple(arrays.pop("classes").tolist())
        faces = FaceSet(manifest.pop("name"), classes=classes, manifest=manifest, **arrays)
        intact = fingerprint(faces) == manifest["fingerprint"]
    except Exception:  # on flipped bytes, zipfile and numpy raise almost anything
        intact = False
    if not intact:
        raise InputError(f"the cache {path} is damaged: delete it and run again")
    return faces
