"""Readers of all supported layouts return exactly the data that were written."""

import gzip
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from fer_lib.data import counts, load_faces
from fer_lib.data.ferplus import keep_majority, majority, soft_targets
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError, home
from fer_lib.labels import EMOTIONS, EMOTIONS_8, VOTES

MUTE = {"say": lambda line: None}


@pytest.fixture(scope="module")
def sample():
    return make_sample(160, seed=1)


def by_id(faces, rename=lambda name: name):
    """Return the image bytes, label and split of each id."""
    rows = zip(faces.ids.tolist(), faces.images, faces.labels, faces.split, strict=True)
    return {rename(name): (image.tobytes(), int(k), str(s)) for name, image, k, s in rows}


def stem(name):
    return name.rpartition("/")[2]


# Tables


@pytest.mark.parametrize("layout", ["csv", "zip", "tar.gz", "icml"])
def test_a_table_is_read_back_exactly(sample, tmp_path, layout):
    write_layout(sample, layout, tmp_path / "data")
    faces = load_faces("fer2013", tmp_path / "data", **MUTE)
    assert faces.ids.tolist() == sample.ids.tolist()
    assert by_id(faces) == by_id(sample)
    assert faces.manifest["split"] == {"official": True}
    if layout == "csv":
        np.testing.assert_array_equal(faces.votes, sample.votes)


@pytest.mark.parametrize(
    "inside", ["a/fer2013.csv", r"a\fer2013.csv", "icml_face_data.csv", "Fer2013.CSV"]
)
def test_a_table_is_found_in_any_zip(sample, tmp_path, inside):
    write_layout(sample, "csv", tmp_path)
    with zipfile.ZipFile(tmp_path / "archive (1).zip", "w") as archive:
        archive.writestr("train.csv", "emotion,pixels\n")
        archive.write(tmp_path / "fer2013.csv", inside)
    faces = load_faces("fer2013", tmp_path / "archive (1).zip", **MUTE)
    assert by_id(faces) == by_id(sample)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\r\n\r\n",
        lambda text: "\n".join(
            ",".join(f'"{field}"' for field in line.split(",")) for line in text.split("\n") if line
        ),
        lambda text: text.replace(" ", "  ", 5).replace(",Tr", " ,Tr", 3),
        lambda text: text.replace(" 0 ", " 000 "),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1),
    ],
    ids=["excel", "quoted", "spaces", "zeros", "no last line break", "commas at the end"],
)
def test_tables_written_by_other_programs_are_read(sample, tmp_path, change):
    write_layout(sample, "csv", tmp_path)
    text = (tmp_path / "fer2013.csv").read_text()
    (tmp_path / "mine.csv").write_bytes(change(text).encode())
    assert change(text) != text
    assert by_id(load_faces("fer2013", tmp_path / "mine.csv", **MUTE)) == by_id(sample)


def test_a_table_without_usage_gets_a_drawn_split(sample, tmp_path):
    write_layout(sample, "csv", tmp_path)
    lines = (tmp_path / "fer2013.csv").read_text().splitlines()
    text = "\n".join(line.rpartition(",")[0] for line in lines)
    (tmp_path / "train.csv").write_text(text)
    faces = load_faces("fer2013", tmp_path / "train.csv", **MUTE)
    assert faces.images.tobytes() == sample.images.tobytes()
    assert faces.ids[3] == "row_0000003"
    assert 0.75 < len(faces.where("train")) / len(faces) < 0.9
    assert all(0.05 < len(faces.where(split)) / len(faces) < 0.15 for split in ("valid", "test"))
    assert any("no column Usage" in remark for remark in faces.manifest["remarks"])
    assert faces.votes is None  # the rows of fer2013new.csv cannot be matched without Usage


def test_votes_of_other_rows_are_left_out_with_a_remark(sample, tmp_path):
    write_layout(sample, "csv", tmp_path)
    lines = (tmp_path / "fer2013.csv").read_text().splitlines(keepends=True)
    (tmp_path / "fer2013.csv").write_text("".join(lines[:-1]))
    faces = load_faces("fer2013", tmp_path, **MUTE)
    assert faces.votes is None
    assert any("matched by row" in remark for remark in faces.manifest["remarks"])
    with pytest.raises(
        InputError, match=r"needs the votes, but .* 160 rows are not those of the 159"
    ):
        load_faces("ferplus", tmp_path, **MUTE)


