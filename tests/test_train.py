"""Training by a call or a command: the run folder, a finished run, refused settings and data."""

import argparse
import json
import logging
import shutil
import sys
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small

from fer_lib import epochs, plots, training
from fer_lib import train as train_module
from fer_lib.data.sample import make_sample
from fer_lib.epochs import OTHER_DATA, in_common
from fer_lib.evaluate import load_predictions
from fer_lib.files import InputError, write_json
from fer_lib.learner import Learner
from fer_lib.models.weights import write_weights
from fer_lib.pretrain import __main__ as pretrain_command
from fer_lib.pretrain import loop, pretrain, pretraining
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import RECIPES, recipe
from fer_lib.runs import find_run, list_runs, start_run
from fer_lib.starts import started_from
from fer_lib.train import fine_tuning, main, require_buildable, train
from fer_lib.training import Training

pytestmark = pytest.mark.usefixtures("undrawn_runs")


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        ("vit_mae", {"options": {"backbone": "vit_smal_patch16"}}, "vit_smal_patch16"),
        ("vit_mae", {"options": {"dept": 3}}, "dept"),
        ("vit_moe", {"options": {"top_k": 9}}, "top_k"),
        ("baseline_cnn", {"frozen_layers": 99}, "frozen_layers is at most [0-9]+, not 99"),
        ("baseline_cnn", {"optimizer": "adamm"}, "optimizer 'adamm' is unknown"),
    ],
)
def test_what_cannot_be_built_is_refused_without_weights(faces, monkeypatch, model, changes, text):
    config = recipe(model, "ours", "full", **changes)
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)  # would load the weights
    with pytest.raises(InputError, match=text):
        require_buildable(config, faces)


@pytest.mark.parametrize(("model", "name"), RECIPES)
def test_each_recipe_can_be_built(faces, model, name):
    for preset in ("sample", "full"):
        require_buildable(recipe(model, name, preset), faces)


def test_a_finished_run_has_a_complete_folder(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "plots", plots)
    run = train(small(), faces, runs=tmp_path)
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {
        "config.json",
        "metrics.csv",
        "best.safetensors",
        "predictions.npz",
        "results.json",
        "loss_curve.png",
        "accuracy_curve.png",
        "confusion_matrix.png",
    }
    assert not [name for name in names if "partial" in name or name == "checkpoint"]
    config = json.loads((run.folder / "config.json").read_text())
    assert config["data"]["fingerprint"] == faces.fingerprint
    assert torch.__version__.startswith(config["environment"]["torch"])
    assert run.results["mark"] == "sample data"
    assert 0 <= run.results["test"]["clean"]["accuracy"] <= 1
    predictions = load_predictions(run.folder / "predictions.npz")
    assert predictions.test_ids.tolist() == faces.ids[faces.where("test")].tolist()
    right = predictions.test_probabilities.argmax(1) == faces.labels[faces.where("test")]
    assert right.mean() == run.results["test"]["full"]["accuracy"]


def test_a_finished_run_is_returned_and_another_config_starts_a_new_run(faces, tmp_path):
    first = train(small(epochs=1), faces, runs=tmp_path)
    assert train(small(epochs=1), faces, runs=tmp_path).folder == first.folder
    other = train(small(epochs=1, seed=1), faces, runs=tmp_path)
    assert other.folder != first.folder
    assert [run.name for run in list_runs(tmp_path)] == sorted([first.name, other.name])
    assert find_run(small(epochs=1), make_sample(100, seed=9), tmp_path) is None


