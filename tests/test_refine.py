"""Rules, out-of-fold voters, and what changed labels are worth."""

import numpy as np
import pytest
from statsmodels.stats import inter_rater

from fer_lib.data.copies import copy_groups
from fer_lib.data.sample import make_sample
from fer_lib.data.splits import group_keys
from fer_lib.evaluate import load_predictions
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, VOTES
from fer_lib.recipes import recipe
from fer_lib.refine import rules, worth
from fer_lib.refine.ballots import Ballots, translate, vocabulary
from fer_lib.refine.folds import fold_sets, fold_votes
from fer_lib.runs import list_runs

ABC = ("angry", "disgust", "fear")


def ballots(*voters: str, classes: tuple[str, ...] = ABC, sure: float = 0.9) -> Ballots:
    """Voters as strings of first letters, one an image; "-" abstains."""
    p = np.full((len(voters), len(voters[0]), len(classes)), (1 - sure) / (len(classes) - 1))
    initials = [name[0] for name in classes]
    for row, text in enumerate(voters):
        for place, letter in enumerate(text):
            if letter == "-":
                p[row, place] = np.nan
            else:
                p[row, place, initials.index(letter)] = sure
    return Ballots(tuple(f"v{i}" for i in range(len(voters))), p.astype(np.float32))


def letters(labels: np.ndarray) -> str:
    return "".join(ABC[k][0] for k in labels)


def codes(text: str) -> np.ndarray:
    return np.array([[name[0] for name in ABC].index(letter) for letter in text])


@pytest.mark.parametrize(("voters", "votes"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4)])
def test_the_published_threshold(voters, votes):
    assert rules.published_threshold(voters) == votes


@pytest.mark.parametrize(
    ("voters", "refined"),
    [
        (("df",), "df"),
        (("da", "dd"), "da"),  # the second image is a tie, 1 to 1: kept
        (("df", "fd"), "aa"),
        (("da", "df", "fd"), "da"),
        (("dd", "dd", "da", "aa"), "da"),  # three of four are enough, two are not
        (("d-", "d-", "-d", "d-"), "da"),  # who abstains does not lower the threshold
        (("d-", "--"), "da"),
    ],
)
def test_the_majority_changes_a_label_only_with_enough_votes(voters, refined):
    result = rules.majority(ballots(*voters), codes("aa"), ABC)
    assert letters(result.labels) == refined
    assert result.changed.tolist() == [letter != "a" for letter in refined]


def test_the_majority_says_why_and_its_soft_labels_count_the_label_as_a_vote():
    result = rules.majority(ballots("dd", "da", "df", "-f"), codes("aa"), ABC)
    assert result.reasons.tolist() == ["3 of 4 voters say disgust", ""]
    assert result.soft == pytest.approx(np.array([[1, 3, 0], [2, 1, 2]]) / [[4], [5]])
    assert result.settings == {"votes": 3}


def test_the_soft_average_changes_only_what_it_is_sure_of():
    voters = ballots("dd", "df", sure=0.8)
    result = rules.soft_average(voters, codes("aa"), ABC, confidence=0.7)
    assert letters(result.labels) == "da"
    assert result.reasons.tolist() == ["mean probability 0.80 of disgust", ""]
    assert result.soft[0] == pytest.approx([(2 * 0.1 + 1) / 3, 2 * 0.8 / 3, 2 * 0.1 / 3], abs=1e-6)
    lenient = rules.soft_average(voters, codes("aa"), ABC, confidence=0.4)
    assert letters(lenient.labels) == "dd"
    silent = rules.soft_average(ballots("--"), codes("af"), ABC)
    assert letters(silent.labels) == "af"
    assert (silent.soft == np.eye(3)[[0, 2]]).all()


