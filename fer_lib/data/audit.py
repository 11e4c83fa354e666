"""What is wrong with a dataset: copied images, conflicting labels, disagreement with annotators."""

from typing import Any

import numpy as np

from fer_lib.data.copies import NEAR, NearCopies, copy_groups, near_copies
from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.data.ferplus import majority, plurality
from fer_lib.labels import EMOTIONS_8, VOTES


def clean_test_ids(faces: FaceSet) -> np.ndarray:
    """Ids of the clean test images, each counted once, in the order of the faces.

    A test image is clean where no copy of it, byte for byte, stands in training or validation. Of
    copies within the test set the first stands for all. (M,) str.
    """
    groups = copy_groups(faces.images)
    clean = _clean_rows(faces, groups)
    _, first = np.unique(groups[clean], return_index=True)
    return faces.ids[np.sort(clean[first])] if len(clean) else faces.ids[:0]


def _clean_rows(faces: FaceSet, groups: np.ndarray) -> np.ndarray:
    """Rows of the test images without a copy in training or validation."""
    return np.flatnonzero((faces.split == "test") & ~np.isin(groups, groups[faces.split != "test"]))


def audit(faces: FaceSet, threshold: float = NEAR) -> dict[str, Any]:
    """Audit copies, their labels, and the agreement of labels with votes; JSON-serialisable.

    The default `threshold` of near copies is for photographs. Drawn faces resemble each other more:
    at .95 exactly the planted pairs are found, at .92 some 20 others among 3,000 faces.

    Keys: `images`, `distinct`, `copies` (byte-identical, see `_copies`), `near_copies` (see
    `_near`), `clean_test` (`images`; `distinct`: each counted once), `clean_test_ids` (the latter),
    `votes` (see `_agreement`; None where the faces have none).
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
    """Whether each group has images of each split (G, 3) and of each class (G, K), bool."""
    number = groups.max(initial=-1) + 1
    splits, classes = (np.zeros((number, kinds), bool) for kinds in (3, len(faces.classes)))
    splits[groups, [SPLITS.index(name) for name in faces.split]] = True
    classes[groups, faces.labels] = True
    return splits, classes


def _leaks(faces: FaceSet, groups: np.ndarray, splits: np.ndarray) -> dict[str, Any]:
    """Test images whose group is marked for training, or for training or validation, by class."""
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
    """Groups of two or more byte-identical images.

    `groups`, `images` in them, size of the `largest`; groups `across_splits`, and `within_split`
    the rest; groups with `different_labels`, and `same_label` the rest; `test`: test images with a
    copy `in_train` and `in_train_or_valid`, and the same `by_class` beside all `test` images of the
    class; `random_tenth`: see `_random_tenth`.
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
    """What a validation set drawn from the training images at random, copies or not, would leak.

    `images` in a tenth of them, drawn by seed 0, and how many have a copy `in_rest`.
    """
    rows = np.random.default_rng(0).permutation(faces.where("train"))
    tenth, rest = np.split(groups[rows], [len(rows) // 10])
    return {"images": len(tenth), "in_rest": int(np.isin(tenth, rest).sum())}


def _near(faces: FaceSet, groups: np.ndarray, near: NearCopies) -> dict[str, Any]:
    """Near copies, as pairs of distinct images.

    `images` that have a near copy, counted with their exact copies; `pairs`, of them `mirrored`;
    `across_splits` and `different_labels`: some image of the one group and some image of the other
    differ in it; `within_split`, `same_label`: the rest; `test`: as in `_copies`, but with a near
    copy there, and only of test images that are clean of exact ones.
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
    """Whether each group has a near copy in each split, (G, 3) bool."""
    a, b = groups[near.pairs].T
    neighbours = np.zeros_like(splits)
    np.logical_or.at(neighbours, a, splits[b])
    np.logical_or.at(neighbours, b, splits[a])
    return neighbours


def _agreement(faces: FaceSet) -> dict[str, Any]:
    """Labels against the plurality of the votes, and one annotator against the others.

    Rows without a vote for any emotion are left out (`left_out`). The plurality is over all ten
    columns, so a label disagrees where most say "unknown"; a tie (`ties` counts them) goes to the
    first of FERPlus's columns, as an argmax over its file does. That puts *fear* behind all but
    contempt: were tied classes to share the credit, FER2013's labels would agree on 63.2 % instead
    of 62.6, on *fear* 13.9 instead of 12.6, and annotators on 70.1 instead of 70.2.

    Keys: `images`, `left_out`, `ties`, `label_agrees` (share), `label_agrees_by_class`,
    `confusion` (`rows` the labels, `columns` the pluralities, `counts`), `annotator_agrees` (share
    of single votes that name the plurality of the other votes on the image), and the last two
    figures again `on_majority`, the `images` with a label by FERPlus's `majority` mode.
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
    """Mean as a plain number; None for no values, as JSON has no NaN."""
    return float(values.mean()) if len(values) else None


def _annotator_agrees(votes: np.ndarray) -> float | None:
    """Share of single votes that name the plurality of the other votes on their image."""
    agree = total = 0.0
    for column in range(votes.shape[1]):
        others = votes.copy()
        others[:, column] -= 1
        cast = np.where(others.sum(1) > 0, votes[:, column], 0)  # a lone vote has no others
        agree += float(cast[plurality(others) == column].sum())
        total += float(cast.sum())
    return agree / total if total else None
