"""Refined labels: the labels that an ensemble gives to the training images, kept on disk.

There is one file for each rule, `data/<dataset>/refined_<rule>.npz`. It has a label for each
*training* image of one dataset and for no other image. A training may take its targets from it; no
model is scored against it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.files import InputError, home, replacing

LABELS = re.compile(r"refined_([a-z]\w*)(:soft)?")
"""Names of refined labels in the settings of a training: hard ones, or soft ones with `:soft`."""


@dataclass(frozen=True)
class Refined:
    """Labels by one rule; row i of every array is the same image.

    Attributes:
        rule: name of the rule, such as "majority".
        labels: (N,) int64, the hard labels.
        soft: (N, K) float32, the soft labels; each row sums to 1.
        reasons: (N,) str, why a label was changed; "" if it was kept.
        settings: settings of the rule, such as its thresholds.
        voters: names of the voters if the labels were read from disk, else empty.
    """

    rule: str
    labels: np.ndarray
    soft: np.ndarray
    reasons: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)
    voters: tuple[str, ...] = ()

    @property
    def changed(self) -> np.ndarray:
        """Which labels were changed, (N,) bool."""
        return self.reasons != ""

    def targets(self, soft: bool) -> np.ndarray:
        """Return the training targets, (N, K) float32: soft labels, or hard ones as 0 and 1."""
        return self.soft if soft else np.eye(self.soft.shape[1], dtype=np.float32)[self.labels]

    def sha256(self, soft: bool) -> str:
        """Return the SHA-256 (hex) of `targets`, by which a run records what it learned from."""
        return hashlib.sha256(np.ascontiguousarray(self.targets(soft))).hexdigest()


def refined_path(dataset: str, rule: str) -> Path:
    """Return the path of the refined labels of a dataset by a rule."""
    return home() / "data" / dataset / f"refined_{rule}.npz"


def save_refined(faces: FaceSet, rows: np.ndarray, refined: Refined, voters: Sequence[str]) -> Path:
    """Write `refined_<rule>.npz`, with the ids of the training images and a manifest.

    Args:
        rows: row numbers of the images of `refined`: all training images, in order.
        voters: names of those who voted.

    Returns:
        The path of the file.

    Raises:
        InputError: the rows are not exactly those of the training images, there is not one label
            for each, or the file cannot be written.
    """
    if not np.array_equal(rows, faces.where("train")) or len(refined.labels) != len(rows):
        raise InputError(
            f"{len(refined.labels):,} refined labels do not belong to exactly the training images "
            f"of {faces.name}: labels of validation and test images are never written"
        )
    manifest = {
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "mark": faces.mark,
        "classes": list(faces.classes),
        "rule": refined.rule,
        "settings": refined.settings,
        "voters": list(voters),
        "changed": int(refined.changed.sum()),
    }
    arrays = {key: value for key, value in asdict(refined).items() if isinstance(value, np.ndarray)}
    path = refined_path(faces.name, refined.rule)
    with replacing(path) as temporary:
        ids, manifest = faces.ids[rows], json.dumps(manifest)
        np.savez_compressed(temporary, ids=ids, manifest=manifest, **arrays)
    return path


def read_refined(path: Path) -> tuple[Refined, np.ndarray, dict[str, Any]]:
    """Read a file of refined labels: the labels, the ids of their images and the manifest.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("ids", "labels", "soft", "reasons")}
            manifest = json.loads(str(file["manifest"]))
        ids, n, k = arrays.pop("ids"), len(arrays["labels"]), len(manifest["classes"])
        about = {"settings": manifest["settings"], "voters": tuple(manifest["voters"])}
        refined = Refined(manifest["rule"], **arrays, **about)
        intact = ids.shape == refined.labels.shape == refined.reasons.shape == (n,)
        intact &= bool(((refined.labels >= 0) & (refined.labels < k)).all())
        intact &= refined.soft.shape == (n, k) and np.allclose(refined.soft.sum(1), 1, atol=1e-3)
        intact &= {"dataset", "fingerprint"} <= manifest.keys()
    except Exception:  # on flipped bytes, zipfile and numpy raise almost anything
        intact = False
    if not intact:
        raise InputError(f"{path} is damaged: delete it and refine the labels again")
    return refined, ids, manifest


def load_refined(faces: FaceSet, rule: str) -> Refined:
    """Load the labels that a rule gave to the training images of these faces, in their order.

    Raises:
        InputError: the file does not exist or is damaged, or it belongs to other faces or to other
            images than those for training.
    """
    path = refined_path(faces.name, rule)
    if not path.exists():
        raise InputError(f"{path} does not exist: {_remedy(faces.name, path.parent)}")
    refined, ids, manifest = read_refined(path)
    same = manifest["fingerprint"] == faces.fingerprint
    if not same or not np.array_equal(ids, faces.ids[faces.where("train")]):
        raise InputError(
            f"{path} was not made for the training images of {faces.name} as they are now: run "
            "notebook 02_label_refinement again"
        )
    return refined


def _remedy(dataset: str, folder: Path) -> str:
    """Return what to do without the labels of a rule: take those of another, or refine them."""
    if there := sorted(path.stem for path in folder.glob("refined_*.npz")):
        named = ", ".join(there)
        return f"train with labels {named} or original (--labels; refined in notebook 07_vit_moe)"
    return (
        f"refine the labels of {dataset} first, with notebook 02_label_refinement or python -m "
        f"fer_lib.pipeline --dataset {dataset} --stages 02, or train with labels original "
        "(--labels; in notebook 07_vit_moe, set refined = None)"
    )


def refined_targets(faces: FaceSet, rows: np.ndarray, labels: str) -> np.ndarray:
    """Return the training targets by refined labels.

    Args:
        rows: row numbers of training images.
        labels: a name that `LABELS` matches, as "refined_majority" or "refined_majority:soft".

    Returns:
        (len(rows), K) float32, each row sums to 1.

    Raises:
        InputError: see `load_refined`; or a row is not a training image.
    """
    rule, soft = LABELS.fullmatch(labels).groups()
    refined, train = load_refined(faces, rule), faces.where("train")
    if not np.isin(rows, train).all():
        raise InputError(f"{labels} are labels for training; validation and test keep their own")
    place = np.searchsorted(train, rows)
    return refined.targets(bool(soft))[place]


def refined_by(faces: FaceSet, labels: str) -> str:
    """Return a line on how many refined labels were changed and by whom; "" for other labels."""
    match = LABELS.fullmatch(labels)
    if not match:
        return ""
    refined = load_refined(faces, match[1])
    changed = f"{refined.changed.sum():,} of {len(refined.labels):,} changed"
    voters = [name.partition(":")[0] for name in refined.voters]  # without their settings
    return f"labels {labels}: {changed}, by {', '.join(voters)}"


def refined_sha256(faces: FaceSet, labels: str) -> str | None:
    """Return the SHA-256 (hex) of the targets by refined labels.

    None for other labels, or if the file of the refined labels does not exist.
    """
    match = LABELS.fullmatch(labels)
    if not match or not refined_path(faces.name, match[1]).exists():
        return None
    return load_refined(faces, match[1]).sha256(bool(match[2]))
