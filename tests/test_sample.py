"""Test that drawn faces are reproducible and recognisable, and have exactly the planted errors."""

import csv
import hashlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import confusion_matrix

from fer_lib.data import sample
from fer_lib.data.drawing import draw
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import NEIGHBOUR, make_sample
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, VOTES

SMALL = 400


@pytest.fixture(scope="module")
def faces():
    return make_sample(SMALL, seed=3)


def hashes(images):
    return np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images])


def test_draw_gives_the_same_bytes_everywhere():
    images = draw(np.arange(7), 0)
    assert images.shape == (7, 1, 48, 48)
    assert images.dtype == np.uint8
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest.startswith("a9e6e2e77d01adb1"), "all numbers from the sample data change"


def test_a_face_depends_on_the_seed_and_not_on_later_faces():
    emotion = np.arange(14) % 7
    assert np.array_equal(draw(emotion, 5)[:4], draw(emotion[:4], 5))
    assert not np.array_equal(draw(emotion, 5), draw(emotion, 6))


def test_all_expressions_are_equal_at_intensity_0():
    still = draw(np.arange(7), 1, intensity=0.0, rough=0.0)
    same_person = draw(np.full(7, EMOTIONS.index("neutral")), 1, intensity=0.0, rough=0.0)
    assert np.array_equal(still, same_person)


def test_a_half_mixed_face_is_between_its_expression_and_the_neighbour():
    fear, surprise = EMOTIONS.index("fear"), EMOTIONS.index("surprise")
    ends = draw(np.array([fear]), 1, rough=0), draw(np.array([surprise]), 1, rough=0)
    half = draw(np.array([fear]), 1, neighbour=np.array([surprise]), mix=0.5, rough=0)
    apart = np.abs(ends[0].astype(int) - ends[1]).mean()
    assert all(0 < np.abs(half.astype(int) - end).mean() < apart for end in ends)


def test_large_faces_are_the_small_ones_at_a_higher_resolution():
    small, large = (draw(np.arange(7), 2, rough=0, size=size) for size in (48, 192))
    assert large.shape == (7, 1, 192, 192)
    reduced = large[:, 0].reshape(7, 48, 4, 48, 4).mean((2, 4))
    assert np.abs(reduced - small[:, 0]).mean() < 4


def gradients(images: np.ndarray) -> np.ndarray:
    """Return edges by six directions in 12x12 cells, (n, 864) float32, norm 1 for each image."""
    down, right = np.gradient(images[:, 0].astype(np.float32), axis=(1, 2))
    direction = (np.arctan2(down, right) % np.pi * 6 / np.pi).astype(int) % 6
    edges = np.hypot(down, right)[..., None] * (direction[..., None] == np.arange(6))
    cells = edges.reshape(-1, 12, 4, 12, 4, 6).mean((2, 4)).reshape(len(images), -1)
    return cells / np.linalg.norm(cells, axis=1, keepdims=True)


def test_expressions_are_recognised_and_similar_ones_confused_more_often_than_others():
    faces = make_sample(1500, seed=2, wrong=0, copies=0)
    features, labels = gradients(faces.images), faces.labels
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=np.full(7, 1 / 7))
    predicted = model.fit(features[:900], labels[:900]).predict(features[900:])
    rates = confusion_matrix(labels[900:], predicted, normalize="true")
    assert np.diag(rates).mean() > 0.7
    alike = [("angry", "disgust"), ("fear", "surprise"), ("sad", "neutral")]
    rows, columns = np.array([[EMOTIONS.index(name) for name in pair] for pair in alike]).T
    both = (rates + rates.T) / 2
    unrelated = ~np.eye(7, dtype=bool)
    unrelated[rows, columns] = unrelated[columns, rows] = False
    assert (both[rows, columns] > 3 * both[unrelated].mean()).all()


