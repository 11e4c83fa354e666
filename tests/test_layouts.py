"""Layouts and sources of datasets: recognised, found, downloaded or refused with a remedy."""

import importlib
import sys
import types

import pytest

from fer_lib.data import acquire, counts, load_faces
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.layouts import recognise
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS_8

MUTE = {"say": lambda line: None}


@pytest.fixture(scope="module")
def sample():
    return make_sample(160, seed=1)


def test_each_layout_is_recognised_and_described(sample, tmp_path):
    expected = {
        "csv": "fer2013.csv with the votes of fer2013new.csv",
        "zip": "fer2013.csv inside fer2013.csv.zip",
        "tar.gz": "fer2013/fer2013.csv inside fer2013.tar.gz",
        "icml": "icml_face_data.csv",
        "folders": "class folders in train/ and test/ with short names, as in Kaggle's "
        "msambare/fer2013",
        "emotion-detection": "class folders in train/ and test/ with long names, as in Kaggle's "
        "ananthu017/emotion-detection-fer",
        "ferplus": "fer2013new.csv with its pictures",
        "rafdb": "RAF-DB's list_patition_label.txt with Image/aligned/",
        "classes": "class folders without splits",
    }
    for layout, description in expected.items():
        write_layout(sample, layout, tmp_path / layout / "below")
        assert recognise(tmp_path / layout).description == description


def test_a_dataset_in_the_layout_of_another_is_refused(sample, tmp_path):
    write_layout(sample, "ferplus", tmp_path / "plus")
    write_layout(sample, "rafdb", tmp_path / "raf")
    for dataset, folder in (("fer2013", "plus"), ("rafdb", "plus"), ("fer2013", "raf")):
        with pytest.raises(InputError, match=f"which is not {dataset}"):
            load_faces(dataset, tmp_path / folder, **MUTE)
    assert load_faces("mine", tmp_path / "plus", **MUTE).classes == EMOTIONS_8


def test_two_datasets_side_by_side_are_refused(sample, tmp_path):
    write_layout(sample, "csv", tmp_path / "a")
    write_layout(sample, "csv", tmp_path / "b")
    with pytest.raises(InputError, match=r"more than one dataset: give .*csv or .*csv alone$"):
        load_faces("fer2013", tmp_path, **MUTE)


def test_a_dataset_is_recognised_despite_other_files_beside_it(sample, tmp_path):
    write_layout(sample, "csv", tmp_path / "fer2013")
    (tmp_path / "other.zip").write_bytes(b"half a download")
    for name in ("train", "training"):
        (tmp_path / "project" / name / "angry").mkdir(parents=True)
    assert recognise(tmp_path).path == tmp_path / "fer2013" / "fer2013.csv"
    (tmp_path / "fer2013" / "fer2013.csv").unlink()
    with pytest.raises(InputError, match=r"other.zip is damaged or cannot be read") as caught:
        recognise(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", [".", "train"])
def test_class_folders_of_unknown_names_are_named_with_a_remedy(tmp_path, inside):
    for name in ("freude", "trauer", "wut"):
        (tmp_path / inside / name).mkdir(parents=True)
    text = r"known here, only the folders freude, trauer, wut \(if these are classes, rename each"
    with pytest.raises(InputError, match=text + " to one of angry, .*contempt\\); looked for"):
        recognise(tmp_path)
    for number in range(20):
        (tmp_path / inside / f"a{number:02}").mkdir()
    with pytest.raises(InputError, match=r"a00, .*a09 and 13 more"):
        recognise(tmp_path)


@pytest.mark.parametrize("inside", [".", "train"])
def test_one_class_folder_is_not_called_wrongly_named(tmp_path, inside):
    (tmp_path / inside / "Happy").mkdir(parents=True)
    text = r"known here, only one class folder, Happy \(at least two classes are needed\); looked"
    with pytest.raises(InputError, match=text):
        recognise(tmp_path)


def test_a_table_of_another_name_in_a_folder_is_named_with_a_remedy(sample, tmp_path):
    write_layout(sample, "icml", tmp_path)
    (path,) = tmp_path.iterdir()
    path = path.rename(tmp_path / "fer2013 (1).csv")
    (tmp_path / "._fer2013.csv").touch()
    remedy = r" \(if it is FER2013's table, give the file itself\); looked for"
    with pytest.raises(InputError, match=rf"here, only the file fer2013 \(1\)\.csv{remedy}"):
        recognise(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "other.csv.gz").touch()
    text = rf"the folders notes \(.*\) and the file fer2013 \(1\)\.csv and 1 more{remedy}"
    with pytest.raises(InputError, match=text):
        recognise(tmp_path)
    assert recognise(path).kind == "table"


def test_class_folders_are_recognised_despite_damaged_archives_beside_them(sample, tmp_path):
    write_layout(sample, "folders", tmp_path)
    (tmp_path / "notes.zip").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "old.tar").write_bytes(b"no archive")
    assert recognise(tmp_path).kind == "class folders"
    write_layout(sample, "csv", tmp_path)
    assert recognise(tmp_path).kind == "table"


