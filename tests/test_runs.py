"""Folders of runs: found by equal settings, listed, locked, refused if they cannot be written."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import small

from fer_lib import in_depth
from fer_lib import train as train_module
from fer_lib.compare import __main__ as compare_command
from fer_lib.files import InputError, locked, write_json
from fer_lib.given import given_runs
from fer_lib.kept import __main__ as kept_command
from fer_lib.predict import keep
from fer_lib.runs import find_run, list_runs, runs_folder, start_run, write_metrics
from fer_lib.train import train

pytestmark = pytest.mark.usefixtures("undrawn_runs")


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
