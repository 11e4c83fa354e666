"""Measure what copied images add to a score: test images also in training or validation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.compare.annotators import label_is_plurality
from fer_lib.compare.answers import Answers
from fer_lib.data.audit import clean_test_ids
from fer_lib.data.copies import copy_groups
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import DRAWS, resamples

Counts = Callable[[np.ndarray], np.ndarray]
"""Function of one value for each test image, (N,), that gives their sum in each resample."""


def inflation(answers: Answers) -> pd.DataFrame:
    """Compare the accuracy of each run on all test images with that on the clean ones.

    Returns:
        One row per run, in the order of the runs, indexed by `name`; NaN if there are no images of
        a kind. Columns:

        * `accuracy`, `clean_accuracy`: on all and on the clean test images (see
          `audit.clean_test_ids`).
        * `inflation`: `accuracy` minus `clean_accuracy`; `low`, `high`: its 95 % interval, by a
          bootstrap that draws an image together with all of its copies. Here and below, resamples
          without an image that the difference needs are left out.
        * `copied`, `distinct`: number of test images with and without a copy in training or
          validation; `copied_accuracy`, `distinct_accuracy`: accuracy on them.
        * `expected`: the accuracy that the recalls on the distinct images would give on the copied
          ones, with their mix of classes.
        * `copied_less_expected`: `copied_accuracy` minus `expected`. It may be due to memorisation
          or to copied pictures that are easier than others of their class, as much-used ones may
          be (see `by_kind`). `least_left`, `most_left`: its 95 % interval, by the same bootstrap.
    """
    faces, rows = answers.faces, answers.faces.where("test")
    groups = copy_groups(faces.images)
    copied = np.isin(groups[rows], groups[faces.split != "test"])
    clean = np.isin(faces.ids[rows], clean_test_ids(faces))
    counts, labels = resampled(groups[rows]), answers.labels("test")

    table = {}
    for name, right in zip(answers.names, answers.correct, strict=True):
        everyone = np.ones(len(rows), bool)
        low, high = _interval(_drawn(right, everyone, counts) - _drawn(right, clean, counts))
        left = beyond_classes(right, labels, copied, ~copied, counts)
        clean_accuracy = _mean(right[clean])
        table[name] = {
            "accuracy": right.mean(),
            "clean_accuracy": clean_accuracy,
            **{"inflation": right.mean() - clean_accuracy, "low": low, "high": high},
            **{"copied": int(copied.sum()), "distinct": int((~copied).sum())},
            **{"copied_accuracy": left["found"], "distinct_accuracy": _mean(right[~copied])},
            **{"expected": left["expected"], "copied_less_expected": left["difference"]},
            **{"least_left": left["low"], "most_left": left["high"]},
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("name")


KINDS = ("same label", "other label", "validation only", "all")
"""Kinds of copied test images: all of their copies in training have the same label; one has another
label; there is a copy in validation but none in training. No run has learned from the third."""


def by_kind(answers: Answers, names: Sequence[str]) -> dict[str, Any] | None:
    """Compare what is found of each kind of copied test images with what their classes promise.

    The annotators cannot remember a label, so what they find beyond their classes shows how much
    easier the pictures are, or how much surer their labels.

    Args:
        answers: of all runs.
        names: of the runs to take the mean of: those that learned from the original labels.

    Returns:
        `runs` (their number) and `kinds`, one dict for each of `KINDS`: `kind`, `images` (their
        number), what `beyond_classes` returns for the mean of the runs; and, None without votes,
        `annotators`: the same for the share of images whose label has the most votes, among the
        `images` with a vote, and `rest`: the `difference` of the runs minus that of the annotators
        and its 95 % interval `low`, `high`. None if there is no run or no copied image.
    """
    faces, labels = answers.faces, answers.labels("test")
    kinds, (people, voted) = copied_kinds(faces), label_is_plurality(faces)
    if not len(names) or not kinds["all"].any():
        return None
    right, others = answers.correct[answers.rows(names)].mean(0), ~kinds["all"]
    counts = resampled(copy_groups(faces.images)[faces.where("test")])
    rows = []
    for kind, some in kinds.items():
        runs = (right, labels, some, others, counts)
        seen = (people, labels, some & voted, others & voted, counts)
        row = {"kind": kind, "images": int(some.sum()), **beyond_classes(*runs)}
        row |= {"annotators": None, "rest": None}
        if voted.any():
            row["annotators"] = {"images": int(seen[2].sum()), **beyond_classes(*seen)}
            least, most = _interval(drawn_beyond(*runs) - drawn_beyond(*seen))
            rest = row["difference"] - row["annotators"]["difference"]
            row["rest"] = {"difference": rest, "low": least, "high": most}
        rows.append(row)
    return {"runs": len(names), "kinds": rows}


def copied_kinds(faces: FaceSet) -> dict[str, np.ndarray]:
    """Return which test images are of each of `KINDS`, (N,) bool."""
    groups = copy_groups(faces.images)
    rows, train = faces.where("test"), faces.where("train")
    taught = np.zeros((groups.max(initial=-1) + 1, len(faces.classes)), bool)
    taught[groups[train], faces.labels[train]] = True
    taught, own = taught[groups[rows]], np.eye(len(faces.classes), dtype=bool)[faces.labels[rows]]
    learned, other = taught.any(1), (taught & ~own).any(1)
    valid = np.isin(groups[rows], groups[faces.where("valid")])
    masks = (learned & ~other, other, valid & ~learned, valid | learned)
    return dict(zip(KINDS, masks, strict=True))


def resampled(groups: np.ndarray) -> Counts:
    """Return a function that sums values over bootstrap draws of images with all of their copies.

    Args:
        groups: (N,) int64, equal for copies.

    Returns:
        A function of (N,) values that gives their sum in each resample, (DRAWS,).
    """
    _, group = np.unique(groups, return_inverse=True)
    number = group.max(initial=0) + 1
    weights = resamples(number)
    return lambda values: weights @ np.bincount(group, values, number)


def beyond_classes(
    right: np.ndarray, labels: np.ndarray, some: np.ndarray, others: np.ndarray, counts: Counts
) -> dict[str, float]:
    """Compare the accuracy on some images with what the recalls on others give for their classes.

    Args:
        right: (N,) bool, whether each test image is right, or the share of runs that have it right.
        labels: (N,) int64, of the test images.
        some, others: (N,) bool, two sets of test images.
        counts: as `resampled` returns it.

    Returns:
        `found` (accuracy on `some`), `expected` (see there), `difference` (the first minus the
        second) and its 95 % interval `low`, `high`, over the resamples in which it is defined; NaN
        for what is not defined.
    """
    found, mixed = _mean(right[some]), expected(right, labels, some, others)
    drawn = drawn_beyond(right, labels, some, others, counts)
    low, high = _interval(drawn)
    return {
        **{"found": found, "expected": mixed, "difference": found - mixed},
        **{"low": low, "high": high},
    }


def drawn_beyond(
    right: np.ndarray, labels: np.ndarray, some: np.ndarray, others: np.ndarray, counts: Counts
) -> np.ndarray:
    """Return the `difference` of `beyond_classes` in each resample, (DRAWS,); NaN if undefined."""
    if np.isnan(expected(right, labels, some, others)):
        return np.full(DRAWS, np.nan)
    classes = [labels == one for one in np.unique(labels[some])]
    promised = np.zeros(DRAWS)
    for one in classes:
        number, recall = counts(one & some), _drawn(right, one & others, counts)
        promised += np.where(number > 0, number * recall, 0)  # a class not drawn needs no recall
    return _drawn(right, some, counts) - promised / np.maximum(counts(some), 1)


def expected(right: np.ndarray, labels: np.ndarray, some: np.ndarray, others: np.ndarray) -> float:
    """Return the accuracy that some images would have with the recalls on the others.

    Args:
        right, labels, some, others: as in `beyond_classes`.

    Returns:
        A share in 0..1; NaN without images, or if one of their classes has no image in `others`.
    """
    classes, numbers = np.unique(labels[some], return_counts=True)
    recalls = [right[others & (labels == one)] for one in classes]
    if not len(classes) or not all(map(len, recalls)):
        return np.nan
    return float(numbers @ [one.mean() for one in recalls] / numbers.sum())


def _drawn(right: np.ndarray, among: np.ndarray, counts: Counts) -> np.ndarray:
    """Return the accuracy among some of the images in each resample, (DRAWS,); NaN without any."""
    number = counts(among)
    return np.where(number > 0, counts(right * among) / np.maximum(number, 1), np.nan)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the resamples that are not NaN; NaN if there are none."""
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (np.nan, np.nan)
    return low, high


def _mean(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else np.nan