def test_a_table_is_recognised_beside_two_folders_of_one_split(sample, tmp_path):
    for split in ("val", "valid"):
        (tmp_path / split / "happy").mkdir(parents=True)
    with pytest.raises(InputError, match="valid stand for the same split: join them"):
        recognise(tmp_path)
    write_layout(sample, "csv", tmp_path)
    assert recognise(tmp_path).kind == "table"


def test_a_copy_with_other_counts_gets_a_remark_and_a_mark(sample, tmp_path):
    write_layout(sample, "csv", tmp_path)
    heard = []
    faces = load_faces("fer2013", tmp_path, say=heard.append)
    assert "train 128 images instead of 28,709" in faces.manifest["remarks"][0]
    assert faces.manifest["remarks"][0] in heard[1]
    assert faces.mark == "other counts than the known fer2013"
    assert faces.mark in heard[0]
    faces = load_faces("ferplus", tmp_path, **MUTE)
    assert "instead of 25,060" in faces.manifest["remarks"][0]
    assert faces.mark == "other counts than the known ferplus"


def test_known_counts_get_no_mark_but_a_drawn_split_does(sample, tmp_path, monkeypatch):
    known = {split: tuple(table.values()) for split, table in sample.counts().items()}
    monkeypatch.setattr(counts, "FER2013", known)
    write_layout(sample, "csv", tmp_path)
    assert load_faces("fer2013", tmp_path, **MUTE).mark == ""
    lines = (tmp_path / "fer2013.csv").read_text().splitlines()
    (tmp_path / "all.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    faces = load_faces("fer2013", tmp_path / "all.csv", **MUTE)
    assert not [text for text in faces.manifest["remarks"] if "known counts" in text]
    assert faces.mark == "fer2013 with a drawn split"
    assert load_faces("mine", tmp_path / "all.csv", **MUTE).mark == ""
    other = known | {"valid": known["valid"][::-1]}
    monkeypatch.setattr(counts, "FER2013", other)
    faces = load_faces("fer2013", tmp_path / "fer2013.csv", **MUTE)
    assert any(
        "valid with other numbers of images per class" in t for t in faces.manifest["remarks"]
    )


def test_the_benchmark_of_reading_runs_and_checks_the_pixels(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py", "--rows", "100", "--rounds", "1"])
    importlib.import_module("data").main()
    printed = capsys.readouterr().out
    assert "table (sample data), 100 images" in printed
    assert "| PIL one by one |" in printed


def fake_kagglehub(monkeypatch, download):
    module = types.SimpleNamespace(dataset_download=download)
    monkeypatch.setitem(sys.modules, "kagglehub", module)


def test_a_download_is_the_last_resort(monkeypatch, fer_home, tmp_path):
    written = tmp_path / "source"
    written.mkdir()
    asked = []
    fake_kagglehub(monkeypatch, lambda handle: asked.append(handle) or str(written))
    assert acquire.find_source("fer2013", written) == written
    assert asked == []
    assert acquire.find_source("fer2013") == written
    assert asked == ["msambare/fer2013"]

    versions = fer_home / "kagglehub/datasets/msambare/fer2013"
    for number in ("9", "10", "11"):
        (versions / "versions" / number).mkdir(parents=True)
    (versions / "9.complete").touch()
    (versions / "10.complete").touch()  # the download of 11 is incomplete
    assert acquire.find_source("fer2013") == versions / "versions" / "10"

    own = fer_home / "data" / "fer2013"
    own.mkdir(parents=True)
    for name in ("README.md", "audit.json"):
        (own / name).touch()
    assert acquire.find_source("fer2013") != own
    (own / "fer2013.csv").touch()
    assert acquire.find_source("fer2013") == own
    assert asked == ["msambare/fer2013"]


def test_the_error_without_a_network_names_the_remedies(monkeypatch, fer_home):
    def fail(handle):
        raise ConnectionError("Name or service not known\nand much more")

    fake_kagglehub(monkeypatch, fail)
    with pytest.raises(InputError) as caught:
        load_faces("fer2013", **MUTE)
    message = str(caught.value)
    for part in (
        "https://www.kaggle.com/",
        "data_dir (--data-dir)",
        str(fer_home / "data/fer2013"),
    ):
        assert part in message
    assert "Name or service not known" in message
    assert "\n" not in message
    monkeypatch.delenv("KAGGLEHUB_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without a home folder
    with pytest.raises(InputError, match=r"data_dir .--data-dir"):
        load_faces("fer2013", **MUTE)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match=r"data_dir .--data-dir"):
        load_faces("fer2013", **MUTE)
    assert not (fer_home / "data").exists()


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        ("ferplus", "github.com/microsoft/FERPlus"),
        ("rafdb", "whdeld.cn"),
        ("mine", "data_dir .--data-dir"),
    ],
)
def test_a_dataset_that_cannot_be_downloaded_is_refused_with_a_remedy(dataset, part):
    with pytest.raises(InputError, match=part):
        load_faces(dataset, **MUTE)


def test_ferplus_finds_the_votes_beside_fer2013(sample, fer_home):
    write_layout(sample, "csv", fer_home / "data" / "fer2013")
    assert load_faces("ferplus", **MUTE).classes == EMOTIONS_8
