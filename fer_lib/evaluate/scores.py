"""Compute scores from kept probabilities: metrics, bootstrap, paired tests. Needs no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_lib.data.audit import clean_test_ids
from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import majority
from fer_lib.evaluate.predictions import Predictions, aligned

DRAWS = 2000
"""Number of resamples of every bootstrap."""


def metrics(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Compute the metrics of one set of predictions, as plain numbers.

    A class without labels scores 0 with support 0 in `per_class`, and is left out of `macro_f1`,
    `balanced_accuracy` and `macro`, which average over the classes that occur. If nothing is
    predicted as a class, its precision is 0.

    Args:
        probabilities: (N, K) float, N > 0. The prediction is the largest in a row, or the first of
            several that are equal.
        labels: (N,) int64.
        classes: K names.

    Returns:
        `n`, `accuracy`, `macro_f1`, `balanced_accuracy` (mean-class accuracy), `nll` (nats per
        image), `weighted` and `macro` (mean precision, recall and f1, weighted by support or not),
        `per_class` (name -> precision, recall, f1, support), `confusion` (K lists of K
        counts; rows true, columns predicted).
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    every = np.arange(len(classes))
    predicted = probabilities.argmax(1)
    scored = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    means = {
        average: precision_recall_fscore_support(
            labels, predicted, labels=counted, average=average, zero_division=0
        )
        for average, counted in (("weighted", every), ("macro", np.unique(labels)))
    }
    exact = probabilities.astype(np.float64)
    confusion = confusion_matrix(labels, predicted, labels=every)
    keys = ("precision", "recall", "f1", "support")
    return {
        "n": len(labels),
        **{name: float(value[0]) for name, value in _summary(confusion[None]).items()},
        "nll": float(log_loss(labels, exact / exact.sum(1, keepdims=True), labels=every)),
        **{
            average: {key: float(x) for key, x in zip(keys[:3], mean[:3], strict=True)}
            for average, mean in means.items()
        },
        "per_class": {
            name: dict(zip(keys, [*map(float, row[:3]), int(row[3])], strict=True))
            for name, row in zip(classes, np.transpose(scored), strict=True)
        },
        "confusion": confusion.tolist(),
    }


def _summary(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Compute accuracy, macro-F1, balanced accuracy of confusion matrices (B, K, K): (B,) each."""
    hits = np.diagonal(confusion, axis1=1, axis2=2).astype(float)
    actual, predicted = confusion.sum(2), confusion.sum(1)
    occurs = (actual > 0).sum(1)
    recall = hits / np.maximum(actual, 1)
    # A class without a label has no hits, so it adds 0 to both sums.
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    return {
        "accuracy": hits.sum(1) / confusion.sum((1, 2)),
        "macro_f1": f1.sum(1) / occurs,
        "balanced_accuracy": recall.sum(1) / occurs,
    }


def bootstrap(confusion: np.ndarray | Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Compute 95 % percentile bootstrap intervals of accuracy, macro-F1 and balanced accuracy.

    Drawing images with replacement draws the cells of the confusion matrix from a multinomial
    distribution, and all three scores are functions of its counts. So this is exactly the ordinary
    bootstrap over images, in milliseconds. Scores of a draw average over the classes that occur in
    it, as in `metrics`. The same counts give the same intervals; with another numpy or processor
    their ends may differ by hundredths of a point.

    Args:
        confusion: (K, K) counts; rows true, columns predicted.

    Returns:
        `{"accuracy": [low, high], "macro_f1": ..., "balanced_accuracy": ...}`.
    """
    counts = np.asarray(confusion)
    share = counts.ravel() / counts.sum()
    draws = np.random.default_rng(0).multinomial(counts.sum(), share, size=DRAWS)
    scores = _summary(draws.reshape(DRAWS, *counts.shape))
    return {name: np.quantile(value, [0.025, 0.975]).tolist() for name, value in scores.items()}


def resamples(n: int) -> np.ndarray:
    """Return how often each of n things is in each resample of a bootstrap: (DRAWS, n) int64."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)


def evaluate(faces: FaceSet, predictions: Predictions, split: str = "test") -> dict[str, Any]:
    """Score the predictions of a split ("test" or "valid") in all the ways of the protocol.

    Returns:
        `full`: `metrics` on every image, with their 95 % `interval` (see `bootstrap`).
        `clean` (test only): the same on `audit.clean_test_ids`.
        `ferplus_majority` (if there are votes): the same against the labels of FERPlus's
        `majority` mode, with the number of images `left_out` because they have no such label
        (`no_majority`), or one that is not a class of the model (`no_class`: contempt, for seven
        classes).
        A part without images is None.

    Raises:
        InputError: the predictions are not for exactly these images, or for other classes; or the
            faces were changed after loading (see `FaceSet.require_unchanged`).
    """
    probabilities = aligned(faces, predictions, split)
    result = {
        part: _scored(probabilities[labels >= 0], labels[labels >= 0], faces.classes)
        for part, labels in labels_by_part(faces, split).items()
    }
    if result.get("ferplus_majority"):
        winner = majority(faces.votes[faces.where(split)])
        result["ferplus_majority"]["left_out"] = {
            "no_majority": int((winner < 0).sum()),
            "no_class": int((winner >= len(faces.classes)).sum()),
        }
    return result


def labels_by_part(faces: FaceSet, split: str = "test") -> dict[str, np.ndarray]:
    """Return the labels that a split is scored against, for each part of `evaluate`.

    Returns:
        Part name -> (N,) int64 in the order of `faces.where(split)`; -1 for images left out.
    """
    rows = faces.where(split)
    labels = faces.labels[rows]
    parts = {"full": labels}
    if split == "test":
        parts["clean"] = np.where(np.isin(faces.ids[rows], clean_test_ids(faces)), labels, -1)
    if faces.votes is not None:
        winner = majority(faces.votes[rows])
        parts["ferplus_majority"] = np.where(winner < len(faces.classes), winner, -1)
    return parts


def _scored(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any] | None:
    if not len(labels):
        return None
    result = metrics(probabilities, labels, classes)
    return {**result, "interval": bootstrap(result["confusion"])}


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Test whether two models are equally often right on the same images (McNemar's exact test).

    Only images on which exactly one model is right count: under the hypothesis, each model is right
    on half of them (binomial).

    Args:
        correct_a, correct_b: (N,) bool, row i of both the same image.

    Returns:
        The two-sided p value; 1.0 if there are no such images.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape:
        raise ValueError(f"paired answers on the same images needed, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust p values for their number by Holm's step-down method: (M,), in the given order."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
