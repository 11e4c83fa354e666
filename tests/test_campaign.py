"""Tests of the campaign: the list of entries, the schedule, and archives of runs and data."""

import json
import os
import shutil
import signal
import time
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import aims
import campaign
import entries
import estimate
import numpy as np
import packing
import pandas as pd
import pytest
import schedule
import timm
import torch
import wanted
import worker
from forked import CONTEXT

from fer_lib import provenance
from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.config import TrainConfig
from fer_lib.data import load_faces
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import load_predictions, save_predictions
from fer_lib.files import InputError, read_json, write_json
from fer_lib.kept import keep_results
from fer_lib.models.weights import write_weights
from fer_lib.runs import Run, list_runs

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = "sample-10-100"
TINY = {"batch_size": 16, "warmup_epochs": 0, "options": {"width": 4}, "flip_tta": True}


@pytest.fixture(autouse=True)
def without_kept_results(monkeypatch):
    """Leave out the kept results of the checkout; start workers fast."""
    monkeypatch.setattr(worker, "get_context", lambda method: CONTEXT)
    entries.faces_of.cache_clear()
    for module in (campaign, schedule):
        monkeypatch.setattr(module, "RESULTS", ROOT / "no such folder")


def tiny(name, **settings):
    return entries.Entry(name, model="baseline_cnn", settings=TINY | {"epochs": 2} | settings)


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


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.6399, "missed"), (0.64, "as expected"), (0.67, "as hoped for"), (None, "")],
)
def test_an_aim_counts_the_entry_that_is_best_on_validation(monkeypatch, accuracy, verdict):
    test = {"accuracy": accuracy, "interval": {"accuracy": [0.2, 0.9]}}
    better = {"test": {"full": {**test, "accuracy": 0.99}}, "valid": {"full": {"accuracy": 0.5}}}
    best = {"test": {"full": test}, "valid": {"full": {"accuracy": 0.6}}}
    known = {"a": better, "b": better, "b, seed 2": best} if accuracy else {}
    aim = aims.Aim("system", ("a", "b"), expected=64, hoped=67, limits="size")
    monkeypatch.setattr(aims, "AIMS", (aim,))
    monkeypatch.setattr(wanted, "by_name", campaign.Entry)
    monkeypatch.setattr(aims, "kept_results", lambda entry: known.get(entry.name))
    row = aims.table().splitlines()[-1]
    shown = f"{accuracy:.1%} (20.0% to 90.0%)" if accuracy else "not run yet"
    who = "b, seed 2" if accuracy else ""
    assert row == f"| system | 64% | 67% | {shown} | {verdict} | {who} | size |"


def test_every_system_is_listed_and_no_two_entries_are_the_same_run():
    configs = {e.name: e.config() for e in wanted.every() if e.model}
    assert {"baseline_cnn", "attention_cnn", "vit_patch", "vit_cnn"} < configs.keys()
    assert {"vit_small", "vit_tiny", "vit_mae", "vit_moe", "grefel"} < configs.keys()
    besides = {
        e.name: e.dataset + (e.needs.name if e.start == "faces" else "") for e in wanted.every()
    }
    text = {e: json.dumps(config.to_dict(), sort_keys=True) for e, config in configs.items()}
    texts = [besides[name] + text[name] for name in configs]
    assert len(set(texts)) == len(configs)
    assert configs["vit_small"].options["backbone"] == "vit_small_patch14_dinov2"
    moe, refined = configs["vit_moe"], configs["vit_moe, refined"]
    assert replace(refined, labels="original") == moe


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
    campaign.main(["unpack", str(archives[0]), "--runs", str(there)])
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


@pytest.fixture
def long(monkeypatch):
    """The only entry of the list, of 40 epochs, whose progress is looked at often."""
    entry = tiny("long", epochs=40)
    for name, every in (("FIRST", (entry,)), ("LATER", ()), ("SEEDS", ())):
        monkeypatch.setattr(wanted, name, every)
    monkeypatch.setattr(schedule, "POLL", 0.05)
    return entry


