"""Inflation by copies of training images, against counts by hand and a bootstrap."""

import numpy as np
import pytest

from fer_lib.compare import read_answers
from fer_lib.compare.annotators import label_agreement
from fer_lib.compare.copies import (
    beyond_classes,
    by_kind,
    copied_kinds,
    drawn_beyond,
    expected,
    inflation,
    resampled,
)
from fer_lib.compare.summary import copied
from fer_lib.labels import VOTES


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
    assert expected(right, labels, copied, ~copied) == 0.5  # not 0.75 as on all others
    assert np.isnan(expected(right, labels, labels == 1, labels == 0))  # no other image of class 1
    assert np.isnan(expected(right, labels, np.zeros(6, bool), ~copied))


def test_resamples_without_an_image_that_the_difference_needs_are_left_out():
    copied = np.arange(301) == 0
    right, labels = np.arange(301) % 5 < 3, np.zeros(301, int)
    right[0] = True
    found = beyond_classes(right, labels, copied, ~copied, resampled(np.arange(301)))
    assert found["difference"] == pytest.approx(0.4, abs=0.005)
    assert (found["low"], found["high"]) == pytest.approx((0.345, 0.455), abs=0.015)
    labels[[1, 3, 4, 5]] = 1  # few others have the class of the second copied image
    copied, counts = np.arange(301) < 2, resampled(np.arange(301))
    drawn = drawn_beyond(right, labels, copied, ~copied, counts)
    of_second, recalled = counts(copied & (labels == 1)), counts(~copied & (labels == 1))
    unknown = (of_second > 0) & (recalled == 0)
    assert unknown.any()
    assert (np.isnan(drawn) == unknown | (counts(copied) == 0)).all()
    never = np.zeros(301, bool)
    assert np.isnan(list(beyond_classes(right, labels, never, ~copied, counts).values())).all()


@pytest.fixture
def leaky(noise):
    """`noise` with votes, and with 20 test images copied from each of two splits.

    The first 20 are in training with their own label, the next 20 in training with another label,
    and the next 20 in validation only.
    """
    test, train, valid = (noise.where(split) for split in ("test", "train", "valid"))
    noise.images[test[:40]] = noise.images[train]
    noise.images[test[40:60]] = noise.images[valid[:20]]
    noise.images[-1] = 255 - noise.images[-1]  # `noise` has it as a copy
    noise.labels[train[:20]] = noise.labels[test[:20]]
    noise.labels[train[20:]] = (noise.labels[test[20:40]] + 1) % 7
    noise.votes = np.zeros((len(noise), len(VOTES)), np.float32)
    noise.votes[np.arange(len(noise)), noise.labels] = 6
    noise.votes[:, 7] = 4
    noise.manifest.pop("fingerprint", None)
    return noise


def test_copied_images_are_told_apart_by_what_training_says_of_them(leaky):
    kinds = copied_kinds(leaky)
    assert [np.flatnonzero(some).tolist() for some in kinds.values()] == [
        list(range(20)),
        list(range(20, 40)),
        list(range(40, 60)),
        list(range(60)),
    ]
    first, second = leaky.where("train")[:2]
    leaky.images[second] = leaky.images[first]  # a second copy in training, with another label
    leaky.labels[second] = (leaky.labels[first] + 1) % 7
    leaky.images[leaky.where("valid")[30]] = leaky.images[first]  # and one in validation
    kinds = copied_kinds(leaky)
    assert kinds["other label"][:2].tolist() == [True, False]
    assert not kinds["validation only"][0]


def test_what_runs_find_of_each_kind_stands_beside_what_annotators_find(make_run, leaky):
    test = leaky.where("test")
    leaky.votes[test[:10], 7] = 9  # half of the first kind has a label that few people see
    leaky.votes[test[[10, *range(60, 200)]]] = 0  # and no votes here
    runs = [make_run(slice(30, 230), faces=leaky), make_run(slice(60, 260), faces=leaky, time="2")]
    answers = read_answers(runs, leaky)
    found = by_kind(answers, answers.names)
    same, other, held, every = found["kinds"]
    assert found["runs"] == 2
    assert (inflation(answers)["copied"] == 60).all()  # those of validation too
    assert [row["images"] for row in found["kinds"]] == [20, 20, 20, 60]
    assert (same["found"], other["found"], held["found"]) == (1, 0.75, 0.5)
    labels, rest = leaky.labels[test], np.arange(400) >= 60
    right = np.full(400, 0.5) + 0.5 * (np.arange(400) >= 260)
    right[60:230] = 0
    wanted = np.mean([right[rest & (labels == one)].mean() for one in labels[:20]])
    assert same["expected"] == pytest.approx(wanted)
    assert same["difference"] == pytest.approx(1 - wanted)
    assert same["low"] < same["difference"] < same["high"]
    people = same["annotators"]
    assert (people["images"], people["expected"]) == (19, 1)
    assert people["found"] == pytest.approx(9 / 19)
    assert same["rest"]["difference"] == pytest.approx(1 - wanted - 9 / 19 + 1)
    assert same["rest"]["low"] < same["rest"]["difference"] < same["rest"]["high"]
    assert every["found"] == pytest.approx((20 + 15 + 10) / 60)
    leaky.votes = None
    assert by_kind(answers, answers.names)["kinds"][0]["annotators"] is None


def test_only_runs_of_the_original_labels_count_for_the_kinds_of_copies(make_run, leaky):
    plain, other = make_run(faces=leaky), make_run(faces=leaky, time="2", labels="votes")
    answers = read_answers({"plain": plain, "other": other}, leaky)
    assert copied({"plain": plain, "other": other}, answers)["runs"] == 1
    assert copied({"other": other}, answers) is None


def test_the_label_is_scored_against_the_annotators_as_a_run_is(leaky):
    test = leaky.where("test")
    leaky.votes[test[:100], leaky.labels[test[:100]]] = 0  # contempt alone is left
    leaky.votes[test[100:150], 7] = 6  # no majority; the first of the tied has the most votes
    leaky.votes[test[150:160]] = 0
    found = label_agreement(leaky)
    assert found["majority"] == {"images": 240, "label_agrees": 1}
    assert found["plurality"] == {"images": 390, "label_agrees": pytest.approx(290 / 390)}
    leaky.votes[test[160:220]] = np.eye(10)[(leaky.labels[test[160:220]] + 1) % 7] * 10
    assert label_agreement(leaky)["majority"]["label_agrees"] == 0.75
    leaky.votes = None
    assert label_agreement(leaky) is None


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
