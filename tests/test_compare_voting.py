"""Soft votes: the best subset by validation, and its test against the best single run."""

from dataclasses import replace

import numpy as np
import pytest

from fer_lib.compare import ensemble_sentence, read_answers
from fer_lib.compare.voting import best_subset, ensemble, soft_vote
from fer_lib.evaluate import mcnemar
from fer_lib.files import InputError
from fer_lib.runs import Run


def leaning(labels: np.ndarray, right: np.ndarray, sure: float) -> np.ndarray:
    """Return (N, 7) probabilities: `sure` for the label where `right`, else for the next class."""
    rows = np.full((len(labels), 7), (1 - sure) / 6)
    rows[np.arange(len(labels)), np.where(right, labels, (labels + 1) % 7)] = sure
    return rows


@pytest.fixture
def voters(make_run, noise) -> list[Run]:
    """Return three runs that are wrong in turn, and a fourth that is confident and always wrong.

    Any two of the first three outvote the remaining one.
    """
    labels = [noise.labels[noise.where(split)] for split in ("valid", "test")]
    turn = [np.arange(len(some)) % 4 for some in labels]
    runs = []
    for number in range(4):
        right = [t != number if number < 3 else t > 3 for t in turn]
        probabilities = tuple(
            leaning(some, ok, 0.5 if number < 3 else 0.97)
            for some, ok in zip(labels, right, strict=True)
        )
        runs.append(make_run(time=str(number), seed=number, probabilities=probabilities))
    return runs


def test_a_soft_vote_is_the_mean_of_probabilities(voters, noise):
    answers = read_answers(voters, noise)
    names = answers.names
    assert np.array_equal(soft_vote(answers, names[:1]), answers.test[0])
    expected = (answers.test[0] + answers.test[2]) / 2
    np.testing.assert_allclose(soft_vote(answers, [names[2], names[0]]), expected, rtol=1e-6)
    with pytest.raises(InputError, match="no run 'x' here"):
        soft_vote(answers, ["x"])


@pytest.mark.parametrize("exhaustive", [10, 1])
def test_the_best_subset_is_chosen_on_validation_only(voters, noise, monkeypatch, exhaustive):
    monkeypatch.setattr("fer_lib.compare.voting.EXHAUSTIVE", exhaustive)
    answers = read_answers(voters, noise)
    blind = replace(answers, test=np.full_like(answers.test, np.nan))
    members, steps = best_subset(blind)
    assert members == answers.names[:3]
    assert [len(step["members"]) for step in steps] == [1, 2, 3, 4]
    assert steps[0]["valid_accuracy"] == 0.75
    assert steps[2]["valid_accuracy"] == 1
    assert steps[3]["valid_accuracy"] == 0.25  # the fourth run outweighs two right ones


def test_ties_on_validation_are_not_broken_by_test_accuracy(voters, noise):
    """Runs are listed by test accuracy, so taking the first of equals would use the test set."""
    answers = read_answers(voters[:3], noise)
    surer = answers.valid**2 / (answers.valid**2).sum(-1, keepdims=True)
    tied = replace(answers, valid=np.stack([answers.valid[0], surer[0], answers.valid[0]]))
    chosen = tied.names[1]
    for order in (slice(None), slice(None, None, -1)):
        other = replace(
            tied, names=tied.names[order], valid=tied.valid[order], test=tied.test[order]
        )
        members, steps = best_subset(other)
        assert members == steps[0]["members"] == [chosen]  # the smallest of equals


def test_the_ensemble_is_tested_against_the_best_single_run(voters, noise):
    answers = read_answers(voters, noise)
    found = ensemble(answers)
    assert found["single"] == answers.names[0]
    right = dict(zip(answers.names, answers.correct.mean(axis=1), strict=True))
    assert right[found["highest"]["single"]] == max(right.values())
    assert found["highest"]["difference"] == pytest.approx(1 - max(right.values()))
    assert found["results"]["full"]["accuracy"] == 1
    assert found["results"]["clean"]["n"] == 399
    assert (found["difference"], found["only_a"], found["only_b"]) == (0.25, 100, 0)
    assert found["p"] == mcnemar(np.ones(400), answers.correct[0])
    assert found["finding"]
    said = ensemble_sentence(found)
    assert "(100.0%) is the soft vote of" in said
    assert "25.0 points better than baseline_cnn ours s0, of single runs the best on" in said


@pytest.mark.parametrize(("wrong", "finding"), [(100, True), (188, False)])
def test_the_subset_may_be_worse_than_the_run_with_the_most_test_images_right(
    make_run, noise, wrong, finding
):
    best = make_run(slice(0, 200), valid=1)
    luckier = make_run(slice(0, wrong), valid=0.2, time="2", seed=1)
    found = ensemble(read_answers({"best": best, "luckier": luckier}, noise))
    assert (found["members"], found["single"], found["difference"]) == (["best"], "best", 0)
    other = found["highest"]
    assert (other["single"], other["only_a"], other["only_b"]) == ("luckier", 0, 200 - wrong)
    assert other["p"] < 0.001
    assert other["finding"] == finding  # twelve images are less than the half-width


def test_the_sentence_on_a_single_member_says_that_no_subset_is_better(make_run, noise):
    better, worse = make_run(slice(0, 5), valid=1), make_run(slice(0, 300), valid=0, time="2")
    found = ensemble(read_answers([worse, better], noise))
    assert found["members"] == [found["single"]]
    assert ensemble_sentence(found).startswith("No subset votes better on validation than")
