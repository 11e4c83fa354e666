"""Audit a dataset: copied images, conflicting labels, disagreement with annotators."""

from typing import Any

import numpy as np

from fer_lib.data.copies import NEAR, NearCopies, copy_groups, near_copies
from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.data.ferplus import majority, plurality
from fer_lib.labels import EMOTIONS_8, VOTES


def clean_test_ids(faces: FaceSet) -> np.ndarray:
    """Return the ids of the clean test images, without repeated images, in the order of the faces.

    A test image is clean if no byte-identical copy of it is in training or validation. If the test
    set itself contains copies of an image, only the first is kept.

    Returns:
        (M,) str.
    """
    groups = copy_groups(faces.images)
    clean = _clean_rows(faces, groups)
    _, first = np.unique(groups[clean], return_index=True)
    return faces.ids[np.sort(clean[first])] if len(clean) else faces.ids[:0]


def _clean_rows(faces: FaceSet, groups: np.ndarray) -> np.ndarray:
    """Return the rows of the test images without an exact copy in training or validation."""
    return np.flatnonzero((faces.split == "test") & ~np.isin(groups, groups[faces.split != "test"]))


def audit(faces: FaceSet, threshold: float = NEAR) -> dict[str, Any]:
    """Audit the copies among the images, their labels, and how far labels agree with votes.

    Args:
        threshold: correlation from which two images count as near copies. The default is for
            photographs. Drawn faces resemble each other more: at 0.95 exactly the planted pairs
            are found, at 0.92 some 20 others as well among 3,000 faces.

    Returns:
        A dict that can be written as JSON: `images` and `distinct` (their numbers), `copies`
        (byte-identical, see `_copies`), `near_copies` (see `_near`; also the `threshold`),
        `clean_test` (the number of `images`, and of `distinct` ones), `clean_test_ids` (of the
        distinct ones), `votes` (see `_agreement`; None if the faces have no votes).
    """
    groups = copy_groups(faces.images)
    near = near_copies(faces.images, threshold)
    ids = clean_test_ids(faces)
    return {
        "images": len(faces),
        "distinct": len(np.unique(groups)),
        "copies": _copies(faces, groups),
        "near_copies": _near(faces, groups, near) | {"threshold": threshold},
        "clean_test": {"images": len(_clean_rows(faces, groups)), "distinct": len(ids)},
        "clean_test_ids": ids.tolist(),
        "votes": None if faces.votes is None else _agreement(faces),
    }


