"""Test the refinement of labels: rules, out-of-fold voters, and scores of changed labels."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats import inter_rater

from fer_lib.data.copies import copy_groups
from fer_lib.data.sample import make_sample
from fer_lib.data.splits import group_keys
from fer_lib.evaluate import load_predictions
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, EMOTIONS_8, VOTES
from fer_lib.recipes import recipe
from fer_lib.refine import rules, worth
from fer_lib.refine.ballots import Ballots, translate, vocabulary
from fer_lib.refine.folds import echo, fold_sets, fold_votes, predict, voter_configs
from fer_lib.runs import list_runs

ABC = ("angry", "disgust", "fear")


def ballots(*voters: str, classes: tuple[str, ...] = ABC, sure: float = 0.9) -> Ballots:
    """Make ballots from a string for each voter: one class initial per image; "-" abstains."""
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
        (("d-", "d-", "-d", "d-"), "da"),  # abstaining does not lower the threshold
        (("d-", "--"), "da"),
    ],
)
def test_the_majority_changes_a_label_only_with_enough_votes(voters, refined):
    result = rules.majority(ballots(*voters), codes("aa"), ABC)
    assert letters(result.labels) == refined
    assert result.changed.tolist() == [letter != "a" for letter in refined]


def test_the_majority_gives_reasons_and_counts_the_label_as_a_vote_in_soft_labels():
    result = rules.majority(ballots("dd", "da", "df", "-f"), codes("aa"), ABC)
    assert result.reasons.tolist() == ["3 of 4 voters say disgust", ""]
    assert result.soft == pytest.approx(np.array([[1, 3, 0], [2, 1, 2]]) / [[4], [5]])
    assert result.settings == {"votes": 3}


def test_missing_voters_do_not_lower_the_threshold():
    three, pair = ballots("dd", "dd", "df"), ballots("dd", "dd")
    result = rules.majority(replace(three, missing=("gone",)), codes("aa"), ABC)
    assert (letters(result.labels), result.settings) == ("da", {"votes": 3})
    assert result.reasons.tolist() == ["3 of 4 voters say disgust", ""]
    result = rules.majority(replace(pair, missing=("gone", "lost")), codes("aa"), ABC)
    # The published project ignored the missing two of four voters, so one vote was enough.
    assert (letters(result.labels), result.settings) == ("aa", {"votes": 3})
    both = replace(pair, missing=("gone",)) + replace(pair, missing=("lost",))
    assert (both.missing, both.named) == (("gone", "lost"), 6)
    assert rules.majority(both, codes("aa"), ABC).settings == {"votes": 4}


def test_the_soft_average_changes_labels_only_with_enough_confidence():
    voters = ballots("dd", "df", sure=0.8)
    result = rules.soft_average(voters, codes("aa"), ABC, confidence=0.7)
    assert letters(result.labels) == "da"
    assert result.reasons.tolist() == ["mean probability 0.80 of disgust", ""]
    assert result.soft[0] == pytest.approx([(2 * 0.1 + 1) / 3, 2 * 0.8 / 3, 2 * 0.1 / 3], abs=1e-6)
    lenient = rules.soft_average(voters, codes("aa"), ABC, confidence=0.4)
    assert letters(lenient.labels) == "dd"
    exactly = rules.soft_average(ballots("d", sure=0.5), codes("a"), ABC, confidence=0.5)
    assert letters(exactly.labels) == "d"
    one = ballots("d", "-")
    assert one.mean()[0] == pytest.approx([0.05, 0.9, 0.05])  # of those that do not abstain
    soft = rules.soft_average(one, codes("a"), ABC).soft[0]
    assert soft == pytest.approx([1.05 / 2, 0.9 / 2, 0.05 / 2])
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


@pytest.fixture(scope="module")
def noisy():
    """Return ballots of three voters, labels, and the true labels of 4,000 images.

    The voters are right on 95 % of the images, and 20 % of the labels are wrong. The last class is
    rare, and the voters are never sure of it.
    """
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 4000, p=[0.55, 0.4, 0.05])
    labels = truth.copy()
    wrong = rng.permutation(4000)[:800]
    labels[wrong] = np.where(truth[wrong] == 0, 1, 0)  # no wrong label is the rare class
    p = np.empty((3, 4000, 3))
    for one in p:
        seen = np.where(rng.random(4000) < 0.93, truth, rng.integers(0, 3, 4000))
        sure = np.where(seen == 2, 0.45, 0.8)[:, None]
        one[:] = np.where(np.arange(3) == seen[:, None], sure, (1 - sure) * [0.8, 0.15, 0.05])
    p /= p.sum(2, keepdims=True)
    return Ballots(("a", "b", "c"), p.astype(np.float32)), labels, truth


def test_rules_that_average_the_voters_have_the_same_soft_labels(noisy):
    voters, labels, _ = noisy
    refined = rules.apply_rules(voters, labels, ABC, None)
    for rule in ("relative", "confident"):
        assert (refined[rule].soft == refined["soft"].soft).all()


def test_nothing_changes_where_the_voters_are_to_be_certain(noisy):
    voters, labels, _ = noisy
    few = Ballots(voters.voters, voters.probabilities[:, :200])  # each soft label is computed
    sure = rules.apply_rules(few, labels[:200], ABC, None, confidence=1)
    assert not sure["soft"].changed.any()


def test_the_relative_rule_corrects_most_wrong_labels(noisy):
    voters, labels, truth = noisy
    refined = rules.apply_rules(voters, labels, ABC, None)
    assert list(refined) == ["majority", "soft", "relative", "confident"]
    found = {rule: worth.against_truth(labels, one, truth) for rule, one in refined.items()}
    assert min(found["relative"]["recall"], found["relative"]["precision"]) > 0.8
    rare = truth == 2
    mended = {rule: (one.labels[rare] == 2).mean() for rule, one in refined.items()}
    assert mended["relative"] > mended["soft"] + 0.02  # as it has a scale for each class
    curve = worth.recovery_curve(voters, labels, ABC, truth)
    assert len(curve) > 10
    assert curve[-1][0] < found["soft"]["recall"] < curve[0][0] + 1e-9
    assert found["majority"]["right_after"] > found["majority"]["right_before"] == 0.8
    with pytest.raises(InputError, match="there is no voter"):
        rules.apply_rules(Ballots((), np.empty((0, 4000, 3))), labels, ABC, None)
    with pytest.raises(InputError, match=r"confidence is a probability, not 1\.5"):
        rules.apply_rules(voters, labels, ABC, None, confidence=1.5)
    with pytest.raises(InputError, match="all labels are of one class"):
        rules.apply_rules(voters, np.zeros_like(labels), ABC, None)
    with pytest.raises(InputError, match=r"voters \(v0\) abstain on all images but 1: name voters"):
        rules.apply_rules(ballots("-d-"), codes("adf"), ABC, None)


def test_the_relative_rule_keeps_a_label_that_is_exceeded_by_less_than_the_margin():
    labels = np.array([0, 1, 2] * 20 + [0, 0])
    p = np.full((1, 62, 3), 0.1, np.float32)
    p[0, np.arange(60), labels[:60]] = 0.8
    p[0, 60:] = [(0.3, 0.4, 0.3), (0.25, 0.5, 0.25)]  # quotients 1.3 and 1.9 times the label's
    result = rules.relative(Ballots(("v",), p), labels, ABC)
    assert result.labels[60:].tolist() == [0, 1]
    assert result.changed.sum() == 1


def test_images_without_a_vote_keep_their_label_and_do_not_affect_others(noisy):
    voters, labels, _ = noisy
    p = np.concatenate([voters.probabilities, np.full((3, 500, 3), np.nan, np.float32)], axis=1)
    more = np.concatenate([labels, np.full(500, 2)])
    for rule in (rules.relative, rules.confident_learning, rules.soft_average, rules.majority):
        result = rule(Ballots(voters.voters, p), more, ABC)
        assert not result.changed[-500:].any()
        assert (result.labels[:-500] == rule(voters, labels, ABC).labels).all()
        assert np.allclose(result.soft.sum(1), 1)


def test_rules_accept_eight_classes_and_a_class_without_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)  # never contempt
    p = rng.dirichlet(np.ones(8), (2, 300)).astype(np.float32)
    votes = rng.multinomial(10, np.full(10, 0.1), 300).astype(np.float32)
    refined = rules.apply_rules(Ballots(("a", "b"), p), labels, EMOTIONS_8, votes)
    for one in refined.values():
        assert one.soft.shape == (300, 8)
        assert np.isfinite(one.soft).all()
        assert ((one.labels >= 0) & (one.labels < 8)).all()
        assert (one.changed == (one.labels != labels)).all()
    assert (refined["annotators"].labels == 7).any()


def test_the_annotators_replace_a_label_with_their_plurality():
    votes = np.zeros((6, len(VOTES)), np.float32)
    half, foreign = {"disgust": 6, "angry": 4}, {"contempt": 9, "fear": 1}
    tied = {"disgust": 5, "fear": 5}  # disgust comes before fear in FERPlus's file
    for row, counts in enumerate((half, foreign, {"not a face": 10}, {}, {"fear": 1}, tied)):
        for name, number in counts.items():
            votes[row, VOTES.index(name)] = number
    result = rules.annotators(votes, codes("aaaaff"), ABC)
    assert letters(result.labels) == "daaaff"
    assert result.reasons.tolist() == ["6 of 10 annotators see disgust", "", "", "", "", ""]
    assert result.soft == pytest.approx(
        np.array([[0.4, 0.6, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0.5, 0.5]])
    )


def test_classes_are_matched_by_name_and_a_voter_without_a_class_abstains():
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


def test_fleiss_kappa_matches_statsmodels():
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
    shared = votes.copy()
    shared[1, VOTES.index("angry")] = 9
    tied = worth.against_annotators(labels, result, shared, ABC)
    assert (tied["towards"], tied["away"], tied["tied"]) == pytest.approx((0, 1 / 3, 1 / 3))
    assert (seen["agree_before"], seen["agree_after"]) == (0.5, 0.5)
    assert seen["votes_old"] == pytest.approx(0.9 / 3)
    assert seen["votes_new"] == pytest.approx((0.9 + 0.1 + 0) / 3)
    assert seen["by_class"]["angry"]["changed"] == 3
    assert seen["by_class"]["fear"] == {"changed": 0, "towards": None, "away": None}
    none = worth.against_annotators(labels, result, 0 * votes, ABC)
    assert (none["images"], none["agree_before"], none["agree_after"]) == (0, None, None)
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


def test_only_labels_that_become_right_count_as_recovered():
    curve = worth.recovery_curve(ballots("df", sure=0.8), codes("aa"), ABC, codes("dd"))
    assert set(curve) == {(0.5, 0.5)}


def test_agreement_is_with_the_labels_that_the_voters_gave(make_run, noise):
    run, test = make_run(slice(0, 100)), noise.where("test")
    labels = noise.labels[test]
    labels[:100] = (labels[:100] + 1) % 7  # as the run is wrong
    refined = rules.annotators(np.zeros((400, 10)), labels, EMOTIONS)
    found = worth.agreement(run, noise, test, refined)
    assert found == {"accuracy": 0.75, "agreement": 1}


def test_worth_a_look_returns_the_surest_changes_first():
    voters = ballots("ddd", "ffd", "dad")
    result = rules.majority(voters, codes("aaa"), ABC)
    assert worth.worth_a_look(voters, codes("aaa"), result).tolist() == [2, 0]
    table = worth.voters_table(voters, codes("adf"), None)
    assert table.loc["v2"].to_dict() == {"votes": 3, "abstains": 0, "label": 0}
    assert table["votes"].dtype.kind == "i"  # counts, not shares
    votes = np.zeros((3, len(VOTES)), np.float32)
    votes[[0, 1], [VOTES.index("disgust"), VOTES.index("fear")]] = 10
    table = worth.voters_table(ballots("d-d"), codes("adf"), votes)
    assert table.loc["v0"].to_dict() == {"votes": 2, "abstains": 1, "label": 0, "annotators": 1}


@pytest.fixture(scope="module")
def faces():
    return make_sample(400, copies=0.2)


def test_folds_keep_copies_together_and_have_their_share_of_every_class(faces):
    faces = faces.subset(np.arange(len(faces)))
    faces.images[faces.where("valid")[0]] = faces.images[faces.where("train")[0]]
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
    for wrong in (1, 2.0, "3", None):
        with pytest.raises(InputError, match=f"folds={wrong!r} must be a whole number between 2 a"):
            fold_sets(faces, wrong, seed=0)


def test_more_folds_than_groups_of_copies_are_refused(faces):
    rows = faces.where("train")[np.arange(12) % 3]  # 12 training images, but only 3 different ones
    some = faces.subset(rows)
    some.labels[:] = 0
    assert len(fold_sets(some, 3, seed=0)) == 3
    with pytest.raises(InputError, match="folds=4 is more than the 12 training images allow once"):
        fold_sets(some, 4, seed=0)


def test_no_voter_has_learned_from_a_label_it_votes_on(faces, tmp_path):
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
        assert run.fingerprint == some.fingerprint  # trained without the held-out fold
        place = np.searchsorted(faces.ids[rows[: len(faces.where("train"))]], kept.test_ids)
        assert (result.probabilities[0, place] == kept.test_probabilities).all()
    held_out = np.mean([predict(run, faces.images[faces.where("test")]) for run in runs], axis=0)
    assert np.allclose(result.probabilities[0, -len(held_out) :], held_out)
    again = fold_votes(faces, rows, [config], folds=3, runs=tmp_path)
    assert (again.probabilities == result.probabilities).all()
    assert len(list_runs(tmp_path / "folds")) == 3  # reused, not trained again
    table = echo(faces, config, folds=3, runs=tmp_path)
    wrong = (faces.labels != faces.truth)[faces.where("train")].sum()
    assert table["images"].tolist() == [wrong, 2 * wrong]  # two of three models learn each
    assert table["names the label"].between(0, 1).all()
    voted = recipe("baseline_cnn", "ours", "sample", labels="votes")
    with pytest.raises(InputError, match="voters learn from the original labels"):
        fold_votes(faces, rows, [voted], folds=3, runs=tmp_path)
    knowing = recipe("baseline_cnn", "ours", "sample", pretrained=str(runs[0].weights))
    with pytest.raises(InputError, match="has learned from labels that such a voter would vote on"):
        fold_votes(faces, rows, [knowing], folds=3, runs=tmp_path)
    unfit = replace(config, frozen_layers=99)  # refused before the first voter is trained
    with pytest.raises(InputError, match="frozen_layers is at most"):
        fold_votes(faces, rows, [config, unfit], folds=3, runs=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("voters", "changes", "message"),
    [
        (["baseline_cnn", {"epochs": 5}], {}, "voter {'epochs': 5} is neither a model nor"),
        ([["baseline_cnn", 5]], {}, "is neither a model nor a model with its changes"),
        (None, {}, r"voters=None is no list of models: .* or \[\] for none"),
        (3, {}, "voters=3 is no list of models"),
        (["baseline_cnn"], 5, "changes=5 is not a dict"),
        (["baseline_cnn"], {"seed": 3}, "seed in changes has a parameter of its own"),
        (
            [["baseline_cnn", {"model": "vit_tiny"}]],
            {},
            "model in the changes of voter baseline_cnn",
        ),
        ([["baseline_cnn", {"seed": 3}]] * 2, {}, "two voters are the same training, baseline_cnn"),
    ],
)
def test_invalid_and_duplicate_voters_are_refused(voters, changes, message):
    with pytest.raises(InputError, match=message):
        voter_configs(voters, "sample", 0, changes)


def test_changes_of_one_voter_are_merged_with_those_of_all():
    own = {"options": {"dropout": [0, 0]}, "augmentation": {"flip": 0.0}}
    shared = {"options": {"width": 8}, "augmentation": {"flip": 0.3, "erase": 0.5}}
    (config,) = voter_configs([["baseline_cnn", own]], "sample", 0, shared)
    assert config.options == {"width": 8, "dropout": [0, 0]}
    assert (config.augmentation.flip, config.augmentation.erase) == (0.0, 0.5)


def test_each_voter_has_its_own_seed():
    given = ["baseline_cnn", ("baseline_cnn", {"epochs": 5}), ["attention_cnn", {"seed": 7}]]
    configs = voter_configs(given, "sample", 1, {"epochs": 3})
    assert [(one.model, one.seed, one.epochs) for one in configs] == [
        *(("baseline_cnn", 1, 3), ("baseline_cnn", 2, 5), ("attention_cnn", 7, 3))
    ]


def test_voters_that_differ_in_their_settings_alone_have_different_names(faces, monkeypatch):
    rows, own = faces.where("train"), {"seed": 0}
    voters = [["baseline_cnn", own], ["baseline_cnn", own | {"epochs": 5}]]
    votes = np.ones((len(rows), 7), np.float32)
    monkeypatch.setattr("fer_lib.refine.folds.train_folds", lambda *_, **__: [])
    monkeypatch.setattr("fer_lib.refine.folds._votes", lambda *_: votes)
    configs = voter_configs(voters, "sample", 0, {})
    one, other = fold_votes(faces, rows, configs, folds=2).voters
    assert one != other
    assert other == "baseline_cnn s0, 2 folds: epochs=5"
