"""Archives of runs: what they contain, unpacking, and contradictions that are refused."""

from dataclasses import replace
from types import SimpleNamespace

import entries
import numpy as np
import packing
import pytest
from campaign_fixtures import SAMPLE

from fer_lib.evaluate import load_predictions, save_predictions
from fer_lib.files import InputError, write_json
from fer_lib.runs import Run

pytestmark = pytest.mark.usefixtures("without_kept_results")


def test_a_pretraining_is_packed_with_its_encoder_but_not_its_autoencoder(tmp_path):
    run = SimpleNamespace(folder=tmp_path / "pretraining" / "one", name="one")
    run.folder.mkdir(parents=True)
    names = ("autoencoder.safetensors", "encoder.safetensors", "metrics.csv", ".hidden")
    for name in names:
        (run.folder / name).write_text(name)
    found = packing.contents(run)
    assert found.keys() == {f"runs/pretraining/one/{name}" for name in names[1:3]}


def test_unpack_refuses_contradictory_predictions_and_unfinished_runs(packed, tmp_path):
    run, archive = packed
    results = run.results
    results["test"]["full"]["confusion"][0][0] += 1
    write_json(run.folder / "results.json", results)
    bad = packing.Archives(tmp_path / "bad").add(packing.contents(run))
    place = entries.Place(dataset=SAMPLE)
    with pytest.raises(InputError, match=r"predictions on test .* is not that of its results.json"):
        list(packing.unpack(bad, place.faces, tmp_path / "there"))
    assert not list((tmp_path / "there").iterdir())
    assert len(list(packing.unpack(archive, place.faces, tmp_path / "there"))) == 1
    assert list(packing.unpack(archive, place.faces, tmp_path / "there")) == []
    added = tmp_path / "there" / run.name / "predictions.npz"
    whole = load_predictions(added)
    added.unlink()
    other = replace(whole, test_probabilities=np.roll(whole.test_probabilities, 1, 1))
    save_predictions(run.folder / "predictions.npz", other)
    wrong = packing.Archives(tmp_path / "other").add(packing.contents(run))
    with pytest.raises(InputError, match=r"predictions on test .* is not that of its results.json"):
        list(packing.unpack(wrong, place.faces, tmp_path / "there"))
    assert not added.exists()
    list(packing.unpack(archive, place.faces, tmp_path / "there"))
    assert (load_predictions(added).test_probabilities == whole.test_probabilities).all()
    (tmp_path / "there" / run.name / "results.json").unlink()
    with pytest.raises(InputError, match=f"{run.name} is an unfinished run: move it away"):
        list(packing.unpack(archive, place.faces, tmp_path / "there"))


def test_packed_files_of_the_same_name_but_other_content_are_listed(tmp_path):
    archives = packing.Archives(tmp_path)
    archives.add({"data/fer2013/refined_majority.npz": b"old", "runs/a/b": b""})
    assert archives.other({"data/fer2013/refined_majority.npz": b"old"}) == []
    changed = {"data/fer2013/refined_majority.npz": b"new", "runs/c": b""}
    assert archives.other(changed) == ["data/fer2013/refined_majority.npz"]


def test_unpack_adds_new_files_of_a_run_and_keeps_existing_ones(packed, tmp_path):
    run, archive = packed
    there = tmp_path / "there"
    faces_of = entries.Place(dataset=SAMPLE).faces
    unpacked = list(packing.unpack(archive, faces_of, there))
    assert [one.name for one in unpacked] == [run.name]
    later = packing.Archives(tmp_path / "later")
    later.add({f"runs/{run.name}/evaluation.json": b"{}", f"runs/{run.name}/results.json": b"x"})
    again = list(packing.unpack(later.paths()[0], faces_of, there))
    assert [one.name for one in again] == [run.name]
    assert (there / run.name / "evaluation.json").read_bytes() == b"{}"
    assert Run(there / run.name).results == run.results  # existing files stay as they are


def test_unpack_refuses_labels_that_differ_from_existing_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    path = tmp_path / "data" / "fer2013" / "refined_majority.npz"
    archive = packing.Archives(tmp_path).add({"data/fer2013/refined_majority.npz": b"new"})
    for _ in range(2):
        assert list(packing.unpack(archive, None)) == []
        assert path.read_bytes() == b"new"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"refined_majority.npz contains other labels than"):
        list(packing.unpack(archive, None))
    assert path.read_bytes() == b"mine"


def test_files_that_are_no_archives_of_runs_are_refused(tmp_path):
    path = tmp_path / "runs-1.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be read as an archive"):
        list(packing.unpack(path, None))
    with pytest.raises(InputError, match=r"runs-1\.zip cannot be read as an archive"):
        packing.Archives(tmp_path).names()
    path.unlink()
    packing.Archives(tmp_path).add({"runs/../../etc/x": b""})
    with pytest.raises(InputError, match="is no run"):
        list(packing.unpack(path, None))


def test_a_full_archive_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "ARCHIVE", 3000)
    archives = packing.Archives(tmp_path)
    noise = np.random.default_rng(0).bytes
    for number in range(3):
        archives.add({f"runs/{number}/x": noise(1200)})
    assert [path.name for path in archives.paths()] == ["runs-1.zip", "runs-2.zip"]
    assert archives.names() == {"runs/0/x", "runs/1/x", "runs/2/x"}


def test_no_archive_is_overwritten_if_an_earlier_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "ARCHIVE", 1000)
    archives = packing.Archives(tmp_path)
    noise = np.random.default_rng(0).bytes
    for number in range(2):
        archives.add({f"runs/{number}/x": noise(900)})
    (tmp_path / "runs-1.zip").unlink()
    archives.add({"runs/2/x": noise(900)})
    assert archives.names() == {"runs/1/x", "runs/2/x"}
