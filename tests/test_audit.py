"""The audit finds exactly the planted copies, and on the real data the known numbers."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from fer_lib.data import tables
from fer_lib.data.audit import audit, clean_test_ids
from fer_lib.data.copies import near_copies
from fer_lib.data.counts import FER2013
from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import majority, plurality
from fer_lib.data.sample import make_sample
from fer_lib.files import read_json
from fer_lib.labels import EMOTIONS, VOTES

COMMITTED = Path(__file__).parents[1] / "report" / "results" / "audit.json"
TRAIN, TEST = slice(0, 60), slice(80, 120)


@pytest.fixture
def faces(smooth_noise) -> FaceSet:
    """120 images of 7 classes without copies."""
    split = np.repeat(["train", "valid", "test"], [60, 20, 40])
    ids = np.array([f"face{row:03d}" for row in range(120)])
    return FaceSet("noise", smooth_noise(120), np.arange(120) % 7, split, ids)


def test_the_audit_finds_the_planted_copies(faces):
    images, labels = faces.images, faces.labels
    images[[80, 81]] = images[0]  # two copies of a training image in test: one group of 3
    images[82] = images[60]  # a copy of a validation image in test
    images[84] = images[83]  # a copy within test
    images[2] = images[1]  # a copy within training
    labels[[0, 80, 81, 60, 82, 83, 84, 1, 2]] = [3, 3, 5, 1, 1, 0, 0, 2, 4]
    images[90] = images[10][..., ::-1]  # a mirrored near copy, without exact copies
    images[70] = images[91] // 2 + 40
    images[92] = images[0] // 2 + 40  # near a group that itself spans training and test
    labels[[90, 10, 91, 70, 92]] = [6, 6, 2, 1, 3]
    found = audit(faces)
    json.dumps(found, allow_nan=False)

    assert (found["images"], found["distinct"]) == (120, 115)
    test = found["copies"].pop("test")
    assert found["copies"] == {
        "groups": 4,
        "images": 9,
        "largest": 3,
        "across_splits": 2,
        "within_split": 2,
        "different_labels": 2,
        "same_label": 2,
        "random_tenth": {"images": 6, "in_rest": 0},
    }
    assert (test["in_train"], test["in_train_or_valid"]) == (2, 3)
    assert {name: row["in_train"] for name, row in test["by_class"].items() if row["in_train"]} == {
        "happy": 1,
        "surprise": 1,
    }
    assert test["by_class"]["disgust"]["in_train_or_valid"] == 1
    assert sum(row["test"] for row in test["by_class"].values()) == 40

    near = found["near_copies"]
    assert set(found["copies"]) & set(near) == {
        *("images", "across_splits", "within_split", "different_labels", "same_label"),
    }
    assert (near["pairs"], near["mirrored"]) == (3, 1)
    assert near["images"] == 8  # (10, 90), (70, 91), and 92 with the group of 0, 80 and 81
    assert (near["across_splits"], near["within_split"]) == (3, 0)
    # Pair (0, 92) has different labels, because a copy of image 0 has label 5.
    assert (near["different_labels"], near["same_label"]) == (2, 1)
    assert (near["test"]["in_train"], near["test"]["in_train_or_valid"]) == (2, 3)
    assert near["test"]["by_class"]["fear"] == {
        "test": int((labels[TEST] == 2).sum()),
        "in_train": 0,
        "in_train_or_valid": 1,
    }

    assert found["clean_test"] == {"images": 37, "distinct": 36}
    expected = np.delete(faces.ids[TEST], [0, 1, 2, 4]).tolist()
    assert found["clean_test_ids"] == clean_test_ids(faces).tolist() == expected
    assert found["votes"] is None


def test_a_random_tenth_of_the_training_images_has_copies_in_the_rest(faces):
    faces.images[1:60:2] = faces.images[0:60:2]  # pairs of training images
    faces.images[[60, 80]] = faces.images[0]  # validation and test do not count
    tenth = np.random.default_rng(0).permutation(60)[:6].tolist()
    alone = [row for row in tenth if row ^ 1 not in tenth]
    assert audit(faces)["copies"]["random_tenth"] == {"images": 6, "in_rest": len(alone)}
    assert alone


def test_a_near_copy_of_a_test_image_with_an_exact_copy_is_not_counted_as_a_leak(faces):
    faces.images[80] = faces.images[0]
    faces.images[1] = faces.images[0] // 2 + 40
    found = audit(faces)
    assert found["copies"]["test"]["in_train"] == 1
    assert found["near_copies"]["pairs"] == 1
    assert found["near_copies"]["test"]["in_train"] == 0


def test_near_groups_that_both_span_two_splits_are_one_pair_across_splits(faces):
    faces.images[80] = faces.images[0]
    faces.images[[1, 81]] = faces.images[0] // 2 + 40
    near = audit(faces)["near_copies"]
    assert (near["pairs"], near["across_splits"], near["within_split"]) == (1, 1, 0)


def test_near_copies_in_one_split_and_with_the_same_labels_are_counted_as_such(faces):
    faces.images[2] = faces.images[1]
    faces.images[[3, 4]] = faces.images[1] // 2 + 40
    faces.labels[[1, 2, 3, 4]] = [5, 6, 5, 6]  # both groups have both labels
    faces.images[11] = faces.images[10] // 2 + 40
    faces.labels[[10, 11]] = 3
    near = audit(faces)["near_copies"]
    assert (near["pairs"], near["across_splits"], near["within_split"]) == (2, 0, 2)
    assert (near["different_labels"], near["same_label"]) == (1, 1)


@pytest.mark.parametrize("rows", [TRAIN, TEST])
def test_a_set_without_some_splits_can_be_audited(faces, rows):
    part = faces.subset(rows)
    found = audit(part)
    assert found["copies"]["groups"] == found["near_copies"]["pairs"] == 0
    assert len(found["clean_test_ids"]) == (40 if rows is TEST else 0)


def test_a_tie_goes_to_the_first_column_of_ferplus():
    votes = np.zeros((4, 10))
    columns = {name: k for k, name in enumerate(VOTES)}
    for row, (first, second) in enumerate(
        [("neutral", "fear"), ("surprise", "fear"), ("fear", "contempt"), ("sad", "not a face")]
    ):
        votes[row, [columns[first], columns[second]]] = 5
    winners = [VOTES[k] for k in plurality(votes)]
    assert winners == ["neutral", "surprise", "fear", "sad"]


def one_by_one(votes: np.ndarray) -> float:
    """Return the share of votes that agree with the plurality of the others, by loops."""
    agree = []
    for row in votes.astype(int):
        for column in np.repeat(np.arange(10), row):
            others = row.copy()
            others[column] -= 1
            if others.any():
                agree.append(plurality(others[None])[0] == column)
    return float(np.mean(agree))


def test_the_agreement_of_labels_and_annotators_with_votes(faces):
    rng = np.random.default_rng(2)
    chance = rng.dirichlet(np.full(10, 0.4), len(faces))
    faces.votes = np.stack([rng.multinomial(10, p) for p in chance]).astype(np.float32)
    faces.votes[[5, 6]] = 0
    faces.votes[6, VOTES.index("not a face")] = 10
    faces.votes[7] = 0
    faces.votes[7, 3] = 1  # a single annotator has no others to agree with
    voted = np.delete(np.arange(120), np.flatnonzero(faces.votes[:, :8].sum(1) == 0))
    winner, labels = plurality(faces.votes[voted]), faces.labels[voted]
    found = audit(faces)["votes"]

    assert found["left_out"] == 120 - len(voted) >= 2
    assert found["images"] == len(voted)
    assert found["label_agrees"] == pytest.approx((winner == labels).mean())
    fear = labels == 2
    assert found["label_agrees_by_class"]["fear"] == pytest.approx((winner[fear] == 2).mean())
    counts = np.array(found["confusion"]["counts"])
    assert counts.shape == (7, 10)
    assert counts.sum() == len(voted)
    assert counts[2, 4] == ((labels == 2) & (winner == 4)).sum()
    assert found["annotator_agrees"] == pytest.approx(one_by_one(faces.votes[voted]))
    clear = majority(faces.votes[voted]) >= 0
    assert 0 < clear.sum() < len(voted)
    assert found["on_majority"] == {
        "images": clear.sum(),
        "label_agrees": pytest.approx((winner == labels)[clear].mean()),
        "annotator_agrees": pytest.approx(one_by_one(faces.votes[voted][clear])),
    }


def test_labels_and_annotators_agree_fully_with_unanimous_votes(faces):
    faces.votes = np.eye(10, dtype=np.float32)[faces.labels] * 10
    found = audit(faces)["votes"]
    assert found["label_agrees"] == found["annotator_agrees"] == 1
    assert found["ties"] == found["left_out"] == 0
    assert found["on_majority"] == {"images": 120, "label_agrees": 1, "annotator_agrees": 1}


def test_the_audit_finds_exactly_the_copies_planted_in_drawn_faces():
    faces = make_sample(1000, seed=3)
    planted, found = faces.manifest["planted"], audit(faces, threshold=0.95)
    assert planted["exact_groups"] > 10
    assert found["copies"]["groups"] == planted["exact_groups"]
    assert found["copies"]["images"] == planted["exact_images"]
    assert found["copies"]["across_splits"] == planted["groups_across_splits"]
    assert found["copies"]["different_labels"] == planted["conflicting_groups"]
    assert found["near_copies"]["pairs"] == len(planted["near"]) > 4
    near = near_copies(faces.images, 0.95)
    assert {frozenset(faces.ids[pair]) for pair in near.pairs} == set(
        map(frozenset, planted["near"])
    )
    wrong = faces.labels != faces.truth
    agrees = plurality(faces.votes) == faces.labels
    assert agrees[wrong].mean() < 0.3 < 0.7 < agrees[~wrong].mean()


@pytest.fixture(scope="module")
def fer2013(fer_data) -> FaceSet:
    return tables.read("fer2013", fer_data / "fer2013.csv", fer_data / "fer2013new.csv")


@pytest.fixture(scope="module", params=["committed", "repeated"])
def known(request) -> dict:
    """The committed audit, which the report reads, and a new one if FER_DATA is set."""
    if request.param == "committed":
        return read_json(COMMITTED)
    fer2013 = request.getfixturevalue("fer2013")
    start = time.perf_counter()
    found = audit(fer2013)
    assert time.perf_counter() - start < 60
    return found


def test_the_committed_audit_has_the_known_class_counts():
    found = read_json(COMMITTED)
    assert (found["dataset"], found["mark"]) == ("fer2013", "")
    counts = found["manifest"]["counts"]
    assert {split: tuple(counts[split][name] for name in EMOTIONS) for split in counts} == FER2013


def test_fer2013_has_the_known_numbers_of_copies(known):
    found = known
    assert (found["images"], found["distinct"]) == (35887, 34034)
    copies = found["copies"]
    keys = ("groups", "images", "largest", "across_splits", "different_labels")
    assert [copies[key] for key in keys] == [1516, 3369, 12, 557, 56]
    test = copies["test"]
    assert (test["in_train"], test["in_train_or_valid"]) == (288, 314)
    assert test["by_class"]["surprise"] == {"test": 416, "in_train": 118, "in_train_or_valid": 128}
    assert test["by_class"]["disgust"] == {"test": 55, "in_train": 16, "in_train_or_valid": 17}
    assert found["clean_test"] == {"images": 3275, "distinct": 3268}
    near = found["near_copies"]
    assert (near["pairs"], near["mirrored"]) == (1647, 20)


def test_fer2013_has_the_known_agreement_with_ferplus(known):
    found = known["votes"]
    assert (found["images"], found["left_out"]) == (35711, 176)
    assert found["label_agrees"] == pytest.approx(0.63, abs=0.005)
    assert found["label_agrees_by_class"]["fear"] == pytest.approx(0.13, abs=0.005)
    assert found["annotator_agrees"] == pytest.approx(0.70, abs=0.005)
    assert found["on_majority"]["images"] == 25060 + 3199 + 3153
    assert found["on_majority"]["annotator_agrees"] == pytest.approx(0.77, abs=0.005)


def test_clean_test_ids_take_less_than_a_second(fer2013):
    start = time.perf_counter()
    ids = clean_test_ids(fer2013)
    assert time.perf_counter() - start < 1
    assert len(ids) == len(set(ids)) == 3268
