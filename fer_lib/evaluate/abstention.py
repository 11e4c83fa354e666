"""Let a model answer only if it is sure: accuracy against coverage, thresholds. Needs no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions, aligned
from fer_lib.evaluate.calibration import accuracy, exact, fit_temperature, scaled

TARGETS = (0.8, 0.9, 0.95)
"""Accuracies for which a confidence threshold is chosen."""

SURE = 0.8
"""Accuracy on validation images that the sure answers must reach: four of five are right."""


def confidence_of(
    faces: FaceSet, predictions: Predictions, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence and correctness of the answers of a split ("test" or "valid").

    Returns:
        The confidence of each answer, (N,) float64, and whether it is right, (N,) bool.
    """
    p = exact(aligned(faces, predictions, split))
    return p.max(1), p.argmax(1) == faces.labels[faces.where(split)]


STEPS = 20
"""Number of equally spaced shares of the images for which accuracy is given."""


def coverage(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Compute the accuracy on the surest images, for falling shares of answered images.

    Args:
        confidence: (N,) float.
        correct: (N,) bool.

    Returns:
        For `STEPS` shares, from all images down to 1 / `STEPS` of them: `coverage` (share
        answered), `threshold` (lowest confidence answered), and the entries of
        `calibration.accuracy`. Images of equal confidence are answered together.
    """
    descending = np.sort(confidence)[::-1]
    ranks = -(-np.arange(STEPS, 0, -1) * len(confidence) // STEPS)  # rounded up
    points = []
    for threshold in descending[ranks - 1]:
        kept = confidence >= threshold
        share = {"coverage": float(kept.mean()), "threshold": float(threshold)}
        points.append(share | accuracy(correct[kept]))
    return points


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Compute the area under the curve of risk against coverage, 0..1.

    It is the mean, over k = 1..N, of the share of errors among the k surest answers
    (https://arxiv.org/abs/1805.08206). If confidence says nothing, the area is the error rate.
    Images of equal confidence count as in random order: their errors are spread evenly over their
    ranks.
    """
    order = np.argsort(-confidence)
    errors = np.cumsum(~correct[order])
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    k = np.arange(1, len(order) + 1)
    return float((np.interp(k, [0, *(ends + 1)], [0, *errors[ends]]) / k).mean())


def threshold_for(confidence: np.ndarray, correct: np.ndarray, target: float) -> float | None:
    """Return the lowest threshold at which the kept answers reach a target accuracy, or None.

    An answer is kept if its confidence is at least the threshold. The lowest threshold answers the
    most images.
    """
    negated, group = np.unique(-confidence, return_inverse=True)  # the surest first
    kept = np.bincount(group).cumsum()
    right = np.bincount(group, correct).cumsum()
    good = np.flatnonzero(right >= target * kept)
    return float(-negated[good[-1]]) if len(good) else None


def abstention(faces: FaceSet, predictions: Predictions) -> dict[str, Any]:
    """Evaluate on the test images a model that may leave images unanswered.

    Returns:
        `aurc`, and `targets`, a dict for each of `TARGETS`: `target`, `threshold` (chosen on
        validation), `valid_coverage`, and on the test images `coverage` and, if any image is
        answered, the entries of `calibration.accuracy`. If no threshold reaches the target on
        validation, `threshold` is None and the entries after it are missing.
    """
    confidence, correct = confidence_of(faces, predictions, "test")
    valid = confidence_of(faces, predictions, "valid")
    rows = []
    for target in TARGETS:
        row: dict[str, Any] = {"target": target, "threshold": threshold_for(*valid, target)}
        if row["threshold"] is not None:
            row["valid_coverage"] = float((valid[0] >= row["threshold"]).mean())
            kept = confidence >= row["threshold"]
            row["coverage"] = float(kept.mean())
            row |= accuracy(correct[kept]) if kept.any() else {}
        rows.append(row)
    return {"aurc": aurc(confidence, correct), "targets": rows}


def table(targets: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Tabulate the `targets` of `abstention`, a row for each target, such as "90% wanted"."""
    called = {"valid_coverage": "answered on validation", "coverage": "answered", "n": "images"}
    rows = pd.DataFrame(targets).set_index("target").rename(index="{:.0%} wanted".format)
    return rows.rename(columns=called)


def operating_point(faces: FaceSet, predictions: Predictions) -> dict[str, Any]:
    """Choose on validation how a model is used: its temperature, and when an answer is sure.

    Returns:
        `temperature`, which calibrates the model; `target`, which is `SURE`; and `threshold`, the
        lowest confidence at that temperature from which on the validation images are answered with
        accuracy `target`, or None if there is none.
    """
    valid, labels = aligned(faces, predictions, "valid"), faces.labels[faces.where("valid")]
    temperature = fit_temperature(valid, labels)
    p = scaled(valid, temperature)
    threshold = threshold_for(p.max(1), p.argmax(1) == labels, SURE)
    return {"temperature": temperature, "target": SURE, "threshold": threshold}
