"""The campaign's commands: its list, failures, signals, archives of runs and data."""

import json
import os
import shutil
import signal
import zipfile
from functools import cache
from pathlib import Path

import aims
import campaign
import entries
import numpy as np
import packing
import pytest
import schedule
import timm
import wanted
from campaign_fixtures import SAMPLE, tiny

from fer_lib.data import load_faces
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import load_predictions
from fer_lib.files import read_json, write_json
from fer_lib.kept import keep_results
from fer_lib.models.weights import write_weights
from fer_lib.runs import Run, list_runs

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("without_kept_results")


def main(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        campaign.main(list(map(str, arguments)))
    return ended.value.code


def test_the_readme_contains_the_current_list_and_aims(monkeypatch):
    monkeypatch.setattr(schedule, "RESULTS", ROOT / "report" / "results")
    monkeypatch.setattr(aims, "RESULTS", ROOT / "report" / "results")
    monkeypatch.setattr(schedule, "read_json", cache(read_json))  # else read for every entry
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert campaign.listed() in readme
    assert aims.table() in readme


def step(entry) -> tuple:
    """Return what a training step of an entry depends on.

    Refinements are all alike, since their voters are trained as other entries are.
    """
    if not entry.model:
        return type(entry).__name__, repr(entry.settings | {"epochs": 0})
    config = entry.config()
    kind = config.model, config.optimizer, config.mixup > 0, entry.start, entry.dataset
    return *kind, config.labels == "votes", repr((config.options, config.augmentation))


def test_a_step_of_every_entry_runs(tmp_path, capsys):
    """Of entries whose steps are alike (see `step`), only the last is tried."""
    weights = tmp_path / "weights.safetensors"
    vit = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=112)
    write_weights(weights, {k: v.half() for k, v in vit.state_dict().items()}, {})
    changes = ["--set", "batch_size=2", "epochs=1", "warmup_epochs=0"]
    changes += ["flip_tta=false", "ema_decay=0.0"]  # one view of one network is enough
    every = (*wanted.FIRST, *wanted.LATER)
    names = [entry.name for entry in {step(entry): entry for entry in every}.values()]
    arguments = ("run", "--dry-run", "only", "--dataset", SAMPLE, "--only", *names)
    arguments += ("--weights", weights, "--out", tmp_path)
    assert main(*arguments, *changes) == 0
    text = capsys.readouterr().out
    for name in names:
        assert f"dry run, {name}: " in text
    assert text.endswith("failed: none\n")
    assert list_runs() == []


@pytest.fixture
def two(monkeypatch):
    """A list of an entry that fails and a good one, with one further seed and no dry run."""
    bad = tiny("bad", lr=1e30, clip_grad=None, precision="no")
    monkeypatch.setattr(wanted, "FIRST", (bad, tiny("good")))
    monkeypatch.setattr(wanted, "LATER", ())
    monkeypatch.setattr(wanted, "SEEDS", (1,))
    monkeypatch.setattr(campaign.Campaign, "dry_run", lambda self: None)


def test_other_entries_run_after_a_failure_and_their_archive_can_be_unpacked(
    two, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert main("run", "--dataset", SAMPLE) == 1
    text = capsys.readouterr().out
    assert "finished: good; good, seed 1\nnot finished: none\n" in text
    assert "failed: bad (FloatingPointError: " in text
    first, second = runs = list_runs()
    assert [run.train_config.seed for run in runs] == [0, 1]
    commands = [run.config["environment"]["command"] for run in runs]
    assert commands[0].endswith("--only good")
    assert commands[1].endswith("--only 'good, seed 1'")
    archives = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in archives] == ["runs-1.zip"]
    names = zipfile.ZipFile(archives[0]).namelist()
    assert f"runs/{second.name}/best.safetensors" in names
    assert not [name for name in names if "checkpoint" in name or "/." in name]

    there, kept = tmp_path / "there", tmp_path / "kept"
    monkeypatch.setattr(campaign, "RESULTS", kept)
    campaign.main(["unpack", str(tmp_path / "out" / "runs-*.zip"), "--runs", str(there)])
    assert not kept.exists()  # results on drawn faces are not kept
    for run in runs:
        back = Run(there / run.name)
        assert back.config == run.config
        assert back.results == run.results
        keep_results(back, kept)
        mine, other = (load_predictions(r.folder / "predictions.npz") for r in (run, back))
        for split in ("valid", "test"):
            p, q = (getattr(one, f"{split}_probabilities") for one in (mine, other))
            assert p.dtype == q.dtype == np.float32
            assert np.array_equal(p.argmax(1), q.argmax(1))
            assert 0 < np.abs(p - q).max() < 5e-4
        assert back.load_model()
    capsys.readouterr()
    campaign.main(["table", "--runs", str(there)])
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert "validation" in header
    assert "test" not in header
    assert len(lines) == 2
    assert f"{100 * first.results['valid']['full']['accuracy']:.2f}%" in "".join(lines)
    assert "lr=" not in lines[0]
    assert "batch_size=16" in lines[0]

    monkeypatch.setattr(schedule, "RESULTS", kept)
    for run in runs:  # as on a machine that has only the kept results
        shutil.rmtree(run.folder)
    assert main("run", "--dataset", SAMPLE, "--only", "good", "good, seed 1") == 0
    assert "finished: good; good, seed 1\n" in capsys.readouterr().out
    assert list_runs() == []


