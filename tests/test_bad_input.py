"""Data that cannot be used: refused with a sentence that names the file; nothing is written."""

import gzip
import io
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fer_lib.data import load_faces
from fer_lib.data.folders import walk
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample

PIXELS = " ".join(["7"] * 2304)
HEADER = "emotion,pixels,Usage"


@pytest.fixture(scope="module")
def sample():
    return make_sample(100, seed=2)


def table(folder, *rows, name="fer2013.csv"):
    (folder / name).write_text("\n".join((HEADER, *rows)) + "\n")
    return folder / name


GOOD = f"0,{PIXELS},Training"
ROWS = {
    f"0,{PIXELS[2:]},Training": "2,303 pixels instead of 2,304",
    f"0,{PIXELS} 7,Training": "2,305 pixels instead of 2,304",
    f"0,{PIXELS[:-1]}x,Training": "not a whole number from 0 to 255 (could not convert string 'x'",
    f"0,-{PIXELS},Training": "string '-7'",
    f"0,{PIXELS[:-1]}256,Training": "string '256'",
    f"0,1000{PIXELS[1:]},Training": "string '1000'",
    f"0,1.0{PIXELS[1:]},Training": "string '1.0'",
    f"0,{'7' * 5000},Training": f"string '{'7' * 20}",
    "0,,Training": "0 pixels instead of 2,304",
    "0,7,Training": "1 pixels instead of 2,304",
    f"9,{PIXELS},Training": "label is '9', not one of 0, 1, 2, 3, 4, 5, 6",
    f"-1,{PIXELS},Training": "label is '-1', not one of",
    f",{PIXELS},Training": "label is '', not one of",
    f"0,{PIXELS},Test": "Usage is 'Test', not one of Training, PublicTest, PrivateTest",
    f"0,{PIXELS}": "Usage is '', not one of",
    "0,7 7 7": "3 pixels instead of 2,304 (48x48); if it is the last row, the file was cut short",
}


@pytest.mark.parametrize(("row", "complaint"), ROWS.items(), ids=ROWS.values())
def test_a_bad_row_is_reported_with_its_line_number(row, complaint, tmp_path, refused):
    path = table(tmp_path, *[GOOD] * 40, row, GOOD)
    message = refused("fer2013", tmp_path)
    assert message.startswith(f"{path}, row 42: ")
    assert complaint in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "cannot be read as CSV (No columns to parse from file): download it again"),
        (f"{HEADER}\n{GOOD}\n{GOOD},1\n", "Expected 3 fields in line 3, saw 4"),
        (f"{HEADER}\n{GOOD},1\n{GOOD},1\n", "Length of header or names does not match length of"),
        (HEADER + "\n", "no rows"),
        ("emotion,Usage\n0,Training\n", "lacks the column pixels"),
        (GOOD + "\n" + GOOD, "lacks the column emotion and pixels"),
        ("a;b\n", "lacks the column"),
        (f"{HEADER},Emotion\n{GOOD},0\n", "has more than one column 'emotion' (capitals make no"),
        (f"Pixels,{HEADER}\n7,{GOOD}\n", "has more than one column 'pixels'"),
        (f"emotion,{HEADER}\n3,{GOOD}\n", "has more than one column 'emotion'"),
    ],
    ids=[
        "empty",
        "a field too many",
        "one in each row",
        "header only",
        "no pixels",
        "no header",
        "other",
        "two labels",
        "two of pixels",
        "two of one spelling",
    ],
)
def test_a_table_without_content_or_columns_is_refused(content, complaint, tmp_path, refused):
    path = tmp_path / "fer2013.csv"
    path.write_text(content)
    message = refused("fer2013", path)
    assert complaint in message
    assert str(path) in message


def test_a_missing_file_or_folder_is_refused(tmp_path, refused):
    assert str(tmp_path / "none.csv") in refused("fer2013", tmp_path / "none.csv")
    message = refused("fer2013", tmp_path)  # empty
    for part in (str(tmp_path), "fer2013.csv", "fer2013new.csv", "basic/EmoLabel", "angry"):
        assert part in message