def test_votes_of_rows_in_another_order_are_left_out(sample, tmp_path):
    write_layout(sample, "csv", tmp_path)
    header, *lines = (tmp_path / "fer2013.csv").read_text().splitlines(keepends=True)
    usages = ["Training", "PublicTest", "PrivateTest"]
    lines.sort(key=lambda line: (usages.index(line.rpartition(",")[2].strip()), line))
    (tmp_path / "fer2013.csv").write_text("".join([header, *lines]))
    assert load_faces("fer2013", tmp_path, **MUTE).votes is None
    with pytest.raises(InputError, match=r"needs the votes, but .* \d\d% of the labels agree"):
        load_faces("ferplus", tmp_path, **MUTE)


@pytest.mark.parametrize("name", ["x.tar", "fer2013.TAR", "fer2013.tar.gz"])
def test_an_uncompressed_tar_archive_is_read(sample, tmp_path, name):
    write_layout(sample, "csv", tmp_path)
    data = (tmp_path / "fer2013.csv").read_bytes()
    with tarfile.open(tmp_path / name, "w") as archive:
        member = tarfile.TarInfo("/deep/down/fer2013.csv")  # must not be written to
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    assert by_id(load_faces("fer2013", tmp_path / name, **MUTE)) == by_id(sample)


@pytest.mark.parametrize("name", ["fer2013.csv.gz", "mine (1).CSV.gz", "mine.csv"])
def test_a_gzipped_table_is_read(sample, tmp_path, name):
    write_layout(sample, "csv", tmp_path / "plain")
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain/fer2013.csv").read_bytes()))
    shutil.rmtree(tmp_path / "plain")
    given = tmp_path if name.startswith("fer2013") else tmp_path / name
    assert by_id(load_faces("fer2013", given, **MUTE)) == by_id(sample)


# Class folders, from Kaggle or the user's own


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jfif"])
def test_kaggle_folders_get_the_official_splits_from_file_names(sample, tmp_path, suffix):
    write_layout(sample, "folders", tmp_path)
    for path in list(tmp_path.rglob("*.png")):
        if suffix != ".png":
            Image.open(path).save(path.with_suffix(suffix), quality=100)
            path.unlink()
    faces = load_faces("fer2013", tmp_path, **MUTE)
    read, written = by_id(faces, stem), by_id(sample)
    assert {k: v[1:] for k, v in read.items()} == {k: v[1:] for k, v in written.items()}
    assert suffix != ".png" or read == written
    assert "PublicTest" not in faces.mark
    assert "train/happy/Training_" in faces.ids[faces.labels == 3][-1]


def test_long_folder_names_give_one_test_set_and_a_mark(sample, tmp_path):
    write_layout(sample, "emotion-detection", tmp_path)
    # File names like those of the other layout must be ignored here.
    for path in (tmp_path / "test" / "happy").iterdir():
        path.rename(path.with_name(f"PublicTest_{path.name}"))
    faces = load_faces("fer2013", tmp_path, **MUTE)
    held_out = int((sample.split != "train").sum())
    assert faces.mark == f"test = PublicTest + PrivateTest, {held_out} images"
    assert len(faces.where("test")) == held_out
    assert faces.manifest["split"] == {
        "official": False,
        "seed": 0,
        "fractions": {"train": 0.9, "valid": 0.1},
    }
    train = len(faces.where("train")) + len(faces.where("valid"))
    assert train == len(sample.where("train"))
    assert 0.05 < len(faces.where("valid")) / train < 0.11
    sides = [{faces.images[i].tobytes() for i in faces.where(s)} for s in ("train", "valid")]
    assert not sides[0] & sides[1]


def test_a_test_image_without_usage_in_its_name_gives_one_test_set(sample, tmp_path):
    write_layout(sample, "folders", tmp_path)
    first = next((tmp_path / "test" / "sad").iterdir())
    first.rename(first.with_name("im0.png"))
    faces = load_faces("fer2013", tmp_path, **MUTE)
    assert "PublicTest + PrivateTest" in faces.mark
    assert len(faces.where("test")) == int((sample.split != "train").sum())


@pytest.mark.parametrize("how", ["file names", "folder name"])
def test_a_test_set_that_names_show_to_be_privatetest_is_not_called_merged(
    sample, tmp_path, monkeypatch, how
):
    known = {split: tuple(table.values()) for split, table in sample.counts().items()}
    monkeypatch.setattr(counts, "FER2013", known)
    write_layout(sample, "folders", tmp_path)
    for path in list((tmp_path / "test").rglob("*.png")):
        if path.name.startswith("PublicTest_"):
            path.unlink()
        elif how == "folder name":
            path.rename(path.with_name(path.name.removeprefix("PrivateTest_")))
    if how == "folder name":
        (tmp_path / "test").rename(tmp_path / "PrivateTest")
    faces = load_faces("fer2013", tmp_path, **MUTE)
    assert faces.mark == "other counts than the known fer2013"
    train, valid = (len(sample.where(split)) for split in ("train", "valid"))
    assert any(
        f": train and valid {train} images instead of {train + valid}" in remark
        for remark in faces.manifest["remarks"]
    )


