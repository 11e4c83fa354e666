"""Check whether confidence is what it claims to be; temperature scaling. Needs no torch.

The confidence of an answer is the largest of its probabilities. A model is calibrated if, of all
answers with confidence c, the share c is right.
"""

from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import DRAWS, Predictions, aligned, resamples

BINS = 15
"""Number of bins of the expected calibration error, of equal width, as usual in the literature."""

TEMPERATURES = (0.05, 20.0)
"""Range in which the temperature is searched."""

FLOOR = np.finfo(np.float64).eps
"""Lowest probability whose logarithm is taken; scikit-learn's log_loss has the same."""


def exact(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities (N, K) as float64 rows that sum to 1."""
    rows = np.asarray(probabilities, np.float64)
    return rows / rows.sum(1, keepdims=True)


def accuracy(correct: np.ndarray) -> dict[str, Any]:
    """Compute the accuracy of answers with its 95 % interval.

    The interval is Wilson's. With thousands of images it agrees with the bootstrap's; if all of a
    few answers are right, the bootstrap's has no width.

    Args:
        correct: (N,) bool, N > 0.

    Returns:
        `n`, `accuracy`, `low` and `high`.
    """
    from scipy.stats import binomtest

    found = binomtest(int(np.sum(correct)), len(correct))
    low, high = found.proportion_ci(0.95, method="wilson")
    share = {"accuracy": found.statistic, "low": low, "high": high}
    return {"n": len(correct)} | {name: float(value) for name, value in share.items()}


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the bin number of each confidence, (N,) int64; a bin includes its upper edge."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left")


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> list[dict[str, Any]]:
    """Compare confidence with accuracy on images of similar confidence.

    Args:
        confidence: (N,) float in 0..1.
        correct: (N,) bool.
        bins: number of bins of equal width.

    Returns:
        For each bin that has images: `from`, `to` (its edges), `confidence` (mean), and `n`,
        `accuracy`, `low`, `high` from `accuracy`.
    """
    inside = bin_of(confidence, bins)
    return [
        {
            "from": number / bins,
            "to": (number + 1) / bins,
            "confidence": float(confidence[inside == number].mean()),
            **accuracy(correct[inside == number]),
        }
        for number in np.unique(inside).tolist()
    ]


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compute expected calibration error, negative log-likelihood and Brier score, with intervals.

    ECE is the mean over images of the gap between accuracy and mean confidence of an image's bin
    (https://arxiv.org/abs/1706.04599; `BINS` bins of equal width, top label only). The Brier score
    is the sum over classes of the squared differences from the one-hot label, 0 to 2, as in Brier
    (1950); some software halves it.

    Sampling noise alone makes the ECE of a calibrated model larger than 0, and resampling adds the
    same noise once more. So the intervals are those of the basic bootstrap, which subtracts this
    noise again, and can lie below the value itself; `ece_if_calibrated` says how large the ECE can
    be by noise alone.

    Args:
        probabilities: (N, K) float.
        labels: (N,) int64.

    Returns:
        `ece`, `nll` (nats per image), `brier`; `interval` (name -> [low, high], 95 %);
        `confidence` (mean); `ece_if_calibrated`: 95 % of calibrated models with these confidences
        and this number of images have at most this ECE.
    """
    p = exact(probabilities)
    confidence, correct = p.max(1), p.argmax(1) == labels
    own = p[np.arange(len(p)), labels]
    member = np.eye(BINS)[bin_of(confidence)]  # (N, BINS)
    gap = member * (confidence - correct)[:, None]
    # The squared distance to a one-hot label is |p|² - 2 p_label + 1.
    terms = np.column_stack([-np.log(own.clip(FLOOR)), (p**2).sum(1) - 2 * own + 1, gap])
    found = _from_sums(terms.sum(0, keepdims=True), len(p))
    drawn = _from_sums(resamples(len(p)) @ terms, len(p))
    interval = {}
    for name, (value,) in found.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        interval[name] = [max(0.0, float(2 * value - bound)) for bound in (high, low)]
    return {
        **{name: float(value[0]) for name, value in found.items()},
        "interval": interval,
        "confidence": float(confidence.mean()),
        "ece_if_calibrated": _ece_if_calibrated(confidence, member),
    }


def _from_sums(sums: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Compute scores from sums over images, (B, 2 + BINS): NLL, Brier, and gap of each bin."""
    nll, brier = sums[:, 0] / n, sums[:, 1] / n
    return {"ece": np.abs(sums[:, 2:]).sum(1) / n, "nll": nll, "brier": brier}


def _ece_if_calibrated(confidence: np.ndarray, member: np.ndarray) -> float:
    """Return the 95 % quantile of the ECE if answers are right with the probability they claim."""
    right = np.random.default_rng(0).random((DRAWS, len(confidence))) < confidence
    drawn = np.abs((confidence - right) @ member).sum(1) / len(confidence)
    return float(np.quantile(drawn, 0.95))


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities (N, K) float64 after dividing the logits by a temperature.

    The logarithm of a probability is its logit up to a constant, which does not change a softmax. A
    temperature above 1 makes a model less sure; the most probable class stays the same.
    """
    from scipy.special import softmax

    return softmax(np.log(exact(probabilities).clip(FLOOR)) / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature with the lowest negative log-likelihood.

    This is temperature scaling (https://arxiv.org/abs/1706.04599). The likelihood has one optimum,
    as its negative logarithm is convex in 1/T. If every answer is right, the best temperature is 0,
    and if answers are worse than chance, it is infinite. Then the end of `TEMPERATURES` is
    returned, or a temperature from which on the likelihood no longer changes.

    Args:
        probabilities: (N, K) float, for validation images.
        labels: (N,) int64.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, rows = np.log(exact(probabilities).clip(FLOOR)), np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    found = minimize_scalar(
        nll, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def calibration(faces: FaceSet, predictions: Predictions) -> dict[str, Any]:
    """Evaluate calibration on the test images, before and after temperature scaling.

    Returns:
        `temperature`, fitted on validation; `before` and `after` from `scores`; `bins` and
        `bins_after` from `reliability`.

    Raises:
        InputError: the predictions do not belong to these faces.
    """
    valid, test = (aligned(faces, predictions, split) for split in ("valid", "test"))
    labels = faces.labels[faces.where("test")]
    temperature = fit_temperature(valid, faces.labels[faces.where("valid")])
    after = scaled(test, temperature)
    return {
        "temperature": temperature,
        "before": scores(test, labels),
        "after": scores(after, labels),
        "bins": reliability(exact(test).max(1), test.argmax(1) == labels),
        "bins_after": reliability(after.max(1), after.argmax(1) == labels),
    }


def table(found: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the scores of `calibration` before and after scaling.

    Returns:
        Columns `value`, `low` and `high`; the index has the stage ("as trained" or
        "temperature 1.50") and the score.
    """
    stages = {"as trained": "before", f"temperature {found['temperature']:.2f}": "after"}
    rows = [
        {"stage": title, "score": score, "value": found[stage][score], "low": low, "high": high}
        for title, stage in stages.items()
        for score, (low, high) in found[stage]["interval"].items()
    ]
    return pd.DataFrame(rows).set_index(["stage", "score"])
