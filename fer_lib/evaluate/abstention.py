"""Answering only where a model is sure: accuracy against coverage, and thresholds. No torch."""

from typing import Any

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions, aligned
from fer_lib.evaluate.calibration import accuracy, exact, fit_temperature, scaled

TARGETS = (0.8, 0.9, 0.95)
"""Accuracies for which a threshold of confidence is chosen."""

SURE = 0.8
"""Accuracy, on validation images, of the answers that count as sure: four of five are right."""


def confidence_of(
    faces: FaceSet, predictions: Predictions, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) float64 of each answer of a split, and whether it is right, (N,) bool."""
    p = exact(aligned(faces, predictions, split))
    return p.max(1), p.argmax(1) == faces.labels[faces.where(split)]


STEPS = 20
"""Shares of the images for which accuracy is given, of equal distance."""


def coverage(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy on the surest images, for every share of images that is answered.

    Returns:
        From all images down to one of `STEPS` parts: `coverage` (share answered), `threshold`
        (least confidence answered), and what `accuracy` gives. Images of one confidence are
        answered together.
    """
    descending = np.sort(confidence)[::-1]
    ranks = np.ceil(np.arange(STEPS, 0, -1) / STEPS * len(confidence)).astype(int)
    points = []
    for threshold in descending[ranks - 1]:
        kept = confidence >= threshold
        share = {"coverage": float(kept.mean()), "threshold": float(threshold)}
        points.append(share | accuracy(correct[kept]))
    return points


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the curve of risk against coverage (https://arxiv.org/abs/1805.08206), 0..1.

    The mean, over k = 1..N, of the share of errors among the k surest answers. Where confidence
    says nothing it is the error rate. Images of one confidence stand in random order: their errors
    are spread evenly over their ranks.
    """
    order = np.argsort(-confidence)
    errors = np.cumsum(~correct[order])
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    k = np.arange(1, len(order) + 1)
    return float((np.interp(k, [0, *(ends + 1)], [0, *errors[ends]]) / k).mean())


def threshold_for(confidence: np.ndarray, correct: np.ndarray, target: float) -> float | None:
    """The least threshold at which the answers kept reach a target accuracy, or None.

    Kept are answers of at least the threshold. The least one answers the most images.
    """
    negated, group = np.unique(-confidence, return_inverse=True)  # the surest first
    kept = np.bincount(group).cumsum()
    right = np.bincount(group, correct).cumsum()
    good = np.flatnonzero(right >= target * kept)
    return float(-negated[good[-1]]) if len(good) else None


def abstention(faces: FaceSet, predictions: Predictions) -> dict[str, Any]:
    """What a model does that may leave images unanswered, on the test images.

    Returns:
        `aurc`, and `targets`: for each of `TARGETS` `target`, `threshold` (chosen on
        validation; None where no threshold reaches the target there), `valid_coverage`, and on the
        test images `coverage` and what `accuracy` gives, where an image is answered.
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


def operating_point(faces: FaceSet, predictions: Predictions) -> dict[str, Any]:
    """How a model is to be used: what calibrates it, and from when on an answer counts as sure.

    Returns:
        `temperature`; `threshold`, the least confidence at that temperature from which on the
        validation images are answered with accuracy `target`, None where there is none; and the
        share of the validation images that reach it, `valid_coverage`.
    """
    valid, labels = aligned(faces, predictions, "valid"), faces.labels[faces.where("valid")]
    temperature = fit_temperature(valid, labels)
    p = scaled(valid, temperature)
    threshold = threshold_for(p.max(1), p.argmax(1) == labels, SURE)
    covered = 0.0 if threshold is None else float((p.max(1) >= threshold).mean())
    return {
        "temperature": temperature,
        "target": SURE,
        "threshold": threshold,
        "valid_coverage": covered,
    }