def test_sample_has_the_imbalance_splits_and_order_of_fer2013(faces):
    assert (faces.name, faces.mark, faces.manifest["layout"]) == ("sample", "sample data", "drawn")
    assert [len(faces.where(split)) for split in ("train", "valid", "test")] == [320, 40, 40]
    assert sorted(faces.split, key=["train", "valid", "test"].index) == faces.split.tolist()
    assert faces.ids[[0, 320, 399]].tolist() == [
        "Training_0000000",
        "PublicTest_0000320",
        "PrivateTest_0000399",
    ]
    train = faces.counts()["train"]
    assert train["happy"] == round(7215 / 28709 * 320)
    assert min(min(counts.values()) for counts in faces.counts().values()) >= 1


def test_the_same_seed_gives_the_same_sample():
    first, second, other = make_sample(150), make_sample(150), make_sample(150, seed=1)
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != other.fingerprint


def test_wrong_labels_have_the_requested_number_and_are_often_the_neighbour(faces):
    wrong = np.flatnonzero(faces.labels != faces.truth)
    assert len(wrong) == faces.manifest["planted"]["wrong_labels"] == round(0.1 * SMALL)
    to_neighbour = NEIGHBOUR[faces.labels[wrong]] == faces.truth[wrong]
    assert 0.35 < to_neighbour.mean() < 0.75


def test_most_faces_of_each_class_have_its_label_even_with_many_wrong_labels(monkeypatch):
    blank = lambda truth, *_, **__: np.zeros((len(truth), 1, 48, 48), np.uint8)
    monkeypatch.setattr(sample, "draw", blank)  # only the labels are tested
    faces = make_sample(3000, wrong=0.2)
    counts = np.zeros((7, 7), int)
    np.add.at(counts, (faces.truth, faces.labels), 1)
    assert (counts.argmax(1) == np.arange(7)).all()
    assert counts.trace() == 0.8 * len(faces)


def test_exact_copies_are_only_the_planted_ones(faces):
    _, group, size = np.unique(hashes(faces.images), return_inverse=True, return_counts=True)
    copied = [np.flatnonzero(group == g) for g in np.flatnonzero(size > 1)]
    planted = faces.manifest["planted"]
    assert planted["exact_groups"] == len(copied) > 0
    assert planted["exact_images"] == sum(map(len, copied))
    assert planted["exact_images"] - planted["exact_groups"] == round(0.05 * SMALL)
    assert planted["groups_across_splits"] == sum(len(set(faces.split[g])) > 1 for g in copied) > 0
    assert planted["conflicting_groups"] == sum(len(set(faces.labels[g])) > 1 for g in copied) > 0
    assert all(len(set(faces.truth[rows])) == 1 for rows in copied)


def test_near_copies_are_mirrored_or_brighter(faces):
    row = {name: i for i, name in enumerate(faces.ids)}
    pairs = [
        (faces.images[row[a]], faces.images[row[b]]) for a, b in faces.manifest["planted"]["near"]
    ]
    assert len(pairs) >= 3
    for k, (copy, source) in enumerate(pairs):
        assert not np.array_equal(copy, source)
        expected = source[..., ::-1] if k % 2 == 0 else source * 0.93 + 14
        assert np.abs(copy - expected.astype(float)).max() <= 1


def test_no_wrong_labels_or_copies_are_planted_unless_requested():
    faces = make_sample(120, wrong=0, copies=0)
    assert np.array_equal(faces.labels, faces.truth)
    assert len(set(hashes(faces.images))) == 120
    planted = faces.manifest["planted"]
    assert planted["wrong_labels"] == planted["exact_images"] == len(planted["near"]) == 0


def test_ten_annotators_mostly_see_what_was_drawn(faces):
    assert faces.votes.shape == (SMALL, len(VOTES))
    assert (faces.votes.sum(1) == 10).all()
    not_a_face = np.isin(faces.ids, faces.manifest["planted"]["not_a_face"])
    assert (faces.votes[not_a_face, VOTES.index("not a face")] == 10).all()
    assert faces.votes[:, VOTES.index("unknown")].sum() > 0
    seen = faces.votes[~not_a_face, :7].argmax(1)
    assert 0.85 < (seen == faces.truth[~not_a_face]).mean() < 0.99