@pytest.mark.parametrize(
    ("train", "name", "test"),
    [
        ("Train", "valid", "test"),
        ("train", "val", "test"),
        ("training", "Validation", "testing"),
        ("Training", "PublicTest", "PrivateTest"),
        ("FER2013Train", "FER2013Valid", "FER2013Test"),
    ],
)
def test_a_validation_folder_is_used_if_there_is_one(sample, tmp_path, train, name, test):
    write_layout(sample, "folders", tmp_path / "archive" / "fer")
    root = tmp_path / "archive" / "fer"
    for path in list((root / "test").rglob("PublicTest_*.png")):
        target = root / name / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    faces = load_faces("fer2013", tmp_path, **MUTE)
    assert by_id(faces, stem) == by_id(sample)
    assert faces.manifest["split"] == {"official": True}


def test_class_folders_of_the_user_get_a_drawn_split(sample, tmp_path):
    write_layout(sample, "classes", tmp_path)
    (tmp_path / "happy").rename(tmp_path / "Joy")
    for stray in ("Thumbs.db", "Joy/.DS_Store", "sad/notes.txt", "sad/._x.png"):
        (tmp_path / stray).write_bytes(b"?")
    heard = []
    faces = load_faces("mine", tmp_path, say=heard.append)
    assert {k: v[:2] for k, v in by_id(faces, stem).items()} == {
        k: v[:2] for k, v in by_id(sample).items()
    }
    remedy = "if they are pictures, convert them to JPEG or PNG"
    text = f"files with .txt, such as sad/notes.txt: {remedy}"
    assert faces.manifest["dropped"] == {"hidden, or not in a class folder": 3, text: 1}
    assert all(len(faces.where(split)) > 5 for split in ("train", "valid", "test"))
    assert faces.ids[faces.labels == 3][0].startswith("Joy/")
    assert heard[0] == f"mine: 160 pictures in {tmp_path} are read now"
    assert "160 faces" in heard[1]
    assert "class folders without splits" in heard[1]
    assert f"3 left out: hidden, or not in a class folder; 1 left out: {text}" in heard[1]
    assert "drawn here" in heard[2]


def test_phones_pictures_are_left_out_by_suffix_with_an_example_and_a_remedy(sample, tmp_path):
    write_layout(sample, "classes", tmp_path)
    for name in ("happy/IMG_2.HEIC", "sad/below/IMG_1.heic", "sad/IMG_3.avif", "sad/without"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    dropped = load_faces("mine", tmp_path, **MUTE).manifest["dropped"]
    remedy = "if they are pictures, convert them to JPEG or PNG"
    assert dropped == {
        f"files with .avif, such as sad/IMG_3.avif: {remedy}": 1,
        f"files with .heic, such as happy/IMG_2.HEIC: {remedy}": 2,
        f"files with no suffix, such as sad/without: {remedy}": 1,
    }


@pytest.mark.parametrize("suffix", ["gif", "pgm", "ppm"])
def test_gif_and_portable_pictures_in_class_folders_are_read(sample, tmp_path, suffix):
    write_layout(sample, "classes", tmp_path)
    for path in list(tmp_path.glob("*/*.png")):
        picture = Image.open(path)
        path.unlink()
        picture.convert("RGB" if suffix == "ppm" else "L").save(path.with_suffix(f".{suffix}"))
    faces = load_faces("mine", tmp_path, **MUTE)
    assert faces.manifest["dropped"] == {}
    assert {k: v[:2] for k, v in by_id(faces, stem).items()} == {
        k: v[:2] for k, v in by_id(sample).items()
    }


def test_a_contempt_folder_makes_eight_classes(sample, tmp_path):
    write_layout(sample, "classes", tmp_path)
    shutil.copytree(tmp_path / "sad", tmp_path / "contempt")
    assert load_faces("mine", tmp_path, **MUTE).classes == EMOTIONS_8


# FERPlus and RAF-DB


def official(row):
    """Return the label of one row of votes by FERPlus's majority rule, or -1."""
    counts = [int(v) if v > 1 else 0 for v in row]
    best = counts.index(max(counts))
    return best if max(counts) > 0.5 * sum(counts) and best < 8 else -1


@pytest.mark.parametrize("layout", ["csv", "ferplus"])
def test_ferplus_keeps_images_with_a_majority_and_counts_the_rest(sample, tmp_path, layout):
    write_layout(sample, layout, tmp_path)
    faces = load_faces("ferplus", tmp_path, **MUTE)
    expected = np.array([official(row) for row in sample.votes])
    if layout == "ferplus":  # rows without an image name have no picture
        expected[sample.votes[:, VOTES.index("not a face")] == 10] = -1
    kept = expected >= 0
    assert faces.classes == EMOTIONS_8
    assert faces.ids.tolist() == sample.ids[kept].tolist()
    assert faces.labels.tolist() == expected[kept].tolist()
    assert faces.images.tobytes() == sample.images[kept].tobytes()
    assert faces.split.tolist() == sample.split[kept].tolist()
    np.testing.assert_array_equal(faces.votes, sample.votes[kept])
    assert sum(faces.manifest["dropped"].values()) == (~kept).sum() > 0


def test_ferplus_counts_dropped_images_by_reason_and_shares_votes(sample):
    sample = sample.subset(np.arange(7))
    sample.votes[:] = 0
    votes = [
        {"happy": 10},
        {"happy": 5, "sad": 5},
        {"unknown": 9, "sad": 1},
        {"not a face": 10},
        {"fear": 1, "sad": 1, "angry": 1},
        {},
        {"contempt": 4, "fear": 3, "sad": 1, "angry": 1, "happy": 1},
    ]
    for row, vote in zip(sample.votes, votes, strict=True):
        for name, number in vote.items():
            row[VOTES.index(name)] = number
    assert majority(sample.votes).tolist() == [3, -1, -1, -1, -1, -1, 7]
    kept = keep_majority(sample)
    assert kept.manifest["dropped"] == {"no majority": 3, "unknown": 1, "not a face": 1}
    shares, keep = soft_targets(sample.votes, EMOTIONS)
    assert keep.tolist() == [True, True, True, False, True, False, True]
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares[keep].sum(1), 1, rtol=1e-6)
    assert shares[1, [3, 4]].tolist() == [0.5, 0.5]
    assert shares[6, 2] == pytest.approx(3 / 6)  # contempt is not one of the seven


