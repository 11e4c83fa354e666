"""Folders of runs: found by equal settings, listed, locked, refused if they cannot be written."""

import os
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import small

from fer_lib import in_depth
from fer_lib import runs as runs_module
from fer_lib import train as train_module
from fer_lib.compare import __main__ as compare_command
from fer_lib.data import FaceSet
from fer_lib.files import InputError, locked, read_json, write_json
from fer_lib.given import given_runs
from fer_lib.kept import __main__ as kept_command
from fer_lib.predict import keep
from fer_lib.runs import (
    find_run,
    list_runs,
    new_folder,
    newest,
    record_resume,
    runs_folder,
    start_run,
    write_metrics,
)
from fer_lib.train import train

pytestmark = pytest.mark.usefixtures("undrawn_runs")


def without_the_first(faces: FaceSet) -> FaceSet:
    """Return other data of the same name: all faces but the first."""
    return faces.subset(slice(1, None))


@pytest.mark.parametrize(
    "same",
    [
        {"mixup": 0},
        {"clip_grad": 1},
        *({"options": {"width": 4, "dropout": kind((0.2, 0.1))}} for kind in (tuple, list)),
    ],
)
def test_equal_settings_find_the_same_run_however_they_are_written(faces, tmp_path, same):
    run = start_run(small(epochs=1), faces, tmp_path)
    assert find_run(small(epochs=1, **same), faces, tmp_path).folder == run.folder
    assert find_run(small(epochs=1, mixup=0.1), faces, tmp_path) is None


def test_metrics_of_code_that_logs_more_or_less_are_kept_whole(tmp_path):
    rows = [{"epoch": 1, "old": 0.5}, {"epoch": 2, "new": 0.25}]
    write_metrics(tmp_path / "metrics.csv", rows)
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch,old,new", "1,0.5,", "2,,0.25"]


def test_folders_that_are_no_run_are_left_out_and_named_once(make_run, tmp_path, capsys):
    run, half = make_run(), make_run(time="2")
    half.folder.rename(half.folder.with_name(f".{half.name}.partial"))  # half restored
    write_json(tmp_path / "a" / "config.json", {})
    unknown = {"train": {"model": "x", "colour": 1}, "data": run.config["data"], "environment": {}}
    write_json(tmp_path / "b" / "config.json", unknown)
    write_json(tmp_path / "c" / "config.json", {"train": run.config["train"]})
    closed = tmp_path / "0" / "config.json"
    closed.mkdir(parents=True)  # a folder, which even root cannot read as a file
    assert [one.name for one in list_runs(tmp_path)] == [run.name]
    assert list_runs(tmp_path)  # a second time, they are not named again
    printed = capsys.readouterr().out
    assert printed.count("left out") == 4
    assert f"left out: {closed} cannot be read (Is a directory)" in printed
    assert f"left out: {tmp_path / 'a'} is not a run" in printed
    assert "colour" in printed
    assert (
        f"left out: {tmp_path / 'c'} is not a run: its config.json does not name data and "
        "environment" in printed
    )


def test_runs_are_listed_by_preset_data_and_end(make_run, noise, tmp_path):
    less = without_the_first(noise)
    runs = [make_run(), make_run(preset="quick", time="2"), make_run(time="3", faces=less)]
    (runs[1].folder / "results.json").unlink()
    names = lambda **which: [int(run.name[0]) for run in list_runs(tmp_path, **which)]
    assert names() == [1, 3]
    assert names(finished=False) == [1, 2, 3]
    assert names(finished=False, preset="sample") == [1, 3]
    assert names(finished=False, fingerprint=noise.fingerprint) == [1, 2]


def test_a_finished_run_comes_before_newer_ones_that_are_not(make_run):
    runs = [make_run(time=time) for time in "123"]
    assert newest(runs).name == runs[2].name
    (runs[2].folder / "results.json").unlink()
    assert newest(runs).name == runs[1].name
    assert newest([]) is None


def test_two_runs_of_the_same_second_have_folders_of_their_own(noise, tmp_path, monkeypatch):
    seconds = iter((1, 1, 1, 2))
    now = lambda: datetime(2026, 1, 1, 0, 0, next(seconds))
    monkeypatch.setattr(runs_module, "datetime", SimpleNamespace(now=now))
    monkeypatch.setattr(runs_module.time, "sleep", lambda seconds: None)
    noise.name = "my faces/of 2024"
    folders = [new_folder(tmp_path, "vit_cnn", noise, 0) for _ in range(2)]
    assert folders[0] != folders[1]
    assert all(folder.parent == tmp_path for folder in folders)
    assert folders[0].name.endswith("_vit_cnn_my-faces-of-2024_s0")