def test_confident_learning_finds_planted_errors():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    labels = truth.copy()
    labels[:60] = (truth[:60] + 1) % 3
    p = np.full((1, 600, 3), 0.1, np.float32)
    p[0, np.arange(600), truth] = 0.8
    result = rules.confident_learning(Ballots(("v",), p), labels, ABC)
    assert worth.against_truth(labels, result, truth)["recall"] > 0.9
    assert worth.against_truth(labels, result, truth)["precision"] == 1
    assert "is not credible" in result.reasons[np.flatnonzero(result.changed)[0]]
    assert (result.labels[~result.changed] == labels[~result.changed]).all()


def test_the_annotators_are_the_oracle():
    votes = np.zeros((5, len(VOTES)), np.float32)
    half, foreign = {"disgust": 6, "angry": 4}, {"contempt": 9, "fear": 1}
    for row, counts in enumerate((half, foreign, {"not a face": 10}, {}, {"fear": 1})):
        for name, number in counts.items():
            votes[row, VOTES.index(name)] = number
    result = rules.annotators(votes, codes("aaaaf"), ABC)
    assert letters(result.labels) == "daaaf"
    assert result.reasons.tolist() == ["6 of 10 annotators see disgust", "", "", "", ""]
    assert result.soft == pytest.approx(
        np.array([[0.4, 0.6, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]])
    )


