"""Tests of scores against scikit-learn, statsmodels, scipy's bootstrap and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests

from fer_lib.data.audit import clean_test_ids
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import (
    Predictions,
    evaluate,
    halved,
    holm,
    load_predictions,
    mcnemar,
    save_predictions,
)
from fer_lib.evaluate.scores import bootstrap, metrics
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, EMOTIONS_8, VOTES

SUMMARY = ("accuracy", "macro_f1", "balanced_accuracy")


def guesses(labels: np.ndarray, classes: int = 7, seed: int = 0) -> np.ndarray:
    """Return probabilities that favour the label; about two in three predictions are right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += 1.8
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def faces() -> FaceSet:
    """300 noise images with votes; test row 0 is a copy from train, test row 2 one of row 1."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)
    split = np.repeat(["train", "valid", "test"], 100)
    images[200], images[202] = images[0], images[201]
    labels = rng.integers(0, 7, 300)
    votes = np.zeros((300, 10), np.float32)
    votes[np.arange(300), labels] = 10
    ids = np.array([f"face{row:04d}" for row in range(300)])
    return FaceSet("noise", images, labels, split, ids, votes=votes)


@pytest.fixture
def predictions(faces: FaceSet) -> Predictions:
    return Predictions.of(
        faces, *(guesses(faces.labels[faces.where(split)]) for split in ("valid", "test"))
    )


def test_metrics_agree_with_scikit_learn():
    labels = np.random.default_rng(1).choice(7, 500, p=[0.1, 0.02, 0.15, 0.3, 0.2, 0.1, 0.13])
    probabilities = guesses(labels)
    predicted = probabilities.argmax(1)
    ours = metrics(probabilities, labels, EMOTIONS)
    report = sk.classification_report(labels, predicted, target_names=EMOTIONS, output_dict=True)

    assert ours["n"] == 500
    assert ours["accuracy"] == pytest.approx(report["accuracy"])
    assert ours["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    expected = sk.balanced_accuracy_score(labels, predicted)
    assert ours["balanced_accuracy"] == pytest.approx(expected)
    likelihood = probabilities[np.arange(500), labels].astype(float)
    assert ours["nll"] == pytest.approx(-np.log(likelihood).mean(), abs=1e-6)
    assert ours["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    means = {"weighted avg": ours["weighted"], "macro avg": ours["macro"]}
    for name, row in {**ours["per_class"], **means}.items():
        theirs = {key.removesuffix("-score"): value for key, value in report[name].items()}
        assert row == pytest.approx({key: theirs[key] for key in row})


def test_a_class_without_labels_scores_0_and_is_left_out_of_the_means():
    labels = np.array([0, 0, 2, 2, 2])
    predicted = np.array([0, 1, 2, 2, 0])  # class 1 is predicted but never true
    probabilities = np.full((5, 4), 0.1)
    probabilities[np.arange(5), predicted] = 0.7
    ours = metrics(probabilities, labels, ("a", "b", "c", "d"))

    empty = {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert ours["per_class"]["b"] == ours["per_class"]["d"] == empty
    assert ours["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    expected = sk.f1_score(labels, predicted, labels=[0, 2], average="macro")
    assert ours["macro_f1"] == ours["macro"]["f1"] == pytest.approx(expected)
    assert ours["macro"]["recall"] == pytest.approx(ours["balanced_accuracy"])
    low, high = bootstrap(ours["confusion"])["macro_f1"]
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("accuracy", sk.accuracy_score),
        ("macro_f1", lambda y, p: sk.f1_score(y, p, average="macro", labels=np.unique(y))),
        ("balanced_accuracy", sk.balanced_accuracy_score),
    ],
)
def test_the_bootstrap_agrees_with_scipy(name, score):
    labels = np.random.default_rng(2).integers(0, 5, 300)
    predicted = guesses(labels, 5).argmax(1)
    reference = stats.bootstrap(
        (labels, predicted),
        score,
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    ours = bootstrap(sk.confusion_matrix(labels, predicted))[name]
    # The scatter of a 2.5 % quantile of 1,500 or 2,000 draws is about 0.002 here.
    assert ours == pytest.approx([reference.low, reference.high], abs=0.008)


def test_the_interval_of_the_accuracy_agrees_with_the_binomial():
    confusion = [[2513, 1076], [0, 0]]  # 70 % of 3,589
    low, high = bootstrap(confusion)["accuracy"]
    expected = stats.binom(3589, 2513 / 3589).ppf([0.025, 0.975]) / 3589
    assert [low, high] == pytest.approx(expected, abs=0.002)
    assert (high - low) / 2 == pytest.approx(0.015, abs=0.001)


def test_the_bootstrap_is_reproducible():
    confusion = np.random.default_rng(0).integers(1, 50, (7, 7))
    assert bootstrap(confusion) == bootstrap(confusion)


def test_evaluate_scores_full_clean_and_majority(faces, predictions):
    test = faces.where("test")
    faces.votes[test[3]] = 0  # no vote at all
    faces.votes[test[4]] = np.eye(10)[VOTES.index("contempt")] * 10
    faces.votes[test[5]] = np.eye(10)[VOTES.index("unknown")] * 10
    result = evaluate(faces, predictions)

    right = predictions.test_probabilities.argmax(1) == faces.labels[test]
    assert result["full"]["n"] == 100
    assert result["full"]["accuracy"] == pytest.approx(right.mean())
    assert result["clean"]["n"] == len(clean_test_ids(faces)) == 98
    assert result["clean"]["accuracy"] == pytest.approx(np.delete(right, [0, 2]).mean())
    majority = result["ferplus_majority"]
    assert majority["left_out"] == {"no_majority": 2, "no_class": 1}
    assert majority["n"] == 97
    assert majority["accuracy"] == pytest.approx(np.delete(right, [3, 4, 5]).mean())
    for part in result.values():
        for name in SUMMARY:
            low, high = part["interval"][name]
            assert low <= part[name] <= high


def test_the_majority_part_is_scored_against_the_majority_label(faces, predictions):
    """Not against the label of the dataset."""
    faces.votes = np.roll(faces.votes[:, :7], 1, axis=1)
    faces.votes = np.pad(faces.votes, ((0, 0), (0, 3)))
    result = evaluate(faces, predictions)
    wanted = (faces.labels[faces.where("test")] + 1) % 7
    hits = predictions.test_probabilities.argmax(1) == wanted
    assert result["ferplus_majority"]["accuracy"] == pytest.approx(hits.mean())


def test_contempt_is_kept_if_the_model_has_eight_classes(faces):
    faces = replace(faces, classes=EMOTIONS_8)
    faces.votes[faces.where("test")[4]] = np.eye(10)[7] * 10
    made = [guesses(faces.labels[faces.where(split)], 8) for split in ("valid", "test")]
    result = evaluate(faces, Predictions.of(faces, *made))
    assert result["ferplus_majority"]["n"] == 100
    assert result["ferplus_majority"]["per_class"]["contempt"]["support"] == 1


def test_parts_without_images_are_none_and_validation_has_no_clean_part(faces, predictions):
    votes = faces.votes.copy()
    votes[faces.where("test")] = 0
    mute = replace(faces, votes=votes, manifest={})
    assert evaluate(mute, predictions)["ferplus_majority"] is None
    assert set(evaluate(replace(faces, votes=None, manifest={}), predictions, "valid")) == {"full"}


def test_predictions_are_matched_by_id(faces, predictions):
    order = np.random.default_rng(0).permutation(100)
    shuffled = replace(
        predictions,
        test_ids=predictions.test_ids[order],
        test_probabilities=predictions.test_probabilities[order],
    )
    assert evaluate(faces, shuffled) == evaluate(faces, predictions)


@pytest.mark.parametrize("change", ["missing", "other", "pictures", "classes"])
def test_predictions_of_other_images_are_refused(faces, predictions, change):
    if change == "missing":
        arrays = {k: getattr(predictions, k)[1:] for k in ("test_ids", "test_probabilities")}
        predictions, message = replace(predictions, **arrays), "lack 1 of the 100 test images"
    elif change == "other":
        faces, message = replace(faces, ids=np.char.add("x", faces.ids)), "have 100 others"
    elif change == "pictures":
        faces, message = replace(faces, images=255 - faces.images), "other pictures"
    else:
        predictions, message = replace(predictions, classes=EMOTIONS[::-1]), "for the classes"
    with pytest.raises(InputError, match=message):
        evaluate(faces, predictions)


def test_the_same_predictions_may_be_scored_against_other_labels(faces, predictions):
    relabelled = replace(faces, labels=(faces.labels + 1) % 7, votes=None, manifest={})
    assert evaluate(relabelled, predictions)["full"]["accuracy"] < 0.4


def test_predictions_are_loaded_as_they_were_saved(tmp_path, predictions):
    path = tmp_path / "predictions.npz"
    save_predictions(path, predictions)
    read = load_predictions(path)
    assert read.classes == predictions.classes
    assert read.pictures_digest == predictions.pictures_digest
    assert read.test_probabilities.dtype == np.float32
    for key in ("valid_ids", "valid_probabilities", "test_ids", "test_probabilities"):
        np.testing.assert_array_equal(getattr(read, key), getattr(predictions, key))


@pytest.mark.parametrize("damage", ["absent", "cut", "flipped", "text", "keys", "nan", "short"])
def test_damaged_predictions_are_refused(tmp_path, predictions, damage):
    path = tmp_path / "predictions.npz"
    save_predictions(path, predictions)
    whole = path.read_bytes()
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        start = whole.index(predictions.test_probabilities.tobytes())
        path.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "keys":
        np.savez(path, probabilities=predictions.test_probabilities)
    elif damage == "nan":
        rows = np.full_like(predictions.test_probabilities, np.nan)
        save_predictions(path, replace(predictions, test_probabilities=rows))
    else:
        save_predictions(path, replace(predictions, test_ids=predictions.test_ids[1:]))
    with pytest.raises(InputError, match=r"predictions\.npz"):
        load_predictions(path)


def test_probabilities_that_do_not_fit_the_faces_are_refused(faces):
    with pytest.raises(ValueError, match="valid"):
        Predictions.of(faces, np.full((99, 7), 1 / 7), np.full((100, 7), 1 / 7))
    with pytest.raises(ValueError, match="distribution"):
        Predictions.of(faces, np.full((100, 7), 1 / 7), np.full((100, 7), 0.3))
    negative = np.tile([1.5, -0.5, 0, 0, 0, 0, 0], (100, 1))
    with pytest.raises(ValueError, match="distribution"):
        Predictions.of(faces, np.full((100, 7), 1 / 7), negative)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 1), (1, 5), (8, 8), (130, 95), (0, 9)])
def test_mcnemar_agrees_with_statsmodels(only_a, only_b):
    table = [[40, only_a], [only_b, 20]]
    a = np.repeat([True, True, False, False], np.ravel(table))
    b = np.repeat([True, False, True, False], np.ravel(table))
    expected = sm_mcnemar(table, exact=True).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(min(expected, 1.0))


def test_mcnemar_requires_the_same_images():
    with pytest.raises(ValueError, match="same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


@pytest.mark.parametrize("p", [[0.01], [0.04, 0.01, 0.03, 0.5], [0.2, 0.2, 0.9], [0.01] * 5])
def test_holm_agrees_with_statsmodels(p):
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_half_precision_changes_no_answer(tmp_path):
    def of(p: np.ndarray) -> Predictions:
        ids = np.arange(len(p)).astype(str)
        return Predictions(ids, p, ids, p, tuple("abcdefg"[: p.shape[1]]), "")

    close = np.array([[0.3001, 0.30015, 0.39975], [0.49995, 0.5, 0.00005], [0.2, 0.2, 0.6]])
    assert (close.astype(np.float16).argmax(1) != close.argmax(1)).any()
    assert np.array_equal(halved(of(close)).test_probabilities.argmax(1), close.argmax(1))
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.3), 20_000).astype(np.float32)
    p[:7] = np.full((7, 7), 1 / 7) + 1e-5 * np.eye(7)  # near ties, each class first in turn
    halves = halved(of(p))
    assert halves.test_probabilities.dtype == np.float16
    assert np.array_equal(halves.test_probabilities.argmax(1), p.argmax(1))
    assert halves.problem() == ""
    rare = np.array([[1 - 1e-9, 1e-9, 0.0]])
    kept = halved(of(rare)).test_probabilities
    assert kept.tolist() == [[1.0, 2.0**-24, 0.0]]  # improbable, but not impossible
    save_predictions(tmp_path / "small.npz", of(p), small=True)
    save_predictions(tmp_path / "large.npz", of(p))
    small, large = (load_predictions(tmp_path / f"{name}.npz") for name in ("small", "large"))
    assert (tmp_path / "small.npz").stat().st_size < (tmp_path / "large.npz").stat().st_size / 2
    for split in ("valid", "test"):
        ours, exact = (getattr(one, f"{split}_probabilities") for one in (small, large))
        assert ours.dtype == exact.dtype == np.float32
        assert np.array_equal(ours.argmax(1), exact.argmax(1))
        assert 0 < np.abs(ours - exact).max() < 5e-4
