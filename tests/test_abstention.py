"""Coverage, thresholds and the area under the risk-coverage curve, against plain computations."""

import numpy as np
import pytest
from scipy.special import softmax

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions
from fer_lib.evaluate.abstention import (
    abstention,
    aurc,
    coverage,
    operating_point,
    table,
    threshold_for,
)
from fer_lib.evaluate.calibration import fit_temperature, scaled


@pytest.fixture
def answered() -> tuple[np.ndarray, np.ndarray]:
    """300 calibrated confidences, some of them equal, and whether each answer is right."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 300).round(2)
    return confidence, rng.random(300) < confidence


def test_coverage_goes_from_all_images_to_the_surest(answered):
    confidence, correct = answered
    points = coverage(confidence, correct)
    assert len(points) == 20
    assert points[0]["n"] == 300
    assert points[0]["accuracy"] == correct.mean()
    for number, point in enumerate(points):
        kept = confidence >= point["threshold"]
        assert point["n"] == kept.sum() >= 300 * (20 - number) / 20
        assert point["coverage"] == kept.mean()
        assert point["accuracy"] == correct[kept].mean()
    assert points[-1]["accuracy"] > points[0]["accuracy"] + 0.2


def test_coverage_of_few_images_contains_no_empty_set():
    points = coverage(np.array([0.9, 0.5, 0.7]), np.array([True, False, False]))
    assert min(point["n"] for point in points) == 1
    assert points[-1]["threshold"] == 0.9


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9, 1.0])
def test_the_threshold_is_the_lowest_that_reaches_the_target(answered, target):
    confidence, correct = answered
    found = threshold_for(confidence, correct, target)
    good = [t for t in confidence if correct[confidence >= t].mean() >= target]
    assert found == min(good, default=None)


def test_an_unreachable_target_has_no_threshold():
    assert threshold_for(np.array([0.9, 0.8]), np.array([False, True]), 0.6) is None


def test_the_area_is_the_mean_risk_over_all_coverages():
    confidence = np.array([0.3, 0.9, 0.5, 0.7])
    correct = np.array([False, True, True, False])
    assert aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_the_area_with_ties_is_the_mean_over_their_orders(answered):
    confidence, correct = answered
    rng = np.random.default_rng(1)
    areas = []
    for _ in range(400):  # tiny differences put ties in random order
        order = np.argsort(-(confidence + rng.uniform(0, 1e-6, 300)))
        areas.append((np.cumsum(~correct[order]) / np.arange(1, 301)).mean())
    assert np.std(areas) > 1e-4
    assert aurc(confidence, correct) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 20)


def test_thresholds_are_chosen_on_validation_and_scored_on_test(monkeypatch):
    monkeypatch.setattr("fer_lib.evaluate.abstention.TARGETS", (0.7, 0.9, 1.01))
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 7, 400)
    logits = rng.normal(size=(400, 7))
    logits[np.arange(400), labels] += 1.5
    p = softmax(2 * logits, 1).astype(np.float32)
    images = rng.integers(0, 256, (400, 1, 4, 4), dtype=np.uint8)
    ids = np.array([f"face{row}" for row in range(400)])
    split = np.repeat(["valid", "test"], 200)
    faces = FaceSet("noise", images, labels, split, ids)
    predictions = Predictions.of(faces, p[:200], p[200:])
    found = abstention(faces, predictions)

    confidence, right = p.max(1), p.argmax(1) == labels
    assert found["aurc"] == pytest.approx(aurc(confidence[200:], right[200:]))
    for row in found["targets"][:2]:
        kept = confidence >= row["threshold"] - 1e-6
        assert right[:200][kept[:200]].mean() >= row["target"]
        assert row["valid_coverage"] == kept[:200].mean()
        assert (row["n"], row["coverage"]) == (kept[200:].sum(), kept[200:].mean())
        assert row["accuracy"] == right[200:][kept[200:]].mean()
        assert row["low"] < row["accuracy"] <= row["high"]
    assert found["targets"][2] == {"target": 1.01, "threshold": None}
    rows = table(found["targets"])
    assert rows.index.tolist() == ["70% wanted", "90% wanted", "101% wanted"]
    first, names = found["targets"][0], ["answered on validation", "answered", "images"]
    assert rows.iloc[0][names].tolist() == [first[k] for k in ("valid_coverage", "coverage", "n")]
    assert not {"valid_coverage", "coverage", "n"} & set(rows)
    temperature = fit_temperature(p[:200], labels[:200])
    calibrated = scaled(p[:200], temperature).max(1)
    threshold = threshold_for(calibrated, right[:200], 0.8)
    assert operating_point(faces, predictions) == {
        "temperature": temperature,
        "target": 0.8,
        "threshold": threshold,
    }