def test_another_vocabulary_is_matched_by_name_and_may_abstain():
    classes = ("angry", "happy", "sad")
    source = vocabulary(["Happiness", "contempt", "anger"], "a voter")
    assert source == ("happy", "contempt", "angry")
    p = np.array([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    result = translate(p, source, classes, np.array([0, 0, 2]))
    assert result[0] == pytest.approx([0.2 / 0.7, 0.5 / 0.7, 0])
    assert np.isnan(result[1]).all()  # contempt was its first choice
    assert np.isnan(result[2]).all()  # it does not know sad, so cannot speak against it
    for names in (["happy", "LABEL_1"], ["happy", "joy"], ["happy", "not a face"]):
        with pytest.raises(InputError, match=f"a voter cannot vote.*{names[1]}"):
            vocabulary(names, "a voter")


def test_kappa_is_that_of_fleiss():
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 3, (4, 50))
    votes[:, :30] = votes[0, :30]
    counts, _ = inter_rater.aggregate_raters(votes.T, 3)
    assert worth.fleiss_kappa(votes, 3) == pytest.approx(inter_rater.fleiss_kappa(counts))
    with_silence = np.concatenate([votes, [[0], [0], [-1], [1]]], axis=1)
    assert worth.fleiss_kappa(with_silence, 3) == worth.fleiss_kappa(votes, 3)
    assert worth.fleiss_kappa(np.zeros((2, 5), int), 3) is None
    assert worth.fleiss_kappa(votes[:1], 3) is None


def test_changes_are_counted_against_the_truth_and_against_annotators():
    labels, truth = codes("aaaad"), codes("addad")
    result = rules.majority(ballots("adfda"), labels, ABC)
    found = worth.against_truth(labels, result, truth)
    assert (found["wrong"], found["changed"]) == (2, 4)
    assert (found["recall"], found["precision"]) == (0.5, 0.25)
    assert (found["right_before"], found["right_after"]) == (0.6, 0.4)
    votes = np.zeros((5, len(VOTES)), np.float32)
    for row, (name, number) in enumerate(
        (("angry", 9), ("disgust", 9), ("disgust", 9), ("angry", 9), ("not a face", 9))
    ):
        votes[row, VOTES.index(name)], votes[row, VOTES.index("fear")] = number, 1
    votes[4, VOTES.index("fear")] = 0
    seen = worth.against_annotators(labels, result, votes, ABC)
    assert (seen["images"], seen["changed"]) == (4, 3)  # the last has no vote for an emotion
    assert (seen["towards"], seen["away"], seen["neither"]) == pytest.approx((1 / 3,) * 3)
    assert (seen["agree_before"], seen["agree_after"]) == (0.5, 0.5)
    assert seen["votes_old"] == pytest.approx(0.9 / 3)
    assert seen["votes_new"] == pytest.approx((0.9 + 0.1 + 0) / 3)
    assert seen["by_class"]["angry"]["changed"] == 3
    assert seen["by_class"]["fear"] == {"changed": 0, "towards": None, "away": None}
    split = np.array(["train", "train", "test", "test", "test"])
    counts = worth.changes(labels, split, result, ABC)
    assert counts["train"] == {
        "images": 2,
        "changed": 1,
        "by_class": {"angry": 1, "disgust": 0, "fear": 0},
        "directions": [[1, 1, 0], [0, 0, 0], [0, 0, 0]],
    }
    assert counts["test"]["directions"] == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert (counts["test"]["images"], counts["test"]["changed"]) == (3, 3)


def test_the_surest_changes_are_looked_at_first():
    voters = ballots("ddd", "ffd", "dad")
    result = rules.majority(voters, codes("aaa"), ABC)
    assert worth.worth_a_look(voters, codes("aaa"), result).tolist() == [2, 0]
    table = worth.voters_table(voters, codes("adf"), None, ABC)
    assert table.loc["v2"].to_dict() == {"votes": 3, "abstains": 0, "label": 0}


@pytest.fixture(scope="module")
def faces():
    return make_sample(400, copies=0.2)


def test_folds_keep_copies_together_and_share_the_classes(faces):
    sets = fold_sets(faces, 4, seed=1)
    held = [some.ids[some.where("test")].tolist() for some in sets]
    assert sorted(name for ids in held for name in ids) == sorted(
        faces.ids[faces.where("train")].tolist()
    )
    for some in sets:
        keys = group_keys(some.images)
        voted = keys[some.where("test")]
        assert not np.isin(keys[some.split != "test"], voted).any()
        assert not set(some.ids) & set(faces.ids[faces.where("test")])
        assert len(some.where("valid")) > 0.8 * len(faces.where("valid"))
        happy = (some.labels[some.where("test")] == EMOTIONS.index("happy")).mean()
        assert happy == pytest.approx(0.25, abs=0.1)
    assert (np.bincount(copy_groups(faces.images)) > 1).any()
    assert held != [some.ids[some.where("test")].tolist() for some in fold_sets(faces, 4, seed=2)]
    with pytest.raises(InputError, match="folds=1 must lie between 2 and"):
        fold_sets(faces, 1, seed=0)


def test_no_voter_has_seen_the_label_it_votes_on(faces, tmp_path):
    tiny = {"epochs": 1, "options": {"width": 4}}
    config = recipe("baseline_cnn", "ours", "sample", **tiny)
    rows = np.concatenate([faces.where("train"), faces.where("test")])
    result = fold_votes(faces, rows, [config], folds=3, runs=tmp_path)
    assert result.voters == ("baseline_cnn s0, 3 folds",)
    assert result.probabilities.shape == (1, len(rows), 7)
    assert np.allclose(result.probabilities.sum(2), 1, atol=1e-4)
    runs = list_runs(tmp_path / "folds")
    assert len(runs) == 3
    for run, some in zip(runs, fold_sets(faces, 3, 0), strict=True):
        kept = load_predictions(run.folder / "predictions.npz")
        assert run.fingerprint == some.fingerprint  # trained without the held fold
        place = np.searchsorted(faces.ids[rows[: len(faces.where("train"))]], kept.test_ids)
        assert (result.probabilities[0, place] == kept.test_probabilities).all()
    again = fold_votes(faces, rows, [config], folds=3, runs=tmp_path)
    assert (again.probabilities == result.probabilities).all()
    assert len(list_runs(tmp_path / "folds")) == 3  # found, not trained again
    voted = recipe("baseline_cnn", "ours", "sample", labels="votes")
    with pytest.raises(InputError, match="voters learn from the original labels"):
        fold_votes(faces, rows, [voted], runs=tmp_path)