def test_an_entry_cut_off_at_the_time_limit_resumes(long, tmp_path):
    place = entries.Place(dataset=SAMPLE)

    class Cut(schedule.Campaign):
        def look_after(self, entry):
            if entry.progress(place) is not None:
                self.until = 0.0

    cut = Cut(place, until=float("inf"), out=tmp_path)
    cut.run()
    assert [one.name for one in cut.ready()] == ["long"]
    assert not cut.failed
    begun = long.run(place)
    assert not begun.finished
    assert 1 <= len(long.progress(place)) < 40
    long.do(place)
    assert len(Run(begun.folder).metrics()) == 40
    again = schedule.Campaign(place, until=float("inf"), out=tmp_path)
    assert again.ready() == []
    assert again.archives.names()


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


def test_a_dry_run_that_the_time_limit_ends_is_not_called_an_unfinished_run(long, tmp_path, capsys):
    cut = schedule.Campaign(entries.Place(dataset=SAMPLE), until=time.time(), out=tmp_path)
    cut.dry_run()
    assert cut.worker.process is None
    cut.run()
    assert capsys.readouterr().out == "dry run, rehearsal: ended, as the time is over\n"


class Still:
    """A stand-in for `Worker` that starts no process and counts the calls of `end`."""

    def __init__(self, place):
        self.name, self.ended = None, 0

    def end(self):
        self.name, self.ended = None, self.ended + 1


@pytest.fixture
def still(monkeypatch, tmp_path):
    """A campaign with 100 s left, of a long entry that has begun and a short one."""
    rows = pd.DataFrame({"seconds": [9.0] + [1.0] * 4})

    class Begun(entries.Entry):
        def progress(self, place):
            return rows

    settings = TINY | {"epochs": 300}
    long, short = Begun("long", model="baseline_cnn", settings=settings), tiny("short")
    monkeypatch.setattr(wanted, "FIRST", (long, short))
    monkeypatch.setattr(wanted, "LATER", ())
    monkeypatch.setattr(schedule, "Worker", Still)
    place = entries.Place(dataset=SAMPLE)
    return schedule.Campaign(place, until=time.time() + 100, out=tmp_path)


def test_the_first_entry_that_fits_the_remaining_time_starts(still):
    long, short = still.ready()
    assert 0 < estimate.saving(long.config()) < 0.1  # overlaps the next epoch
    assert still.left(long) == estimate.START + 295 * 1.0
    assert still.next() is short
    still.until += 300
    assert still.next() is long
    still.until = time.time() + 1  # nothing fits, so the one that ends soonest
    assert still.next() is short


def test_an_entry_that_turns_out_too_long_gives_way_to_one_that_fits(still, capsys):
    long = still.ready()[0]
    still.worker.name = "long"
    still.look_after(long)
    assert still.worker.ended == 1
    assert "does not fit: put aside after epoch 5 for short" in capsys.readouterr().out
    assert still.ratios["long"] > 0
    still.results["short"] = {}
    still.look_after(long)  # nothing else is waiting
    assert still.worker.ended == 1


def test_further_seeds_are_of_the_systems_that_are_best_on_validation(still):
    names = ("a", "a, variant", "b", "c", "d", "e")
    every = [tiny(name) for name in names]
    wanted.FIRST = tuple(every)
    for name, score in zip(names, (0.5, 0.9, 0.6, 0.7, 0.2, 0.8), strict=True):
        still.results[name] = {"valid": {"full": {"accuracy": score}}}
    chosen = [entry.name for entry in still.further_seeds()]
    best = ("a, variant", "e", "c", "b")
    assert chosen == [f"{name}, seed {seed}" for seed in (1, 2) for name in best]


def test_a_needed_entry_runs_first_and_only_while_another_entry_needs_it(still):
    mae = entries.Autoencoder("mae", settings={"epochs": 1})
    wants = entries.Entry("vit_mae", model="vit_mae", start="faces", needs=mae)
    wanted.FIRST = (mae, wants)
    assert still.ready() == [mae]
    still.results["vit_mae"] = {}
    assert still.ready() == []


def test_kept_results_are_of_a_run_after_the_needed_pretraining(monkeypatch):
    monkeypatch.setattr(schedule, "RESULTS", ROOT / "report" / "results")
    names = ("vit_mae, patches of 8", "vit_mae, patches of 8, longer pretraining")
    entries = [wanted.by_name(name) for name in names]
    assert entries[0].config() == entries[1].config()  # "ENCODER" stands for the weights file
    short, long = (schedule.kept_results(entry) for entry in entries)
    assert short != long
    assert short["valid"]["full"]["accuracy"] < long["valid"]["full"]["accuracy"]


