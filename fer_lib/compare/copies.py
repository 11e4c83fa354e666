"""What copied images add to a score: test images that also stand in training or validation."""

import numpy as np
import pandas as pd

from fer_lib.compare.answers import Answers
from fer_lib.data.audit import clean_test_ids
from fer_lib.data.copies import copy_groups
from fer_lib.evaluate import DRAWS


def inflation(answers: Answers) -> pd.DataFrame:
    """Accuracy on all test images less that on the clean ones, by run, in the order of the runs.

    Columns: `accuracy`, `clean_accuracy` (see `audit.clean_test_ids`), `inflation` (the first less
    the second), `low`, `high` (95 % interval of the difference, by a bootstrap that draws an image
    together with all of its copies), `copied` and `distinct` (number of test images with and
    without a copy in training or validation), `copied_accuracy`, `distinct_accuracy`, `expected`
    (what the recalls on the distinct images would give on the copied ones, by their mix of classes)
    and `copied_less_expected`: what is left for memory, and for copied pictures that are easier
    than others of their class, as much-used ones may be, with `least_left`, `most_left` (its 95 %
    interval, by the same bootstrap). NaN where there are no such images.
    """
    faces, rows = answers.faces, answers.faces.where("test")
    groups = copy_groups(faces.images)
    copied = np.isin(groups[rows], groups[faces.split != "test"])
    clean = np.isin(faces.ids[rows], clean_test_ids(faces))
    _, group = np.unique(groups[rows], return_inverse=True)
    number = group.max() + 1
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), DRAWS)

    def counts(some: np.ndarray) -> np.ndarray:
        """How many of some images each resample has: (DRAWS,)."""
        return weights @ np.bincount(group, some, number)

    def drawn(right: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Accuracy (DRAWS,) among some of the images."""
        return counts(right & among) / np.maximum(counts(among), 1)

    labels = answers.labels("test")
    classes = [labels == one for one in np.unique(labels[copied])]

    table = {}
    for name, right in zip(answers.names, answers.correct, strict=True):
        scores = {
            key: right[some].mean() if some.any() else np.nan
            for key, some in (("clean", clean), ("copied", copied), ("distinct", ~copied))
        }
        low = high = np.nan
        if clean.any():
            difference = drawn(right, np.ones(len(rows), bool)) - drawn(right, clean)
            low, high = np.quantile(difference, [0.025, 0.975])
        mixed, left = expected(right, labels, copied), (np.nan, np.nan)
        if not np.isnan(mixed):
            found = sum(counts(one & copied) * drawn(right, one & ~copied) for one in classes)
            above = drawn(right, copied) - found / np.maximum(counts(copied), 1)
            left = np.quantile(above, [0.025, 0.975])
        table[name] = {
            "accuracy": right.mean(),
            "clean_accuracy": scores["clean"],
            **{"inflation": right.mean() - scores["clean"], "low": low, "high": high},
            **{"copied": int(copied.sum()), "distinct": int((~copied).sum())},
            **{f"{key}_accuracy": scores[key] for key in ("copied", "distinct")},
            "expected": mixed,
            "copied_less_expected": scores["copied"] - mixed,
            **dict(zip(("least_left", "most_left"), left, strict=True)),
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("name")


def expected(right: np.ndarray, labels: np.ndarray, copied: np.ndarray) -> float:
    """Accuracy on the copied images if each class were found as often as on the others.

    NaN without copied images, or where one of their classes has no other image.

    Args:
        right, labels, copied: (N,) bool, int64 and bool, of the test images.
    """
    classes, numbers = np.unique(labels[copied], return_counts=True)
    others = [right[~copied & (labels == one)] for one in classes]
    if not len(classes) or not all(map(len, others)):
        return np.nan
    return float(numbers @ [some.mean() for some in others] / numbers.sum())
