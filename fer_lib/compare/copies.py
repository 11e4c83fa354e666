"""Measure what copied images add to a score: test images also in training or validation."""

import numpy as np
import pandas as pd

from fer_lib.compare.answers import Answers
from fer_lib.data.audit import clean_test_ids
from fer_lib.data.copies import copy_groups
from fer_lib.evaluate import DRAWS


def inflation(answers: Answers) -> pd.DataFrame:
    """Compare the accuracy of each run on all test images with that on the clean ones.

    Returns:
        One row per run, in the order of the runs, indexed by `name`; NaN if there are no images of
        a kind. Columns:

        * `accuracy`, `clean_accuracy`: on all and on the clean test images (see
          `audit.clean_test_ids`).
        * `inflation`: `accuracy` minus `clean_accuracy`; `low`, `high`: its 95 % interval, by a
          bootstrap that draws an image together with all of its copies.
        * `copied`, `distinct`: number of test images with and without a copy in training or
          validation; `copied_accuracy`, `distinct_accuracy`: accuracy on them.
        * `expected`: the accuracy that the recalls on the distinct images would give on the copied
          ones, with their mix of classes.
        * `copied_less_expected`: `copied_accuracy` minus `expected`. It may be due to memorisation
          or to copied pictures that are easier than others of their class, as much-used ones may
          be. `least_left`, `most_left`: its 95 % interval, by the same bootstrap.
    """
    faces, rows = answers.faces, answers.faces.where("test")
    groups = copy_groups(faces.images)
    copied = np.isin(groups[rows], groups[faces.split != "test"])
    clean = np.isin(faces.ids[rows], clean_test_ids(faces))
    _, group = np.unique(groups[rows], return_inverse=True)
    number = group.max() + 1
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), DRAWS)

    def counts(some: np.ndarray) -> np.ndarray:
        """Count the images of a (N,) bool mask in each resample: (DRAWS,)."""
        return weights @ np.bincount(group, some, number)

    def drawn(right: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return the accuracy among some of the images in each resample: (DRAWS,)."""
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
    """Return the accuracy that the copied images would have with the recalls of the others.

    Args:
        right: (N,) bool, whether each test image is classified correctly.
        labels: (N,) int64, of the test images.
        copied: (N,) bool, whether each test image is a copied one.

    Returns:
        A share in 0..1; NaN without copied images, or if one of their classes has no other image.
    """
    classes, numbers = np.unique(labels[copied], return_counts=True)
    others = [right[~copied & (labels == one)] for one in classes]
    if not len(classes) or not all(map(len, others)):
        return np.nan
    return float(numbers @ [some.mean() for some in others] / numbers.sum())