def test_votes_without_pixels_and_damaged_votes_are_refused(sample, tmp_path, refused):
    write_layout(sample, "csv", tmp_path)
    votes = tmp_path / "fer2013new.csv"
    text = votes.read_text()
    lines = text.splitlines()
    for bad, complaint in (
        (text.replace("NF", "x", 1), "lacks the columns NF"),
        ("", "cannot be read as CSV (No columns to parse from file)"),
        (lines[0], "has no rows"),
        ("\n".join([*lines[:4], "Training,a.png,1,2"]), "row 5"),
        ("\n".join([*lines[:4], "", "Training,a.png,1,2"]), "row 6"),
        ("\n".join([*lines[:4], lines[4] + "x", *lines[5:]]), "row 5"),
    ):
        votes.write_text(bad)
        message = refused("ferplus", tmp_path)
        assert complaint in message
        assert str(votes) in message
    (tmp_path / "fer2013.csv").unlink()
    assert "put fer2013.csv beside" in refused("ferplus", tmp_path)


# Archives


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_nothing_is_extracted_from_an_archive(suffix, tmp_path):
    path = tmp_path / "below" / f"fer2013.{suffix}"
    path.parent.mkdir()
    members = {"fer2013/fer2013.csv": f"{HEADER}\n{GOOD}\n".encode(), "../evil.csv": b"x"}
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert len(load_faces("fer2013", path, say=lambda line: None)) == 1
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.parametrize("layout", ["zip", "tar.gz"])
def test_a_damaged_archive_is_refused(sample, layout, tmp_path, refused):
    write_layout(sample, layout, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refused("fer2013", tmp_path)
    middle = bytearray(whole)
    middle[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    path.write_bytes(middle)
    assert str(path) in refused("fer2013", tmp_path)


def test_a_damaged_gzipped_table_is_refused(sample, tmp_path, refused):
    write_layout(sample, "icml", tmp_path)
    (path,) = tmp_path.iterdir()
    whole = gzip.compress(path.read_bytes())
    for end in (5, 12, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:end])
        assert refused("fer2013", path).startswith(f"{path} is damaged or cannot be read (Compress")


def test_an_archive_with_a_password_is_refused_with_a_remedy(sample, tmp_path, refused):
    write_layout(sample, "zip", tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of the member, and in the list
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)
    message = refused("fer2013", tmp_path)
    assert message == f"{path} is protected by a password: unpack it first"


def test_an_archive_of_pictures_is_refused_with_a_remedy(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("train/happy/a.png", b"x")
    assert "unpack it" in refused("fer2013", tmp_path / "archive.zip")


# Folders and pictures


@pytest.fixture
def folder(sample, tmp_path):
    write_layout(sample, "folders", tmp_path / "fer")
    return tmp_path / "fer"


def test_an_unknown_class_folder_is_refused(folder, refused):
    shutil.copytree(folder / "train" / "sad", folder / "train" / "bored")
    message = refused("fer2013", folder)
    assert str(folder / "train" / "bored") in message
    assert "contempt" in message


def test_a_class_folder_without_a_picture_is_refused(folder, refused):
    disgust = folder / "train" / "disgust"
    for number, path in enumerate(sorted(disgust.iterdir())):
        path.rename(disgust / f"{number}.avif")
    message = refused("fer2013", folder)
    assert message.startswith(f"{disgust} holds no picture of a known kind (.bmp, .gif, ")
    assert f"other files: {number + 1}, such as train/disgust/0.avif; convert them to" in message
    assert "delete" not in message
    for path in disgust.iterdir():
        path.unlink()
    assert refused("fer2013", folder).startswith(f"{disgust} is empty")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_is_refused(folder, suffix, refused):
    path = max((folder / "train" / "happy").iterdir())
    whole = io.BytesIO()
    Image.open(path).save(whole, {".png": "PNG", ".jpg": "JPEG"}[suffix])
    path.unlink()
    path = path.with_suffix(suffix)
    for size in (0, 10, 40, whole.tell() // 2, whole.tell() * 9 // 10):
        path.write_bytes(whole.getvalue()[:size])
        message = refused("fer2013", folder)
        assert message.startswith(f"{path} cannot be read as a picture")


@pytest.mark.parametrize("place", [".", "train/happy"])
def test_an_unreadable_folder_is_refused(place, folder, refused, monkeypatch):
    private = folder / place / "private"
    private.mkdir()
    for part in ("train", "test") if place == "." else ():
        shutil.rmtree(folder / part)
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    message = refused("mine", folder)
    assert message.startswith(f"{private} cannot be read (Permission denied)")


@pytest.mark.parametrize(
    ("layout", "name"),
    [("csv", "fer2013new.csv"), ("rafdb", "basic/EmoLabel/list_patition_label.txt")],
)
def test_an_unreadable_label_file_is_refused(sample, layout, name, tmp_path, refused, monkeypatch):
    write_layout(sample, layout, tmp_path)
    real = open

    def guarded(path, *arguments, **options):
        if str(path) == str(tmp_path / name):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", guarded)
    monkeypatch.setattr("io.open", guarded)  # used by Path.open
    message = refused("fer2013" if layout == "csv" else layout, tmp_path)
    assert message == f"{tmp_path / name} cannot be read (Permission denied): ask its owner"


def test_a_broken_link_is_refused(folder, refused):
    path = folder / "train" / "happy" / "gone.png"
    path.symlink_to(folder / "nowhere.png")
    assert refused("fer2013", folder).startswith(f"{path} cannot be read (No such file")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_named_pipe_is_refused_before_it_is_opened(folder, refused):
    path = folder / "train" / "happy" / "pipe.png"
    os.mkfifo(path)
    assert refused("mine", folder) == f"{path} is no regular file: move it elsewhere"
    assert refused("mine", path).startswith(f"{path} is no regular file: write its content")


def test_split_folders_without_training_images_are_refused(folder, refused):
    (folder / "train").rename(folder / "val")
    assert refused("mine", folder).startswith(f"{folder} has test/ and val/ but no train/ with")


def test_walk_ends_if_links_form_a_cycle(tmp_path):
    for name, other in (("happy", "sad"), ("sad", "happy")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    found = {Path(place).relative_to(tmp_path).as_posix(): files for place, files in walk(tmp_path)}
    links = ("happy", "sad", "happy/link", "sad/link")
    assert found == {".": []} | {link: ["1.png"] for link in links}


def test_a_path_in_an_unreadable_folder_is_refused(folder, refused, monkeypatch):
    exists = Path.exists

    def guarded(path, **options):
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", guarded)
    assert refused("mine", folder) == (
        f"{folder} cannot be read (Permission denied): ask its owner, or give another path"
    )


def test_a_path_that_is_too_long_is_refused(refused):
    assert "(File name too long)" in refused("mine", "a" * 300)


def test_linked_folders_are_read_and_a_change_in_them_is_noticed(folder, tmp_path, fer_home):
    happy, elsewhere = folder / "train" / "happy", tmp_path / "elsewhere"
    happy.rename(elsewhere)
    happy.symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)  # a cycle
    before = load_faces("mine", folder, say=lambda line: None)
    max(elsewhere.glob("*.*")).unlink()
    assert len(load_faces("mine", folder, say=lambda line: None)) == len(before) - 1


def test_hidden_folders_are_not_read(folder, fer_home):
    before = len(load_faces("mine", folder, say=lambda line: None))
    path = max((folder / "train" / "happy").iterdir())
    for name in (".ipynb_checkpoints", "__MACOSX", "lost+found"):
        (path.parent / name).mkdir()
        shutil.copy(path, path.parent / name / "copy.png")
    assert len(load_faces("mine", folder, say=lambda line: None)) == before


def test_two_pictures_that_differ_only_in_suffix_are_refused(folder, refused):
    path = max((folder / "train" / "happy").iterdir())
    Image.open(path).save(path.with_suffix(".jpg"))
    assert str(path) in refused("fer2013", folder)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such names")
def test_a_name_that_is_not_utf_8_is_refused(folder, refused):
    path = max((folder / "train" / "happy").iterdir())
    path.rename(path.with_name(os.fsdecode(b"\xff.png")))
    message = refused("fer2013", folder)
    assert "udcff.png' is not UTF-8: rename it" in message
    assert message.isascii()


def test_rafdb_without_pictures_or_with_wrong_labels_is_refused(sample, tmp_path, refused):
    write_layout(sample, "rafdb", tmp_path)
    labels = tmp_path / "basic/EmoLabel/list_patition_label.txt"
    text = labels.read_text()
    for bad, complaint in (
        ("train_00001.jpg 5\ntrain_00002.jpg 9\n", "row 2"),
        ("\n", "is empty"),
        ("train_99999.jpg 5\n", "holds none of the pictures"),
    ):
        labels.write_text(bad)
        message = refused("rafdb", tmp_path)
        assert complaint in message
        assert str(labels) in message
    labels.write_text(text)
    first = text.splitlines()[0]
    labels.write_text(text + first + "\n")
    message = refused("rafdb", tmp_path)
    assert message.endswith(f"{first.split('.')[0]} has a label in row 1 already: delete one")
    labels.write_text(text)
    shutil.rmtree(tmp_path / "basic" / "Image")
    assert "unpack aligned.zip" in refused("rafdb", tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "C:x"])
def test_a_dataset_name_that_is_not_plain_is_refused(name, folder, refused):
    assert "plain name" in refused(name, folder)