def _membership(faces: FaceSet, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each group has images of each split (G, 3) and of each class (G, K), bool."""
    number = groups.max(initial=-1) + 1
    splits, classes = (np.zeros((number, kinds), bool) for kinds in (3, len(faces.classes)))
    splits[groups, [SPLITS.index(name) for name in faces.split]] = True
    classes[groups, faces.labels] = True
    return splits, classes


def _leaks(faces: FaceSet, groups: np.ndarray, splits: np.ndarray) -> dict[str, Any]:
    """Count the test images whose group is marked in `splits` (G, 3) for training or validation.

    Keys: their numbers `in_train` and `in_train_or_valid`; `by_class`: for each class, these two
    numbers and that of all its `test` images.
    """
    rows = faces.where("test")
    seen = {
        "in_train": splits[groups[rows], 0],
        "in_train_or_valid": splits[groups[rows], :2].any(1),
    }
    result: dict[str, Any] = {key: int(mask.sum()) for key, mask in seen.items()}
    total = {"test": np.ones(len(rows), bool)}
    counts = {
        key: np.bincount(faces.labels[rows[mask]], minlength=len(faces.classes)).tolist()
        for key, mask in (total | seen).items()
    }
    result["by_class"] = {
        name: {key: column[k] for key, column in counts.items()}
        for k, name in enumerate(faces.classes)
    }
    return result


def _copies(faces: FaceSet, groups: np.ndarray) -> dict[str, Any]:
    """Count the groups of two or more byte-identical images.

    Keys: number of `groups`, of `images` in them, and size of the `largest` group; groups with
    images in more than one split (`across_splits`) and the others (`within_split`); groups with
    `different_labels` and the others (`same_label`); `test`: test images with a copy in the other
    splits, see `_leaks`; `random_tenth`: see `_random_tenth`.
    """
    splits, classes = _membership(faces, groups)
    size = np.bincount(groups)
    copied = size > 1
    across, different = splits.sum(1) > 1, classes.sum(1) > 1  # only copied groups can be either
    return {
        "groups": int(copied.sum()),
        "images": int(size[copied].sum()),
        "largest": int(size.max(initial=0)),
        "across_splits": int(across.sum()),
        "within_split": int((copied & ~across).sum()),
        "different_labels": int(different.sum()),
        "same_label": int((copied & ~different).sum()),
        "test": _leaks(faces, groups, splits),
        "random_tenth": _random_tenth(faces, groups),
    }


def _random_tenth(faces: FaceSet, groups: np.ndarray) -> dict[str, int]:
    """Count the copies that a validation set drawn at random from the training images would leak.

    Keys: number of `images` in a random tenth (seed 0; copies are not kept together), and how many
    of them have an exact copy in the other nine tenths (`in_rest`).
    """
    rows = np.random.default_rng(0).permutation(faces.where("train"))
    tenth, rest = np.split(groups[rows], [len(rows) // 10])
    return {"images": len(tenth), "in_rest": int(np.isin(tenth, rest).sum())}


def _near(faces: FaceSet, groups: np.ndarray, near: NearCopies) -> dict[str, Any]:
    """Count the near copies, as pairs of distinct images.

    Keys: number of `images` that have a near copy (exact copies of an image are counted too), of
    `pairs`, and of `mirrored` pairs; pairs whose two images, with their exact copies, have more
    than one split (`across_splits`) or label (`different_labels`), and the other pairs
    (`within_split`, `same_label`); `test`: as in `_copies`, but for near copies, and only for test
    images without an exact copy in training or validation.
    """
    a, b = groups[near.pairs].T
    splits, classes = _membership(faces, groups)
    across = (splits[a] | splits[b]).sum(1) > 1
    different = (classes[a] | classes[b]).sum(1) > 1
    neighbours = _neighbours(groups, near, splits)
    images = int(neighbours[groups].any(1).sum())
    neighbours[splits[:, :2].any(1)] = False
    return {
        "images": images,
        "pairs": len(a),
        "mirrored": int(near.mirrored.sum()),
        "across_splits": int(across.sum()),
        "within_split": int((~across).sum()),
        "different_labels": int(different.sum()),
        "same_label": int((~different).sum()),
        "test": _leaks(faces, groups, neighbours),
    }


def _neighbours(groups: np.ndarray, near: NearCopies, splits: np.ndarray) -> np.ndarray:
    """Return whether each group has a near copy in each split, (G, 3) bool."""
    a, b = groups[near.pairs].T
    neighbours = np.zeros_like(splits)
    np.logical_or.at(neighbours, a, splits[b])
    np.logical_or.at(neighbours, b, splits[a])
    return neighbours


def _agreement(faces: FaceSet) -> dict[str, Any]:
    """Compare the labels with the plurality of the votes, and each annotator with the others.

    Rows without a vote for any emotion are left out (`left_out` is their number). The plurality is
    over all ten columns, so a label disagrees if "unknown" has the most votes. A tie goes to the
    column that comes first in FERPlus's file, as with an argmax over it; `ties` counts them.

    Keys: `images`, `left_out`, `ties`, `label_agrees` (share), `label_agrees_by_class`, `confusion`
    (`counts` with the labels as `rows` and the pluralities as `columns`), `annotator_agrees` (share
    of single votes that name the plurality of the other votes on the image), and `on_majority`:
    `images`, `label_agrees` and `annotator_agrees` for the images that have a label by FERPlus's
    `majority` mode.
    """
    voted = faces.votes[:, : len(EMOTIONS_8)].sum(1) > 0
    votes, labels = faces.votes[voted], faces.labels[voted]
    winner = plurality(votes)
    confusion = np.zeros((len(faces.classes), len(VOTES)), np.int64)
    np.add.at(confusion, (labels, winner), 1)
    clear = majority(votes) >= 0
    agrees = winner == labels
    return {
        "images": int(voted.sum()),
        "left_out": int((~voted).sum()),
        "ties": int(((votes == votes.max(1, keepdims=True)).sum(1) > 1).sum()),
        "label_agrees": _mean(agrees),
        "label_agrees_by_class": {
            name: _mean(agrees[labels == k]) for k, name in enumerate(faces.classes)
        },
        "confusion": {"rows": [*faces.classes], "columns": [*VOTES], "counts": confusion.tolist()},
        "annotator_agrees": _annotator_agrees(votes),
        "on_majority": {
            "images": int(clear.sum()),
            "label_agrees": _mean(agrees[clear]),
            "annotator_agrees": _annotator_agrees(votes[clear]),
        },
    }


def _mean(values: np.ndarray) -> float | None:
    """Return the mean as a Python float; None if there are no values, as JSON has no NaN."""
    return float(values.mean()) if len(values) else None


def _annotator_agrees(votes: np.ndarray) -> float | None:
    """Return the share of single votes that name the plurality of the other votes on an image."""
    agree = total = 0.0
    for column in range(votes.shape[1]):
        others = votes.copy()
        others[:, column] -= 1
        cast = np.where(others.sum(1) > 0, votes[:, column], 0)  # a single vote has no others
        agree += float(cast[plurality(others) == column].sum())
        total += float(cast.sum())
    return agree / total if total else None
