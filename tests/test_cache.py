"""A dataset is read once, again if its source changes, and never from a damaged cache."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fer_lib import in_depth
from fer_lib.compare import __main__ as compare_command
from fer_lib.data import acquire, load_faces, loading
from fer_lib.data.faceset import fingerprint, save
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError, read_json, write_json
from fer_lib.predict import keep

MUTE = {"say": lambda line: None}


@pytest.fixture(scope="module")
def sample():
    return make_sample(160, seed=1)


@pytest.fixture
def folder(sample, tmp_path):
    write_layout(sample, "folders", tmp_path / "fer")
    return tmp_path / "fer"


@pytest.fixture
def written(sample, tmp_path):
    write_layout(sample, "csv", tmp_path / "source")
    return tmp_path / "source"


def forbid_reading(monkeypatch):
    monkeypatch.setattr(loading, "_read", lambda *a: pytest.fail("the source was read again"))


def test_the_second_call_reads_the_cache(written, monkeypatch, fer_home):
    first = load_faces("fer2013", written, **MUTE)
    assert sorted(p.name for p in (fer_home / "data/fer2013").iterdir()) == [
        "faces.npz",
        "manifest.json",
    ]
    forbid_reading(monkeypatch)
    heard = []
    again = load_faces("fer2013", written, say=heard.append)
    assert again.fingerprint == first.fingerprint
    assert again.manifest == first.manifest
    assert "from the cache" in heard[0]
    assert load_faces("fer2013", **MUTE).fingerprint == first.fingerprint
    shutil.rmtree(written)
    assert load_faces("fer2013", **MUTE).fingerprint == first.fingerprint
    with pytest.raises(InputError, match="does not exist"):
        load_faces("fer2013", written, **MUTE)


def test_other_data_than_expected_do_not_replace_the_cache(written, sample, fer_home):
    first = load_faces("fer2013", written, **MUTE)
    other = written.with_name("other")
    write_layout(sample.subset(np.arange(120)), "csv", other)
    files = {path: path.read_bytes() for path in (fer_home / "data/fer2013").iterdir()}
    with pytest.raises(InputError, match=r"other.* is not the data that this run .* unchanged"):
        load_faces("fer2013", other, expected=first.fingerprint, **MUTE)
    assert files == {path: path.read_bytes() for path in (fer_home / "data/fer2013").iterdir()}
    shutil.rmtree(fer_home / "data")
    again = load_faces("fer2013", written, expected=first.fingerprint, **MUTE)
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("main", [in_depth.main, compare_command.main, keep.main])
def test_a_command_with_the_wrong_folder_leaves_the_cache_as_it_is(
    main, make_run, written, sample, tmp_path, capsys
):
    run = make_run(faces=load_faces("fer2013", written, **MUTE), dataset="fer2013")
    run.config["data"]["dataset"] = "fer2013"
    write_json(run.folder / "config.json", run.config)
    write_layout(sample.subset(np.arange(120)), "csv", tmp_path / "other")
    out = ["--out", str(tmp_path / "a.safetensors")] * (main is keep.main)
    with pytest.raises(SystemExit):
        main([str(run.folder), "--data-dir", str(tmp_path / "other"), *out])
    assert (
        "give its own folder as data_dir (--data-dir); the cache is unchanged"
        in capsys.readouterr().err
    )
    assert load_faces("fer2013", **MUTE).fingerprint == run.fingerprint


def test_a_changed_source_is_read_again(written, sample):
    first = load_faces("fer2013", written, **MUTE)
    write_layout(sample.subset(np.arange(120)), "csv", written)
    assert len(load_faces("fer2013", written, **MUTE)) == 120
    write_layout(sample.subset(np.arange(100)), "csv", written)
    assert len(load_faces("fer2013", **MUTE)) == 100
    other = written.with_name("other")
    write_layout(sample, "csv", other)
    assert load_faces("fer2013", other, **MUTE).fingerprint == first.fingerprint


def test_files_in_the_folder_of_the_cache_are_read_once(sample, fer_home, monkeypatch):
    write_layout(sample, "folders", fer_home / "data" / "fer2013")
    first = load_faces("fer2013", **MUTE)
    assert first.manifest["dropped"] == {}
    forbid_reading(monkeypatch)
    assert load_faces("fer2013", **MUTE).fingerprint == first.fingerprint
    shutil.rmtree(fer_home / "data/fer2013/train")  # as users may do to save space
    shutil.rmtree(fer_home / "data/fer2013/test")
    assert load_faces("fer2013", **MUTE).fingerprint == first.fingerprint


def test_files_put_beside_the_cache_of_a_download_are_read(sample, written, fer_home, monkeypatch):
    monkeypatch.setattr(acquire, "_kagglehub_cache", lambda handle: written)
    assert len(load_faces("fer2013", **MUTE)) == 160
    write_layout(sample.subset(np.arange(120)), "csv", fer_home / "data/fer2013")
    assert len(load_faces("fer2013", **MUTE)) == 120
    forbid_reading(monkeypatch)
    assert len(load_faces("fer2013", **MUTE)) == 120


def test_files_without_images_beside_the_cache_of_a_download_change_nothing(
    written, fer_home, monkeypatch
):
    monkeypatch.setattr(acquire, "_kagglehub_cache", lambda handle: written)
    load_faces("fer2013", **MUTE)
    (fer_home / "data/fer2013/notes.txt").touch()
    (fer_home / "data/fer2013/fer2013new.csv").write_text("Usage,Image name\n")
    forbid_reading(monkeypatch)
    heard = []
    assert len(load_faces("fer2013", say=heard.append)) == 160
    assert f"note: what is in {fer_home / 'data/fer2013'} is not read" in heard[0]


def test_files_put_beside_the_cache_are_read_only_when_the_given_folder_is_gone(
    sample, written, fer_home
):
    load_faces("fer2013", written, **MUTE)
    write_layout(sample.subset(np.arange(120)), "csv", fer_home / "data/fer2013")
    assert len(load_faces("fer2013", **MUTE)) == 160
    shutil.rmtree(written)
    assert len(load_faces("fer2013", **MUTE)) == 120


def test_an_audit_beside_the_cache_does_not_count_as_data(sample, fer_home, monkeypatch):
    folder = fer_home / "data" / "mine"
    write_layout(sample, "classes", folder)
    (folder / "audit.json").write_text("{}")
    first = load_faces("mine", **MUTE)
    assert first.manifest["dropped"] == {}
    forbid_reading(monkeypatch)
    (folder / "audit.json").write_text('{"images": 160}')
    heard = []
    for _ in range(2):
        assert load_faces("mine", say=heard.append).fingerprint == first.fingerprint
    assert ["from the cache" in line for line in heard if "mine: class" in line] == [True, True]


def test_a_deleted_cache_is_read_again_from_the_folder_given_before(written, fer_home):
    first = load_faces("fer2013", written, **MUTE)
    cache = fer_home / "data" / "fer2013"
    (cache / "audit.json").write_text("{}")
    for _ in range(2):
        (cache / "faces.npz").unlink()
        heard = []
        assert load_faces("fer2013", say=heard.append).fingerprint == first.fingerprint
        assert f"read from {written}" in heard[0]
    os.utime(written / "fer2013.csv", ns=(1, 1))  # changed, so read again without --data-dir
    load_faces("fer2013", **MUTE)
    (cache / "faces.npz").unlink()
    assert load_faces("fer2013", **MUTE).fingerprint == first.fingerprint


def test_the_sample_is_drawn_once(monkeypatch):
    import fer_lib.data.sample as module

    calls = []
    monkeypatch.setattr(module, "make_sample", lambda *_, **__: calls.append(1) or make_sample(100))
    first = load_faces("sample", **MUTE)
    assert load_faces("sample", **MUTE).fingerprint == first.fingerprint
    assert calls == [1]
    assert first.mark == "sample data"
    np.testing.assert_array_equal(load_faces("sample", **MUTE).truth, first.truth)
    with pytest.raises(InputError, match="drawn"):
        load_faces("sample", "/tmp", **MUTE)


def test_the_name_of_a_sample_sets_its_size_and_share_of_wrong_labels():
    faces = load_faces("sample-30-200", **MUTE)
    assert (faces.name, len(faces), (faces.labels != faces.truth).sum()) == (
        "sample-30-200",
        200,
        60,
    )
    assert load_faces("sample-30-200", **MUTE).fingerprint == faces.fingerprint
    assert faces.mark == "sample data"
    with pytest.raises(InputError, match=r"sample data: wrong is 0.5, choose 0 to 0.4"):
        load_faces("sample-50", **MUTE)
    with pytest.raises(InputError, match="there is no dataset 'sample-x'"):
        load_faces("sample-x", **MUTE)


def test_a_damaged_cache_is_named_and_never_used(folder, fer_home, refused):
    known = load_faces("fer2013", folder, **MUTE).fingerprint
    cache = fer_home / "data" / "fer2013" / "faces.npz"
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2])
    assert f"the cache {cache} is damaged: delete it" in refused("fer2013", folder)
    rng = np.random.default_rng(0)
    ends = [*range(120), *range(len(whole) - 400, len(whole))]
    harmless = 0
    for place in [*rng.integers(0, len(whole), 60), *rng.choice(ends, 60, replace=False)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        cache.write_bytes(flipped)
        # A byte without meaning, as in a member's date, may differ; an image may not.
        with contextlib.suppress(InputError):
            assert fingerprint(load_faces("fer2013", folder, **MUTE)) == known
            harmless += 1
    assert harmless < 30
    cache.unlink()
    assert load_faces("fer2013", folder, **MUTE).fingerprint == known


@pytest.mark.parametrize("dataset", ["fer2013", "sample-10-100"])
def test_a_cache_that_another_process_begins_to_rewrite_is_not_called_damaged(
    written, fer_home, monkeypatch, dataset
):
    given = None if dataset.startswith("sample") else written
    known = load_faces(dataset, given, **MUTE).fingerprint
    load, cache = loading.load, fer_home / "data" / dataset

    def rewritten_meanwhile(folder):
        monkeypatch.setattr(loading, "load", load)
        write_json(cache / "manifest.json", {"source": str(written)})  # as `_save` begins
        return load(folder)

    monkeypatch.setattr(loading, "load", rewritten_meanwhile)
    assert load_faces(dataset, given, **MUTE).fingerprint == known
    assert "fingerprint" in read_json(cache / "manifest.json")


def test_a_damaged_manifest_is_named(folder, fer_home, refused):
    load_faces("fer2013", folder, **MUTE)
    manifest = fer_home / "data" / "fer2013" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    assert str(manifest) in refused("fer2013", folder)


def test_a_cache_without_its_manifest_is_read_again(folder, fer_home):
    load_faces("fer2013", folder, **MUTE)
    (fer_home / "data" / "fer2013" / "manifest.json").unlink()
    heard = []
    load_faces("fer2013", folder, say=heard.append)
    assert "read from" in heard[1]


def test_the_source_is_remembered_if_the_cache_cannot_be_rewritten(written, fer_home, monkeypatch):
    first = load_faces("fer2013", written, **MUTE)
    os.utime(written / "fer2013.csv", ns=(1, 1))  # changed

    def full(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(InputError, match="No space left on device"):
            load_faces("fer2013", written, **MUTE)
    cache = fer_home / "data" / "fer2013"
    assert {path.name for path in cache.iterdir()} == {"faces.npz", "manifest.json"}  # none in part
    assert "fingerprint" not in read_json(cache / "manifest.json")
    heard = []
    assert load_faces("fer2013", say=heard.append).fingerprint == first.fingerprint
    assert f"read from {written}" in heard[0]


def test_a_cache_without_a_source_is_announced_without_one(sample, fer_home):
    cache, heard = fer_home / "data" / "mytable", []
    save(replace(sample, name="mytable", manifest={"layout": "my table"}), cache)
    load_faces("mytable", say=heard.append)
    assert heard[0].startswith(f"mytable: my table, from the cache {cache}: 160 faces")


def test_a_cache_in_a_read_only_folder_is_named(written, fer_home, monkeypatch):
    load_faces("fer2013", written, **MUTE)
    os.utime(written / "fer2013.csv", ns=(1, 1))  # changed
    cache = fer_home / "data" / "fer2013"

    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    text = "could not be written .Permission denied.: free some space, close the file in other prog"
    with pytest.raises(InputError, match=f"{cache}.* {text}"):
        load_faces("fer2013", written, **MUTE)