def test_a_campaign_ended_by_sigterm_continues_by_the_same_command(
    long, tmp_path, monkeypatch, capsys
):
    place, workers = entries.Place(dataset=SAMPLE), []

    def ended(self, entry):
        if entry.progress(place) is not None:
            workers.append(self.worker.process)
            os.kill(os.getpid(), signal.SIGTERM)

    command = ("run", "--dataset", SAMPLE, "--out", tmp_path, "--dry-run", "none")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        campaign.end_as_interrupted()
        with monkeypatch.context() as patch:
            patch.setattr(campaign.Campaign, "look_after", ended)
            assert main(*command) == 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    text = capsys.readouterr().out
    assert "\nlong: not finished, resumes when it is run again\n" in text
    assert text.endswith(
        "finished: none\nnot finished: long\nleft out because --weights is missing: "
        "none\nfailed: none\n"
    )
    assert not workers[0].is_alive()
    begun = len(long.progress(place))
    assert 1 <= begun < 40
    assert main(*command) == 0
    (run,) = list_runs()
    assert run.results["epochs"] == 40
    assert "finished: long\n" in capsys.readouterr().out


def test_results_are_kept_even_if_the_next_run_cannot_be_unpacked(
    packed, tmp_path, monkeypatch, capsys
):
    run, archive = packed
    unmarked = run.config | {"data": run.config["data"] | {"mark": ""}}
    write_json(run.folder / "config.json", unmarked)
    archive = packing.Archives(tmp_path / "unmarked").add(packing.contents(run))
    files = {
        name.replace(run.name, "2_other"): data for name, data in packing.contents(run).items()
    }
    results = {
        "runs/2_other/results.json": json.dumps(run.results | {"dataset": "nowhere"}).encode()
    }
    (archive.parent / "runs-1 (1).zip").write_bytes(b"")  # as a browser names a second download
    packing.Archives(archive.parent).add(files | results)
    monkeypatch.setattr(campaign, "RESULTS", tmp_path / "kept")
    assert main("unpack", archive, "--runs", tmp_path / "there") == 2
    assert "nowhere" in capsys.readouterr().err
    assert [path.stem for path in (tmp_path / "kept").glob("*.json")] == [run.name]


def test_packed_data_unpack_to_the_same_data(tmp_path, monkeypatch, capsys):
    faces = make_sample(400)
    write_layout(faces, "csv", tmp_path / "csv")
    write_layout(faces, "ferplus", tmp_path / "csv")
    here = [load_faces(name, tmp_path / "csv") for name in ("fer2013", "ferplus")]
    assert here[0].votes is not None
    campaign.main(["pack-data", str(tmp_path / "data.zip"), "--data-dir", str(tmp_path / "csv")])
    assert (tmp_path / "data.zip").stat().st_size < faces.images.nbytes
    monkeypatch.setenv("FER_HOME", str(tmp_path / "there"))
    campaign.main(["unpack-data", str(tmp_path / "data.zip")])
    shutil.rmtree(tmp_path / "csv")
    for one in here:
        assert load_faces(one.name).fingerprint == one.fingerprint
    (tmp_path / "data.zip").write_bytes(b"no zip")
    assert main("unpack-data", tmp_path / "data.zip") == 2
    assert "cannot be read as packed data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--only", "nobody"), "there is no entry 'nobody': use one of vit_small; "),
        (("run", "--weights", "nowhere"), "nowhere does not exist: give a file of weights"),
        (("run", "--minutes", "0"), "--minutes must be above 0"),
        (("run", "--minutes", "nan"), "--minutes must be above 0"),
        (("run", "--out", __file__), f"{__file__} cannot be written to: choose another folder"),
        (("table",), "there are no finished runs: train one first"),
    ],
)
def test_bad_arguments_exit_with_a_message(arguments, message, capsys):
    assert main(*arguments) == 2
    assert message in capsys.readouterr().err