def test_estimates_grow_with_image_size_and_steps_per_epoch():
    assumed = estimate.assumed
    small, large = (
        TrainConfig("vit_tiny", options=campaign.BACKBONE | {"img_size": size}, batch_size=512)
        for size in (112, 224)
    )
    assert 3 < assumed(large) / assumed(small) < 6
    few, many = (TrainConfig("baseline_cnn", batch_size=size) for size in (512, 32))
    assert assumed(many) > 5 * assumed(few)
    whole = sum(estimate.left(entry) for entry in (*wanted.FIRST, *wanted.LATER))
    assert 600 < whole < 7200


@pytest.fixture
def packed(tmp_path):
    """A finished run, and the path of the archive that contains it."""
    place, entry = entries.Place(dataset=SAMPLE), tiny("one")
    entry.do(place)
    run = entry.run(place)
    return run, packing.Archives(tmp_path / "out").add(packing.contents(run))


def test_a_dry_run_is_long_enough_to_replay_a_recorded_step():
    for recorded, epochs in ((None, 1), (object(), 4)):
        done = []
        entries.train_one(SimpleNamespace(recorded=recorded, train_epoch=done.append))
        assert done == list(range(epochs))


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


def test_given_options_are_merged_with_those_of_an_entry():
    place = entries.Place(changes={"options": {"width": 16}, "epochs": 9})
    bare = wanted.by_name("attention_cnn, no gates").config(place)
    assert (bare.options["attention"], bare.options["width"], bare.epochs) == ("none", 16, 9)
    assert bare.batch_size == 256


def test_every_training_belongs_to_an_aim_or_is_a_listed_exception():
    known = {name for aim in aims.AIMS for name in aim.entries}
    every = {entry.name for entry in wanted.every() if entry.model and not entry.seed}
    without = {
        *("baseline_cnn, published", "attention_cnn, published", "attention_cnn, no gates"),
        "vit_mae, patches of 8, from scratch",
    }
    assert every - known == without
    assert known <= every


def test_missing_data_fail_the_entry_that_needs_them(still):
    absent = replace(tiny("absent"), dataset="ferplus")
    still.place = entries.Place(data_dir="nowhere")
    still.looked_up = set()
    still.look_up(absent)
    assert list(still.failed) == ["absent"]


def test_results_include_the_accuracy_without_the_mirror_image(packed):
    run, _ = packed
    faces = load_faces(SAMPLE)
    model = run.load_model()
    prepare = Prepare(model.pretrained_cfg)
    for split, accuracy in run.results["one_view"].items():
        rows = faces.where(split)
        answers = probabilities(model, torch.from_numpy(faces.images[rows]), prepare).argmax(1)
        assert (answers.numpy() == faces.labels[rows]).mean() == accuracy


def test_a_kept_run_shortens_the_path_of_its_weights_file(packed, tmp_path):
    run, _ = packed
    train = run.config["train"] | {"pretrained": "/home/me/pretraining/1_mae/encoder.safetensors"}
    write_json(run.folder / "config.json", run.config | {"train": train})
    keep_results(Run(run.folder), tmp_path / "kept")
    kept = read_json(tmp_path / "kept" / f"{run.name}.json")
    assert kept["config"]["train"]["pretrained"] == "1_mae/encoder.safetensors"


def test_a_copy_outside_git_takes_its_commit_from_the_environment(monkeypatch):
    def no_git(*arguments, **named):
        raise FileNotFoundError

    monkeypatch.delenv("FER_COMMIT", raising=False)
    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert provenance.git_commit() is None
    monkeypatch.undo()  # FER_COMMIT also comes before the commit of a checkout
    monkeypatch.setenv("FER_COMMIT", "0123abcd")
    assert provenance.git_commit() == "0123abcd"


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


def test_labels_by_other_voters_do_not_finish_a_refinement():
    place = entries.Place(dataset=SAMPLE)
    voters = ((tiny("one"), {"epochs": 1}),)
    entry = entries.Refinement("voters", voters=voters, folds=2)
    entry.do(place)
    assert entry.finished(place)
    other = entries.Refinement("voters", voters=voters, folds=3)
    assert not other.finished(place)
    with pytest.raises(InputError, match=r"refined_majority\.npz is by other voters"):
        other.do(place)


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
        (("table",), "there are no finished runs: train one first"),
    ],
)
def test_bad_arguments_exit_with_a_message(arguments, message, capsys):
    assert main(*arguments) == 2
    assert message in capsys.readouterr().err
