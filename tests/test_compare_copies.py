"""Inflation by copies of training images, against counts by hand and a bootstrap."""

import numpy as np
import pytest

from fer_lib.compare import read_answers
from fer_lib.compare.copies import expected, inflation


def test_inflation_is_full_minus_clean_accuracy_with_its_interval(make_run, noise):
    test = noise.where("test")
    noise.images[test[:100]] = noise.images[:20].repeat(5, axis=0)  # 20 images, 5 times each
    noise.images[test[100:110]] = noise.images[test[110:120]]  # copies in the test set are no leak
    noise.manifest.pop("fingerprint", None)
    sure_of_copies = make_run(slice(100, 300), faces=noise)
    table = inflation(read_answers([sure_of_copies], noise))
    row = table.iloc[0]
    assert (row["copied"], row["distinct"]) == (101, 299)  # the last is a copy too (see `noise`)
    assert row["copied_accuracy"] == 1
    assert row["distinct_accuracy"] == pytest.approx(99 / 299)
    assert row["accuracy"] == 0.5
    clean = sure_of_copies.results["test"]["clean"]
    assert clean["n"] == 289
    assert row["clean_accuracy"] == pytest.approx(clean["accuracy"]) == pytest.approx(99 / 289)
    assert row["inflation"] == pytest.approx(0.5 - 99 / 289)
    assert 0 < row["low"] < row["inflation"] < row["high"]
    right, labels, copied = np.ones(400, bool), noise.labels[test], np.arange(400) < 100
    right[100:300], copied[399] = False, True
    wanted = sum((labels[copied] == c).sum() * right[~copied & (labels == c)].mean()
                 for c in range(7)) / 101  # fmt: skip
    assert row["expected"] == pytest.approx(wanted)
    assert row["copied_less_expected"] == pytest.approx(1 - wanted)


def test_the_expected_accuracy_of_copies_follows_their_mix_of_classes():
    labels, copied = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1], bool)
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    assert expected(right, labels, copied) == 0.5  # recall of class 1, not 0.75 as on all others
    assert np.isnan(expected(right, labels, labels == 1))  # no other image of class 1
    assert np.isnan(expected(right, labels, np.zeros(6, bool)))


def test_the_interval_of_inflation_matches_a_bootstrap_over_groups_of_copies(make_run, noise):
    test = noise.where("test")
    noise.images[test[:100]] = noise.images[:4].repeat(25, axis=0)  # 4 images, 25 times each
    noise.manifest.pop("fingerprint", None)
    run = make_run(slice(60, 200), faces=noise)
    row = inflation(read_answers([run], noise)).iloc[0]
    right = np.ones(400)
    right[60:200] = 0
    groups = [np.arange(25 * k, 25 * k + 25) for k in range(4)] + [[k] for k in range(100, 399)]
    groups[0] = [*groups[0], 399]  # another copy of the first image
    clean = np.isin(np.arange(400), np.arange(100, 399))
    rng, differences = np.random.default_rng(9), []
    for _ in range(1000):
        drawn = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
        drawn = drawn.astype(int)
        differences.append(right[drawn].mean() - right[drawn[clean[drawn]]].mean())
    expected = np.quantile(differences, [0.025, 0.975])
    assert [row["low"], row["high"]] == pytest.approx(expected.tolist(), abs=0.012)
    assert row["inflation"] == pytest.approx(right.mean() - right[clean].mean())