@pytest.mark.parametrize(
    ("module", "name", "call", "config"),
    [
        (train_module, "Learner", train, small(epochs=1)),
        (loop, "MaskedLearner", pretrain, pretraining("sample", epochs=1)),
    ],
)
def test_a_run_that_another_program_finished_meanwhile_is_returned(
    faces, tmp_path, monkeypatch, capsys, module, name, call, config
):
    def meanwhile(*arguments, **options):
        monkeypatch.undo()
        call(config, faces, runs=tmp_path)
        capsys.readouterr()

    monkeypatch.setattr(module, name, meanwhile)
    run = call(config, faces, runs=tmp_path)
    assert run.finished
    assert "epoch" not in capsys.readouterr().out
    assert len(list(run.folder.parent.glob("*_s0"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baseline_cnn", "--set", "lr"], "NAME=VALUE"),
        (["baseline_cnn", "--set", "colour=3"], "colour"),
        (["baseline_cnn", "--set", "lr=NaN"], "lr must be a finite number, not nan"),
        (["baseline_cnn", "--set", "seed=4"], "seed cannot be changed by --set"),
        (
            ["baseline_cnn", "--labels", "votes", "--set", "labels=original"],
            "labels cannot be changed",
        ),
        (["baseline_cnn", "--set", 'augmentation={"rotate": "x"}'], "rotate must be a number"),
        (["baseline_cnn", "--dataset", "fer2013", "--data-dir", "/nowhere"], "/nowhere"),
        (["baseline_cnn", "--dataset", ""], "dataset '' must be a plain name"),
        (["baseline_cnn", "--labels", ""], "refined_RULE:soft, not ''"),
        (["baseline_cnn", "--from-run", ""], "is not a run folder"),
    ],
)
def test_bad_arguments_are_reported_in_the_last_line_of_stderr(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is not valid JSON"), ("{}", "lacks the results"), ("[]", "lacks the results")],
)
def test_damaged_results_are_reported_with_a_remedy(
    make_run, monkeypatch, capsys, content, message
):
    run = make_run()
    (run.folder / "results.json").write_text(content)
    monkeypatch.setattr(train_module, "train", lambda *_, **__: run)
    with pytest.raises(SystemExit):
        main(["baseline_cnn", "--dataset", "sample-10-100"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{run.folder / 'results.json'} {message}" in said
    assert said.endswith(": delete it and create it again")


@pytest.mark.parametrize("name", ["train", "pipeline", "in_depth", "pretrain.__main__"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_ctrl_c_ends_a_long_command_with_a_sentence(name, rank, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored after the test
    monkeypatch.setattr(logging.getLogger("asyncio"), "level", logging.NOTSET)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(KeyboardInterrupt):  # the process dies of it, as a shell's loop then does
        import_module(f"fer_lib.{name}").main([])
    assert sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None) is None
    said = "stopped; the same command continues here\n" if rank == "0" else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "votes"}, "no votes"),
        ({"optimizer": "adamz"}, "'adamz' is unknown to timm"),
        ({"optimizer": "lookahed_adamw"}, "'lookahed_adamw' is unknown to timm"),
        ({"options": {"num_classes": 8}}, "num_classes is no option of a model"),
        ({"optimizer": "adahessian"}, "needs second derivatives"),
        ({"optimizer": "sgd", "momentum": 0}, "plain SGD is optimizer=momentum"),
        ({"options": {"dropout": [1.5, 0.1]}}, "does not take these options .*1.5"),
        ({"options": {"dropout": [0.2]}}, "does not take these options"),
        ({"frozen_layers": 4}, "at most 3"),
        ({"limit": 20, "accumulate": 8}, "does not divide"),
    ],
)
def test_invalid_settings_are_refused_before_a_folder_is_made(faces, tmp_path, changes, message):
    without = faces.subset(np.arange(len(faces)))
    without.votes = None
    with pytest.raises(InputError, match=message):
        train(small(**changes), without, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "learner", "arguments", "remedy"),
    [
        (
            main,
            Learner,
            ["baseline_cnn"],
            "lower batch_size (64) or split batches with accumulate=2",
        ),
        (pretrain_command.main, MaskedLearner, [], "lower batch_size (32)"),
    ],
)
def test_a_full_gpu_ends_a_command_with_one_sentence(
    tmp_path, monkeypatch, capsys, command, learner, arguments, remedy
):
    def fail(self, epoch):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr(learner, "train_epoch", fail)
    with pytest.raises(SystemExit) as ended:
        command([*arguments, "--dataset", "sample-10-100", "--runs", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the GPU has too little free memory (CUDA out of memory.): {remedy}" in said


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "hint"),
    [(50, 2, 1, 5), (64, 2, 1, 4), (64, 16, 4, None), (48, 2, 4, 3), (7, 7, 1, None)],
)
def test_only_a_number_of_parts_that_divides_a_batch_is_advised(
    monkeypatch, batch_size, accumulate, processes, hint
):
    there = SimpleNamespace(num_processes=processes)
    monkeypatch.setattr(epochs, "processes", lambda: there)
    said = epochs.less_memory(small(batch_size=batch_size, accumulate=accumulate))
    more = f" or split batches with accumulate={hint}" if hint else ""
    assert said == f"lower batch_size ({batch_size}){more}"


