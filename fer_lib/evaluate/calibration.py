"""Whether confidence is what it claims to be: calibration and temperature scaling. No torch.

The confidence of an answer is the largest of its probabilities. A model is calibrated when, of all
answers of confidence c, the share c is right.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import DRAWS, Predictions, aligned

BINS = 15
"""Bins of equal width of the expected calibration error, as usual in the literature."""

TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is looked for."""

FLOOR = np.finfo(np.float64).eps
"""Least probability whose logarithm is taken; scikit-learn's log_loss has the same."""


def exact(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) as float64 rows that sum to 1."""
    rows = np.asarray(probabilities, np.float64)
    return rows / rows.sum(1, keepdims=True)


def accuracy(correct: np.ndarray) -> dict[str, Any]:
    """`n`, `accuracy`, and its 95 % interval `low`, `high`, of (N,) bool, N > 0.

    Wilson's interval: with thousands of images it is that of the bootstrap; of a few that are all
    right, a bootstrap has no width.
    """
    from scipy.stats import binomtest

    found = binomtest(int(np.sum(correct)), len(correct))
    low, high = found.proportion_ci(0.95, method="wilson")
    share = {"accuracy": found.statistic, "low": low, "high": high}
    return {"n": len(correct)} | {name: float(value) for name, value in share.items()}


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Number of the bin of each confidence, (N,) int64; a bin contains its upper edge."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left")


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> list[dict[str, Any]]:
    """Images of like confidence: how sure, and how often right. Bins without images are left out.

    Args:
        confidence: (N,) float in 0..1.
        correct: (N,) bool.
        bins: of equal width.

    Returns:
        For each bin `from`, `to` (its edges), `confidence` (mean), and `n`, `accuracy`, `low`,
        `high` as `accuracy` gives them.
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
    """Expected calibration error, negative log-likelihood and Brier score, with intervals.

    ECE is the mean over images of the gap between accuracy and mean confidence of an image's bin
    (https://arxiv.org/abs/1706.04599; `BINS` bins of equal width, top label only). Brier is the sum
    over classes of the squared differences to the one-hot label, 0 to 2, as Brier (1950) has it;
    some software halves it.

    Sampling noise alone makes the ECE of a calibrated model larger than 0, and resampling adds the
    same noise once more. So the intervals are those of the basic bootstrap, which takes that off
    again, and can lie below the value itself; `ece_if_calibrated` says what noise can do.

    Args:
        probabilities: (N, K) float.
        labels: (N,) int64.

    Returns:
        `ece`, `nll` (nats an image), `brier`; `interval` (name -> [low, high], 95 %);
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
    drawn = [_from_sums(counts @ terms, len(p)) for counts in _resampled(len(p))]
    interval = {}
    for name, (value,) in found.items():
        low, high = np.quantile(np.concatenate([part[name] for part in drawn]), [0.025, 0.975])
        interval[name] = [max(0.0, float(2 * value - bound)) for bound in (high, low)]
    return {
        **{name: float(value[0]) for name, value in found.items()},
        "interval": interval,
        "confidence": float(confidence.mean()),
        "ece_if_calibrated": _ece_if_calibrated(confidence, member),
    }


def _from_sums(sums: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Scores from sums over images, (B, 2 + BINS): of NLL, of Brier, and of the gaps by bin."""
    nll, brier = sums[:, 0] / n, sums[:, 1] / n
    return {"ece": np.abs(sums[:, 2:]).sum(1) / n, "nll": nll, "brier": brier}


def _resampled(n: int) -> Iterator[np.ndarray]:
    """How often each of n images is in each of `DRAWS` resamples; 100 draws at once, (100, n)."""
    rng, share = np.random.default_rng(0), np.full(n, 1 / n)
    for _ in range(DRAWS // 100):
        yield rng.multinomial(n, share, size=100)


def _ece_if_calibrated(confidence: np.ndarray, member: np.ndarray) -> float:
    """95 % quantile of the ECE where each answer is right with the probability it claims."""
    rng, n = np.random.default_rng(0), len(confidence)
    drawn = []
    for _ in range(DRAWS // 100):
        right = rng.random((100, n)) < confidence
        drawn.append(np.abs((confidence - right) @ member).sum(1) / n)
    return float(np.quantile(np.concatenate(drawn), 0.95))


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) float64 of the logits divided by a temperature.

    The logarithm of a probability is its logit up to a constant, which a softmax does not see. A
    temperature above 1 makes a model less sure; which class is largest stays as it is.
    """
    from scipy.special import softmax

    return softmax(np.log(exact(probabilities).clip(FLOOR)) / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood (https://arxiv.org/abs/1706.04599).

    That has one minimum, as it is convex in 1/T. Where every answer is right it lies at 0, and
    where answers are worse than chance at infinity: then the end of `TEMPERATURES` is returned, or
    one from where on the likelihood changes no more.

    Args:
        probabilities: (N, K) float, of validation images.
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
    """Calibration on the test images, before and after a temperature fitted on validation.

    Returns:
        `temperature`; `before` and `after`, of `scores`; `bins` and `bins_after`, of `reliability`.

    Raises:
        InputError: the predictions are not those of these faces.
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
    """Scores before and after scaling, of `calibration`, with the columns `value`, `low`, `high`.

    The index has the stage ("as trained" or "temperature 1.50") and the score.
    """
    stages = {"as trained": "before", f"temperature {found['temperature']:.2f}": "after"}
    rows = [
        {"stage": title, "score": score, "value": found[stage][score], "low": low, "high": high}
        for title, stage in stages.items()
        for score, (low, high) in found[stage]["interval"].items()
    ]
    return pd.DataFrame(rows).set_index(["stage", "score"])
