"""Calibration, compared with scikit-learn, SciPy, statsmodels, loops and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit, softmax
from sklearn.metrics import brier_score_loss, log_loss
from statsmodels.stats.proportion import proportion_confint

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions
from fer_lib.evaluate.calibration import (
    TEMPERATURES,
    accuracy,
    calibration,
    exact,
    fit_temperature,
    reliability,
    scaled,
    scores,
)


def sampled(n: int, *, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, 7) times `scale`, and labels drawn by the softmax of the unscaled ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 2
    labels = (softmax(logits, 1).cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits * scale, labels


def ece_by_the_book(p: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Compute equation 3 of Guo et al. (2017), image by image and bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = [i for i in range(len(p)) if m / bins < p[i].max() <= (m + 1) / bins]
        if inside:
            acc = sum(p[i].argmax() == labels[i] for i in inside) / len(inside)
            conf = sum(p[i].max() for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(acc - conf)
    return total


def test_ece_of_four_images_equals_a_result_by_hand():
    p = np.array([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.45, 0.55]])
    labels = np.array([0, 1, 0, 0])
    # Bins of 1/15: 0.9 and 0.92 share (0.867, 0.933]; 0.6 is the upper edge of (0.533, 0.6],
    # which also contains 0.55.
    expected = (abs(0.9 + 0.92 - 1) + abs(0.6 + 0.55 - 1)) / 4
    assert scores(p, labels)["ece"] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_ece_nll_and_brier_agree_with_references(scale):
    logits, labels = sampled(800, scale=scale)
    p = softmax(logits, 1)
    ours = scores(p, labels)
    assert ours["ece"] == pytest.approx(ece_by_the_book(p, labels), abs=1e-12)
    assert ours["nll"] == pytest.approx(log_loss(labels, p, labels=range(7)))
    reference = brier_score_loss(labels, p, labels=range(7), scale_by_half=False)
    assert ours["brier"] == pytest.approx(reference)
    assert ours["confidence"] == pytest.approx(p.max(1).mean())


def test_brier_is_a_sum_over_classes_from_0_to_2():
    right, wrong = np.eye(3), np.eye(3)[[1, 2, 0]]
    assert scores(right, np.arange(3))["brier"] == 0
    assert scores(wrong, np.arange(3))["brier"] == 2


def test_a_probability_of_zero_gives_a_large_but_finite_nll():
    found = scores(np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), np.array([0, 1]))
    assert found["nll"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize("name", ["ece", "nll", "brier"])
def test_intervals_agree_with_the_bootstrap_of_scipy(name):
    logits, labels = sampled(400, scale=1.8)
    p = softmax(logits, 1)
    onehot = np.eye(7)[labels]
    own = p[np.arange(400), labels]
    inside = np.ceil(p.max(1) * 15).astype(int)
    gaps = np.eye(16)[inside] * (p.max(1) - (p.argmax(1) == labels))[:, None]
    statistic = {
        "ece": lambda rows: np.abs(gaps[rows].sum(0)).sum() / len(rows),
        "nll": lambda rows: -np.log(own[rows]).mean(),
        "brier": lambda rows: ((p[rows] - onehot[rows]) ** 2).sum() / len(rows),
    }[name]
    reference = stats.bootstrap(
        (np.arange(400),),
        statistic,
        vectorized=False,
        n_resamples=2000,
        method="basic",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = reference.high - reference.low
    ours = scores(p, labels)["interval"][name]
    assert ours == pytest.approx([reference.low, reference.high], abs=0.08 * width)


def test_the_ece_from_noise_alone_agrees_with_the_binomial_distribution():
    """With one bin, the ECE is the distance of a binomial share from its mean."""
    p = np.tile([0.7, 0.3], (200, 1))
    counts = np.arange(201)
    distance = np.abs(counts / 200 - 0.7)
    order = np.argsort(distance)
    cumulated = stats.binom(200, 0.7).pmf(counts[order]).cumsum()
    expected = distance[order][np.searchsorted(cumulated, 0.95)]
    found = scores(p, np.zeros(200, int))["ece_if_calibrated"]
    assert found == pytest.approx(expected, abs=0.006)  # a step of the quantile is 1/200


def test_the_ece_of_a_calibrated_model_is_within_its_noise():
    p, labels = softmax(sampled(3000)[0], 1), sampled(3000)[1]
    found = scores(p, labels)
    assert 0 < found["ece"] < found["ece_if_calibrated"] < 0.05
    assert scores(softmax(sampled(3000, scale=3)[0], 1), labels)["ece"] > 0.1


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature):
    logits, labels = sampled(20_000, scale=temperature)
    p = softmax(logits, 1).astype(np.float32)
    assert fit_temperature(p, labels) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_of_one_confidence_has_a_closed_form():
    """If all answers have confidence c and the share a is right, softmax(z / T) = a."""
    p = np.tile([0.95, 0.05], (100, 1))
    labels = (np.arange(100) >= 80).astype(int)
    expected = logit(0.95) / logit(0.8)
    assert fit_temperature(p, labels) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(scaled(p, expected)[:, 0], 0.8)


def test_no_other_temperature_has_a_lower_nll():
    logits, labels = sampled(500, scale=2)
    p = softmax(logits, 1)
    best = fit_temperature(p, labels)
    losses = [log_loss(labels, scaled(p, t), labels=range(7)) for t in np.geomspace(0.2, 10, 60)]
    assert log_loss(labels, scaled(p, best), labels=range(7)) <= min(losses)


def test_temperature_one_changes_nothing_and_no_temperature_an_answer():
    p = softmax(sampled(200)[0], 1)
    np.testing.assert_allclose(scaled(p, 1.0), p)
    for temperature in (0.1, 5.0):
        np.testing.assert_array_equal(scaled(p, temperature).argmax(1), p.argmax(1))
    assert scaled(p, 5.0).max(1).mean() < p.max(1).mean() < scaled(p, 0.1).max(1).mean()


def test_the_temperature_stays_in_its_range_if_all_answers_are_right_or_wrong():
    p = np.tile([0.9, 0.1], (50, 1))
    lowest, highest = TEMPERATURES
    assert lowest <= fit_temperature(p, np.zeros(50, int)) < 1.5 * lowest  # the loss is flat there
    assert fit_temperature(p, np.ones(50, int)) == pytest.approx(highest, rel=1e-3)


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (8, 8), (70, 100), (2513, 3589)])
def test_the_interval_of_an_accuracy_agrees_with_statsmodels(hits, n):
    found = accuracy(np.arange(n) < hits)
    assert found["n"] == n
    assert found["accuracy"] == hits / n
    expected = proportion_confint(hits, n, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx(expected)


def test_reliability_bins_images_and_omits_empty_bins():
    confidence = np.array([0.05, 0.5, 0.52, 0.58, 1.0])
    correct = np.array([False, True, False, True, True])
    rows = reliability(confidence, correct, bins=10)
    assert [(row["from"], row["to"], row["n"]) for row in rows] == [
        *((0, 0.1, 1), (0.4, 0.5, 1), (0.5, 0.6, 2), (0.9, 1, 1)),
    ]
    assert [row["accuracy"] for row in rows] == [0, 1, 0.5, 1]
    assert [row["confidence"] for row in rows] == pytest.approx([0.05, 0.5, 0.55, 1])


def test_the_temperature_is_fitted_on_validation_alone():
    logits, labels = sampled(600, scale=2.5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 1, 4, 4), dtype=np.uint8)
    split = np.repeat(["valid", "test"], 300)
    ids = np.array([f"face{row}" for row in range(600)])
    faces = FaceSet("noise", images, labels, split, ids)
    p = softmax(logits, 1).astype(np.float32)
    predictions = Predictions.of(faces, p[:300], p[300:])
    found = calibration(faces, predictions)

    assert found["temperature"] == fit_temperature(p[:300], labels[:300])
    assert found["before"] == scores(p[300:], labels[300:])
    assert found["after"] == scores(scaled(p[300:], found["temperature"]), labels[300:])
    assert found["after"]["nll"] < found["before"]["nll"]
    after = scaled(p[300:], found["temperature"])
    for name, q in (("bins", exact(p[300:])), ("bins_after", after)):
        assert found[name] == reliability(q.max(1), q.argmax(1) == labels[300:])
    wrong = replace(faces, labels=np.r_[labels[:300], (labels[300:] + 1) % 7], manifest={})
    assert calibration(wrong, predictions)["temperature"] == found["temperature"]


def test_the_interval_of_an_ece_of_0_is_not_below_0():
    probabilities = np.tile([0.75, 0.25], (400, 1))
    labels = np.arange(400) % 4 // 3
    found = scores(probabilities, labels)
    low, high = found["interval"]["ece"]
    assert found["ece"] == pytest.approx(0)
    assert 0 <= low <= high