@pytest.mark.parametrize("bad", [{"n": 99}, {"wrong": 0.5}, {"wrong": -0.1}, {"copies": 0.3}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        make_sample(**bad)


@pytest.fixture(scope="module")
def few():
    return make_sample(100, seed=1)


def test_csv_zip_tar_and_icml_layouts(few, tmp_path):
    for layout in ("csv", "zip", "tar.gz", "icml"):
        write_layout(few, layout, tmp_path)
    text, icml = ((tmp_path / f"{n}.csv").read_text() for n in ("fer2013", "icml_face_data"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["emotion", "pixels", "Usage"]
    assert [int(row["emotion"]) for row in rows] == few.labels.tolist()
    assert [row["Usage"] for row in rows] == [name.partition("_")[0] for name in few.ids]
    pixels = np.array([row["pixels"].split() for row in rows], int)
    assert np.array_equal(pixels, few.images.reshape(100, -1))
    found = list(csv.DictReader(io.StringIO(icml)))
    assert list(found[0]) == ["emotion", " Usage", " pixels"]
    assert [{key.strip(): value for key, value in row.items()} for row in found] == rows
    with tarfile.open(tmp_path / "fer2013.tar.gz") as archive:
        assert archive.getnames() == ["fer2013/fer2013.csv", "fer2013/README"]
        assert archive.extractfile("fer2013/fer2013.csv").read().decode() == text
    with zipfile.ZipFile(tmp_path / "fer2013.csv.zip") as archive:
        assert archive.read("fer2013.csv").decode() == text


def test_the_folders_with_long_names(few, tmp_path):
    write_layout(few, "emotion-detection", tmp_path)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    first = np.flatnonzero((few.split != "train") & (few.labels == EMOTIONS.index("fear")))[0]
    image = np.asarray(Image.open(tmp_path / "test/fearful/im0.png"))
    assert np.array_equal(image, few.images[first, 0])
    assert len(list(tmp_path.rglob("*.png"))) == 100


def test_ferplus_layout(few, tmp_path):
    write_layout(few, "ferplus", tmp_path)
    with open(tmp_path / "fer2013new.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["Usage", "Image name", "neutral", "happiness"]
    assert len(rows) == 100
    folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid"}
    for i, row in enumerate(rows):
        assert int(row["neutral"]) == few.votes[i, VOTES.index("neutral")]
        assert int(row["fear"]) == few.votes[i, VOTES.index("fear")]
        assert int(row["NF"]) == few.votes[i, VOTES.index("not a face")]
        assert (row["Image name"] == "") == (row["NF"] == "10")
        if row["Image name"]:
            folder = folders.get(row["Usage"], "FER2013Test")
            image = Image.open(tmp_path / "Images" / folder / row["Image name"])
            assert np.array_equal(np.asarray(image), few.images[i, 0])
    assert "" in {row["Image name"] for row in rows}


def test_rafdb_layout(few, tmp_path):
    write_layout(few, "rafdb", tmp_path)
    lines = (tmp_path / "basic/EmoLabel/list_patition_label.txt").read_text().split("\n")[:-1]
    name, code = lines[0].split()
    codes = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]
    assert (name, codes[int(code) - 1]) == ("train_00001.jpg", EMOTIONS[few.labels[0]])
    assert sum(line.startswith("test_") for line in lines) == 10
    image = Image.open(tmp_path / "basic/Image/aligned/train_00001_aligned.jpg")
    assert (image.size, image.mode) == ((100, 100), "RGB")
    small = np.asarray(image.convert("L").resize((48, 48)), float)
    assert np.abs(small - few.images[0, 0]).mean() < 12