def test_a_run_says_what_its_data_are_and_where_they_are_from(noise, tmp_path):
    told = {"layout": "csv", "source": "a.csv", "dropped": 2, "split": {"official": True}}
    noise.manifest |= told
    data = start_run(small(), noise, tmp_path).config["data"]
    assert {key: data[key] for key in told} == told
    assert (data["dataset"], data["mark"]) == ("noise", "sample data")
    assert (data["counts"], data["classes"]) == (noise.counts(), list(noise.classes))


def test_each_change_of_conditions_is_a_stage_of_its_own(make_run):
    run, first = make_run(), {"commit": "a", "precision": "no"}
    run.config["environment"] = first
    conditions = zip("abbb", ("no", "no", "no", "bf16"), strict=True)
    changes = [
        {"after_epoch": epoch, "commit": commit, "precision": precision}
        for epoch, (commit, precision) in enumerate(conditions, 1)
    ]
    for change in changes:
        record_resume(run, first | change, change["after_epoch"])
    config = read_json(run.folder / "config.json")
    assert config["environment"] == first
    assert config["resumed"] == [changes[1], changes[3]]


def test_an_entry_that_a_stage_lacks_is_as_in_the_stage_before(make_run):
    run, old = make_run(), {"after_epoch": 1, "commit": "b"}
    run.config |= {"environment": {"commit": "a", "torch": "2"}, "resumed": [old]}
    record_resume(run, {"commit": "b", "torch": "2"}, 2)
    assert run.config["resumed"] == [old]
    record_resume(run, {"commit": "b", "torch": "3"}, 2)
    assert len(run.config["resumed"]) == 2


@pytest.mark.parametrize(
    ("dataset", "remedy"), [("noise", "give its own as data_dir"), ("sample", "use runs on the")]
)
def test_the_remedy_for_other_data_depends_on_their_name(make_run, noise, dataset, remedy):
    run = make_run()
    run.config["data"]["dataset"] = dataset
    run.require_data(noise)
    with pytest.raises(InputError, match=f"other data than this noise: {remedy}"):
        run.require_data(without_the_first(noise))


def test_runs_are_given_by_path_name_or_pattern(make_run, fer_home, monkeypatch, tmp_path):
    one, other = (fer_home / "runs" / name for name in ("one_run", "other_run"))
    for folder in (one, other):
        shutil.move(make_run().folder, folder)
    monkeypatch.chdir(tmp_path)
    given = [str(fer_home / "runs" / "*_run"), "other_run", "runs/one_run", str(other)]
    assert [run.folder for run in given_runs(given)] == [one, other, other, one, other]
    with pytest.raises(InputError, match=r"^nothing matches runs/nothing"):
        given_runs(["runs/nothing*"])


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (compare_command.main, []),
        (in_depth.main, []),
        (keep.main, ["--out", "a.safetensors"]),
        (kept_command.main, []),
        (train_module.main, ["baseline_cnn", "--from-run"]),
    ],
)
def test_every_command_looks_for_a_run_in_the_runs_folder_too(
    main, arguments, fer_home, monkeypatch, capsys
):
    monkeypatch.chdir(Path(__file__).parent.parent)  # has the README that one of them checks first
    with pytest.raises(SystemExit):
        main([*arguments, "runs/nothing"])
    said = f"there is no runs/nothing, here or in {fer_home / 'runs'}: give the folder of a run"
    assert said in capsys.readouterr().err


def test_the_path_of_the_runs_folder_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs_folder("~/some runs") == tmp_path / "some runs"


def test_an_unwritable_runs_folder_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root may write anywhere
    with pytest.raises(InputError, match="cannot be written to"):
        train(small(epochs=1), faces, runs=tmp_path)


def test_a_file_given_as_the_runs_folder_is_refused(faces, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(train_module, "Learner", None)  # it must not be called
    with pytest.raises(InputError, match="file cannot be written to"):
        train(small(epochs=1), faces, runs=tmp_path / "file")


def test_a_run_that_another_process_is_training_is_refused(faces, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("fer_lib.files.LOCK_SECONDS", 0.2)
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    with FileLock(run.folder / ".lock"), pytest.raises(InputError, match="another process"):
        train(small(epochs=1), faces, runs=tmp_path)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def fail(_):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("fer_lib.files.FileLock.acquire", fail)
    with (
        pytest.raises(InputError, match=r"supports no locks \(no flock\)"),
        locked(tmp_path / "l", "at"),
    ):
        pass