@pytest.mark.parametrize(
    ("module", "name", "what", "call", "config"),
    [
        (train_module, "Learner", "training", train, small()),
        (loop, "MaskedLearner", "pretraining", pretrain, pretraining("sample")),
    ],
)
def test_a_full_gpu_is_said_where_the_network_is_built_too(
    faces, tmp_path, monkeypatch, module, name, what, call, config
):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr(module, name, full)
    told = rf"^{what}: the GPU has too little free memory \(CUDA out.*: end other programs"
    with pytest.raises(InputError, match=told):
        call(config, faces, runs=tmp_path)


@pytest.mark.parametrize(("limit", "marked"), [(20, True), (None, False), ("between", False)])
def test_results_name_a_limit_only_if_it_leaves_images_out(faces, limit, marked):
    faces = deepcopy(faces)
    faces.votes[faces.where("train")[:9]] = 0  # nine faces without a vote
    limit = len(faces.where("train")) - 4 if limit == "between" else limit
    row = {"train_seconds": 1.0, "train_images": 20}
    found = in_common(small(labels="votes", limit=limit), faces, [row])
    assert ("trained on" in found["mark"]) is marked


DRAWN = {"official": False, "fractions": {"train": 0.8, "valid": 0.1, "test": 0.1}}
VALID_DRAWN = {"official": False, "fractions": {"train": 0.9, "valid": 0.1}}
OFFICIAL = {"official": True}
MERGED = "test = PublicTest + PrivateTest, 7,178 images"


@pytest.mark.parametrize(
    ("before", "now", "mark", "marked"),
    [
        (("fer2013", DRAWN), ("fer2013", OFFICIAL), "", True),
        (("fer2013", OFFICIAL), ("fer2013", DRAWN), "", True),
        (("fer2013", None), ("fer2013", DRAWN), "", True),  # before the split was recorded
        (("fer2013", OFFICIAL), ("fer2013", OFFICIAL), "", False),
        (("fer2013", OFFICIAL), ("rafdb", VALID_DRAWN), "", False),
        (("fer2013", VALID_DRAWN), ("fer2013", OFFICIAL), "", False),
        (("fer2013", OFFICIAL), ("mine", OFFICIAL), "", True),  # three folders of anything
        (("mine", OFFICIAL), ("fer2013", OFFICIAL), "", True),
        ((None, None), ("fer2013", OFFICIAL), "", True),  # a file that does not say
        (("fer2013", OFFICIAL), ("fer2013", VALID_DRAWN), MERGED, True),  # PublicTest is in both
        (("fer2013", None), ("fer2013", VALID_DRAWN), MERGED, True),
        (("fer2013", VALID_DRAWN), ("fer2013", VALID_DRAWN), MERGED, False),
        (("sample", OFFICIAL), ("sample-10-300", OFFICIAL), "", True),  # which share faces
        (("sample", OFFICIAL), ("fer2013", VALID_DRAWN), MERGED, False),
        (("fer2013", DRAWN), ("sample", OFFICIAL), "", False),
        ((None, None), ("sample", OFFICIAL), "", True),
    ],
)
def test_results_say_if_the_start_may_know_the_test_images(faces, before, now, mark, marked):
    faces = replace(faces, name=now[0], manifest={"split": now[1], "mark": mark})
    start = {"dataset": before[0], "fingerprint": "other", "split": before[1]}
    same = {"dataset": now[0], "fingerprint": faces.fingerprint, "split": now[1]}
    row = {"train_seconds": 1.0, "train_images": 20}
    for starts, expected in (([start], marked), ([same, start], marked), ([same], False)):
        found = in_common(small(), faces, [row], started_from=starts)["mark"]
        assert (OTHER_DATA in found) is expected