def test_missing_ferplus_pictures_are_counted(sample, tmp_path):
    write_layout(sample, "ferplus", tmp_path)
    next((tmp_path / "Images" / "FER2013Train").iterdir()).unlink()
    faces = load_faces("ferplus", tmp_path, **MUTE)
    assert faces.manifest["dropped"]["picture missing"] == 1


def test_rafdb_holds_out_the_same_tenth_each_time(sample, tmp_path):
    write_layout(sample, "rafdb", tmp_path)
    path = tmp_path / "basic/EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text(), encoding="utf-8-sig")  # as editors on Windows may save it
    faces = load_faces("rafdb", tmp_path, **MUTE)
    (home() / "data" / "rafdb" / "faces.npz").unlink()
    again = load_faces("rafdb", tmp_path, **MUTE)
    assert faces.images.shape[1:] == (3, 100, 100)
    assert faces.split.tolist() == again.split.tolist()
    assert len(faces.where("test")) == len(sample.where("test"))
    expected = np.concatenate(
        [sample.labels[sample.split != "test"], sample.labels[sample.split == "test"]]
    )
    assert faces.labels.tolist() == expected.tolist()
    assert faces.ids[0] == "train_00001"


def test_rafdb_keeps_colours_and_splits_by_class_without_separating_copies(sample, tmp_path):
    write_layout(sample, "rafdb", tmp_path)
    pictures = tmp_path / "basic/Image/aligned"
    labels = sample.labels[sample.split != "test"]
    names = np.array([f"train_{number:05d}" for number in range(1, len(labels) + 1)])
    for k in range(7):
        paths = [pictures / f"{name}_aligned.jpg" for name in names[labels == k]]
        tinted = paths[: len(paths) // 2]
        for path in tinted:
            grey = np.asarray(Image.open(path))[..., 0]
            Image.fromarray(np.stack([grey, grey // 2, grey // 4], axis=2)).save(path)
        for path, copy in zip(tinted[::2], tinted[1::2], strict=False):
            shutil.copy(path, copy)
    faces = load_faces("rafdb", tmp_path, **MUTE)
    for name, image in zip(faces.ids, faces.images, strict=True):
        expected = np.asarray(Image.open(pictures / f"{name}_aligned.jpg"))
        assert (image == expected.transpose(2, 0, 1)).all()
    colour = (faces.images[:, 0] != faces.images[:, 2]).any((1, 2))
    assert 0.3 < colour.mean() < 0.5
    held = faces.split[faces.split != "test"] == "valid"
    assert [held[labels == k].sum() for k in range(7)] == [
        max(1, round(0.1 * (labels == k).sum())) for k in range(7)
    ]
    sides = {}
    for image, side in zip(faces.images, faces.split, strict=True):
        if side != "test":
            sides.setdefault(image.tobytes(), set()).add(str(side))
    assert len(sides) < 0.9 * len(labels)
    assert all(len(both) == 1 for both in sides.values())