def test_a_run_records_the_data_of_all_runs_before_it(faces, tmp_path):
    first = train(small(epochs=1), faces, runs=tmp_path)
    assert first.config["started_from"] == []
    short = {"epochs": 1, "batch_size": 32, "ema_decay": 0.0}
    other = faces.subset(np.arange(len(faces)) > 0)
    other.manifest["split"] = DRAWN
    second = train(fine_tuning(first, "ours", **short), other, runs=tmp_path)
    assert second.results["mark"] == f"sample data; {OTHER_DATA}"
    third = start_run(fine_tuning(second, "ours", **short), faces, tmp_path)
    assert third.config["started_from"] == [
        {"dataset": "sample", "fingerprint": other.fingerprint, "split": DRAWN},
        {
            "dataset": "sample",
            "fingerprint": faces.fingerprint,
            "split": faces.manifest.get("split"),
        },
    ]
    alone = shutil.copy(second.weights, tmp_path / "default.safetensors")
    assert started_from(small(pretrained=str(alone))) == third.config["started_from"]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"model": "baseline_cnn", "learned_from": "[]"},  # written without an origin
            [{"dataset": None, "fingerprint": None, "split": None}],
        ),
        ({"model": "baseline_cnn"}, [{"dataset": None, "fingerprint": None, "split": None}]),
        (
            {"dataset": "fer2013", "fingerprint": "f"},  # of a pretraining
            [{"dataset": "fer2013", "fingerprint": "f", "split": None}],
        ),
        ({"format": "pt"}, []),
    ],
)
@pytest.mark.parametrize("beside", [None, {"architecture": "vit"}, ["of another program"]])
def test_only_weights_of_this_project_are_of_unknown_data(tmp_path, metadata, expected, beside):
    if beside:
        write_json(tmp_path / "config.json", beside)
    write_weights(tmp_path / "a.safetensors", {"weight": torch.zeros(1)}, metadata)
    assert started_from(small(pretrained=str(tmp_path / "a.safetensors"))) == expected


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("test", "test")])
def test_data_without_a_split_are_refused_before_a_folder_is_made(faces, tmp_path, split, name):
    with pytest.raises(InputError, match=f"has no {name} images"):
        train(small(), faces.subset(faces.split != split), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("kept_states")
@pytest.mark.parametrize("how", ["trained", "begun"])
def test_a_run_of_other_code_is_reported(faces, tmp_path, monkeypatch, capsys, how):
    run = train(small(epochs=1), faces, runs=tmp_path)
    if how == "begun":
        (run.folder / "results.json").unlink()
    monkeypatch.setattr(train_module, "code_digest", lambda: "another")
    train(small(epochs=1), faces, runs=tmp_path)
    assert capsys.readouterr().out.count(f"{how} by other code") == 1


def test_resuming_in_another_precision_is_reported(faces, tmp_path, monkeypatch, capsys):
    one_epoch = Training.one_epoch

    def stop_at_second(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(self, epoch)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "one_epoch", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            train(small(), faces, runs=tmp_path)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    train(small(), faces, runs=tmp_path)
    assert "begun with precision=no and goes on with precision=bf16" in capsys.readouterr().out
    (run,) = list_runs(tmp_path)
    (resumed,) = run.config["resumed"]
    assert (resumed["after_epoch"], resumed["precision"]) == (1, "bf16")
