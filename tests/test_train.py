"""The training loop and its run folder: results, resuming after a kill, refused settings."""

import gc
import inspect
import json
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import free_port
from forked import CONTEXT, killed_at
from timm.models import register_model
from torch import nn

import fer_lib
from fer_lib import epochs, plots, provenance, training
from fer_lib import learner as learner_module
from fer_lib import train as train_module
from fer_lib.augment import Augmentation, Prepare
from fer_lib.batches import probabilities
from fer_lib.checkpoints import Background, load_state, load_weights
from fer_lib.data.audit import clean_test_ids
from fer_lib.data.copies import copy_groups
from fer_lib.data.sample import make_sample
from fer_lib.device import processes
from fer_lib.evaluate import evaluate, load_predictions
from fer_lib.evaluate.abstention import operating_point
from fer_lib.evaluate.calibration import exact
from fer_lib.files import InputError, locked, read_json, write_json
from fer_lib.kept import keep_results, results_table
from fer_lib.learner import Learner
from fer_lib.losses import SoftCrossEntropy, inverse_frequency, log_prior
from fer_lib.models import MODULES, create_model
from fer_lib.optim import parameter_groups, schedules
from fer_lib.provenance import CODE, processor
from fer_lib.recipes import recipe
from fer_lib.refine.folds import predict
from fer_lib.runs import find_run, list_runs, runs_folder, start_run
from fer_lib.settings import parse_setting
from fer_lib.train import main, train
from fer_lib.training import Training

pytestmark = pytest.mark.usefixtures("undrawn_runs")


@pytest.fixture(scope="module")
def faces():
    return make_sample(300)


def small(**changes):
    values = {"epochs": 2, "options": {"width": 4}, "batch_size": 32, "ema_decay": 0.0} | changes
    return recipe("baseline_cnn", "ours", "sample", **values)


def rows(run):
    """Return the rows of metrics.csv without the columns of times."""
    return run.metrics().drop(columns=["seconds", "train_seconds"]).to_dict("records")


def test_a_finished_run_has_a_complete_folder(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "plots", plots)
    run = train(small(), faces, runs=tmp_path)
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {
        "config.json",
        "metrics.csv",
        "checkpoint",
        "best.safetensors",
        "predictions.npz",
        "results.json",
        "loss_curve.png",
        "accuracy_curve.png",
        "confusion_matrix.png",
    }
    assert not [name for name in names if "partial" in name]
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


def test_a_killed_run_resumes_to_the_same_numbers(faces, tmp_path, capsys):
    settings = ["--set", "epochs=8", "batch_size=64", 'options={"width": 4}', "schedule=plateau"]
    arguments = ["baseline_cnn", "--dataset", "sample-10-300", *settings, "--runs"]
    killed_at("epoch 2/8", main, [*arguments, str(tmp_path / "killed")])
    (unfinished,) = list_runs(tmp_path / "killed", finished=False)
    assert not unfinished.finished
    main([*arguments, str(tmp_path / "killed")])
    resumed = capsys.readouterr().out
    assert "resumes after epoch" in resumed
    assert f"trains on {processes().device.type} ({processor()})" in resumed
    main([*arguments, str(tmp_path / "whole")])
    (killed,), (whole,) = list_runs(tmp_path / "killed"), list_runs(tmp_path / "whole")
    assert rows(killed) == rows(whole)
    for key in ("valid", "test", "best_epoch"):
        assert killed.results[key] == whole.results[key]
    a, b = (load_predictions(run.folder / "predictions.npz") for run in (killed, whole))
    np.testing.assert_array_equal(a.test_probabilities, b.test_probabilities)


def torchrun(arguments):
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "fer_lib.train"]
    subprocess.run([sys.executable, *launch, *arguments], check=True, capture_output=True)


def launched(call, *arguments):
    """Run a call in two processes with the variables that torchrun sets; faster than torchrun."""
    both, port = [], str(free_port())
    for rank in "01":
        both.append(CONTEXT.Process(target=call, args=arguments, daemon=True))
        both[-1].environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        both[-1].environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        both[-1].start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "launch"),
    [
        (["baseline_cnn", "--set", "epochs=1", 'options={"width": 4}'], torchrun),
        (["vit_moe", "--set", "epochs=1", "limit=200", "frozen_layers=1"], partial(launched, main)),
    ],
    ids=["cnn", "experts-and-frozen-layers"],
)
def test_two_processes_train_on_as_many_images_as_one_in_one_folder(settings, launch, tmp_path):
    settings = [*settings, "--dataset", "sample-10-300", "--runs"]
    main([*settings, str(tmp_path / "one")])
    launch([*settings, str(tmp_path / "two")])
    (one,), (two,) = list_runs(tmp_path / "one"), list_runs(tmp_path / "two")
    assert two.config["environment"]["processes"] == 2
    for key in ("train_images", "valid_images"):
        assert rows(one)[0][key] == rows(two)[0][key]
    assert one.results["test"]["full"]["n"] == two.results["test"]["full"]["n"]
    assert abs(rows(one)[0]["train_loss"] - rows(two)[0]["train_loss"]) < 0.2


def learn(folder):
    """Train for one epoch and save the loss and the weights.

    Only the order of the images is random, and no image influences the answer for another.
    """
    plain = {"augmentation": Augmentation(flip=0.0, affine=0.0), "precision": "no"}
    sgd = {"optimizer": "sgd", "lr": 0.05, "warmup_epochs": 0, "batch_size": 16, "limit": 64}
    options = {"options": {"drop_path": 0.0}, "ema_decay": 0.0}
    learner = Learner(
        recipe("vit_patch", "ours", "sample", **options, **plain, **sgd), make_sample(100)
    )
    loss = learner.train_epoch(0)["train_loss"]
    weights = torch.cat([parameter.detach().flatten() for parameter in learner.core.parameters()])
    torch.save((loss, weights), folder / os.environ.get("RANK", "one"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes train on the CPU")
def test_two_processes_learn_the_same_weights_as_one(tmp_path):
    learn(tmp_path)
    launched(learn, tmp_path)
    loss, weights = torch.load(tmp_path / "one")
    for rank in "01":
        its_loss, its_weights = torch.load(tmp_path / rank)
        assert its_loss == pytest.approx(loss, abs=1e-4)
        torch.testing.assert_close(its_weights, weights, atol=1e-4, rtol=0)


def test_a_launch_that_would_silently_start_one_process_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # as accelerate launch --cpu sets it
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(InputError, match="torchrun"):
        processes()


def test_validation_is_not_augmented_and_gives_the_same_result_twice(faces, monkeypatch):
    learner = Learner(small(), faces)
    calls = []
    original = learner.prepare.__class__.__call__
    monkeypatch.setattr(
        learner_module.Prepare,
        "__call__",
        lambda self, x, config=None, generator=None: (
            calls.append((len(x), config)) or original(self, x, config, generator)
        ),
    )
    assert learner.validate() == learner.validate()
    assert calls
    assert all(config is None for _, config in calls)
    learner.train_epoch(0)
    assert calls[-1][1] == learner.config.augmentation


def test_accumulation_does_not_change_the_step(faces, monkeypatch):
    # Without batch statistics the gradient of a batch is the mean over its parts.
    monkeypatch.setattr(learner_module, "freeze", lambda core, count: core.eval())

    def weights(accumulate):
        plain = {"precision": "no", "augmentation": Augmentation(), "clip_grad": None}
        learner = Learner(small(accumulate=accumulate, **plain), faces)
        learner.train_epoch(0)
        return torch.cat([p.detach().flatten() for p in learner.core.parameters()])

    torch.testing.assert_close(weights(1), weights(4), atol=2e-5, rtol=1e-3)


def test_weights_of_the_previous_training_do_not_stay_on_the_device(faces, monkeypatch):
    """The weights are freed even before Python's automatic garbage collection runs."""
    config = recipe("baseline_cnn", "ours", "sample", limit=16, batch_size=8, precision="bf16")
    gc.disable()
    try:
        before = weakref.ref(Learner(config, faces).core)
        assert before()  # else there is no reference cycle, and gc.collect() is not needed
        on_gpu = SimpleNamespace(device=torch.device("cuda"))
        monkeypatch.setattr(learner_module, "processes", lambda: on_gpu)
        Learner(config, faces)
        assert not before()
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_step_waits_for_the_gpu(faces):
    learner = Learner(recipe("attention_cnn", "ours", "sample", precision="bf16"), faces)
    images, soft = next(learner.batches.epoch(0))
    generator = torch.Generator(learner.device).manual_seed(0)
    x = learner.prepare(images, learner.config.augmentation, generator)
    learner.step(x, soft, {})
    torch.cuda.set_sync_debug_mode("error")
    try:
        x = learner.prepare(images, learner.config.augmentation, generator)
        learner.step(x, soft, {})
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("model", "precision"),
    [("attention_cnn", "no"), ("vit_moe", "no"), ("grefel", "no"), ("vit_cnn", "bf16")],
)
def test_a_compiled_model_learns_the_same(faces, model, precision, monkeypatch):
    """The model is traced and differentiated as a whole, but not compiled: that takes long."""
    real, traced = torch.compile, []

    def compile_quickly(core):
        traced.append(core)
        return real(core, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    rows = []
    for compiled in (False, True):
        torch._dynamo.reset()
        config = recipe(model, "ours", "sample", limit=16, batch_size=8, precision=precision)
        rows.append(Learner(replace(config, compile=compiled), faces).train_epoch(0))
    assert len(traced) == 1
    assert rows[1] == pytest.approx(rows[0], rel=1e-3 if precision == "no" else 0.05)


def test_norms_have_no_decay_and_layers_their_own_learning_rate():
    model = create_model("attention_cnn", width=8)
    config = recipe("attention_cnn", layer_decay=0.5, head_lr_scale=5.0)
    groups = parameter_groups(model, config)
    head = {id(p) for p in model.get_classifier().parameters()}
    for group in groups:
        for p in group["params"]:
            assert (group["weight_decay"] == 0) == (p.ndim <= 1)
            assert (id(p) in head) == (group["lr"] == config.lr * 5)
    assert len({group["lr"] for group in groups}) == 4  # three stages and the head


def test_the_learning_rate_warms_up_and_falls_to_zero():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule, _ = schedules(small(epochs=10, warmup_epochs=2), optimizer, steps=5)
    lrs = []
    for _ in range(50):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert lrs[0] == pytest.approx(1 / 11)
    assert lrs[:10] == sorted(lrs[:10])
    assert max(lrs) == pytest.approx(1.0, abs=0.01)
    assert lrs[10:] == sorted(lrs[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def test_the_plateau_schedule_works_after_warm_up_and_is_restored_from_a_state(faces):
    config = small(schedule="plateau", epochs=5, warmup_epochs=1, plateau_patience=0)
    learner = Learner(config, faces)
    for epoch, accuracy in enumerate((0.5, 0.4, 0.3)):
        learner.train_epoch(epoch)
        learner.plateau.step(accuracy)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(config.lr / 4)
    again = Learner(config, faces)
    again.load_state_dict(learner.state_dict(), "here")
    assert again.plateau.best == 0.5
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(config.lr / 4)


def test_frozen_layers_keep_their_values_until_they_are_unfrozen(faces):
    learner = Learner(small(epochs=3, frozen_layers=3, unfreeze_every=1), faces)
    before = {k: v.clone() for k, v in learner.core.state_dict().items()}

    def changed() -> set[str]:
        after = learner.core.state_dict()
        return {name[:8] for name in before if not torch.equal(before[name], after[name])}

    learner.train_epoch(0)
    assert {name.split(".")[0] for name in changed()} == {"head"}  # batch statistics included
    learner.train_epoch(1)
    assert {name for name in changed() if name.startswith("stages")} == {"stages.2"}
    learner.train_epoch(3)
    assert {"stages.0", "stages.1", "stages.2"} <= changed()


def test_early_stopping_counts_from_the_best_epoch(faces, tmp_path):
    run = train(small(epochs=9, lr=1e-12, patience=2), faces, runs=tmp_path)
    table = run.metrics()
    assert len(table) == table["valid_accuracy"].idxmax() + 3 < 9


def test_the_moving_average_is_saved_as_the_best_weights(faces, tmp_path):
    run = train(small(epochs=1, ema_decay=0.9), faces, runs=tmp_path)
    state = torch.load(run.state_path, weights_only=True)
    best = run.load_model().state_dict()
    assert all(torch.equal(best[name], state["ema"][name]) for name in best)
    assert not all(torch.equal(best[name], state["model"][name]) for name in best)
    assert "valid_accuracy_unaveraged" in run.metrics()


def test_the_decay_of_the_moving_average_warms_up_to_its_value(faces):
    learner = Learner(small(ema_decay=0.9), faces)
    decays = [learner.ema.get_decay(step) for step in (1, 2, 10, 1000)]
    assert decays == pytest.approx([1 - step ** (-2 / 3) for step in (1, 2, 10)] + [0.9])


@pytest.mark.parametrize(
    "changes",
    [
        {"class_weights": True, "label_smoothing": 0.0},
        {"logit_adjustment": 0.5, "label_smoothing": 0.0},
        {"label_smoothing": 0.1},
    ],
)
def test_the_loss_on_soft_targets_equals_the_closed_form(faces, changes):
    learner = Learner(small(**changes), faces)
    known = learner.batches.targets
    weights = inverse_frequency(known) if learner.config.class_weights else torch.ones(7)
    added = learner.config.logit_adjustment * log_prior(known)
    soft = torch.softmax(torch.randn(16, 7), 1)
    logits, loss = learner.step(torch.randn(16, 1, 48, 48), soft, {})
    smooth = learner.config.label_smoothing
    target = (1 - smooth) * soft + smooth / 7
    expected = -(weights * target * (logits + added).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert loss.dtype == torch.float32


def test_a_nan_loss_raises_an_error_and_the_last_good_epoch_is_kept(faces, tmp_path, monkeypatch):
    forward = SoftCrossEntropy.forward
    calls = {"n": 0}

    def broken(self, logits, answer):
        calls["n"] += 1
        return forward(self, logits, answer) * (float("nan") if calls["n"] == 10 else 1)

    monkeypatch.setattr(SoftCrossEntropy, "forward", broken)
    with pytest.raises(FloatingPointError, match="nan at step 3 of epoch 2"):
        train(small(epochs=3), faces, runs=tmp_path)
    (run,) = list_runs(tmp_path, finished=False)
    assert len(rows(run)) == 1
    monkeypatch.undo()
    assert len(rows(train(small(epochs=3), faces, runs=tmp_path))) == 3


def test_a_background_error_is_added_as_a_note_to_a_later_error():
    def fail():
        raise InputError("no space left")

    def fail_twice(again):
        with Background() as background:
            background(fail)
            again(background)

    def diverge(background):
        raise FloatingPointError("nan")

    with pytest.raises(FloatingPointError) as caught:
        fail_twice(diverge)
    assert "no space left" in caught.value.__notes__[0]
    with pytest.raises(InputError) as caught:
        fail_twice(lambda background: background(fail))
    assert not hasattr(caught.value, "__notes__")  # the error is reported only once
    with pytest.raises(InputError, match="no space left"), Background() as background:
        background(fail)


def test_auxiliary_losses_are_added_to_the_loss_and_logged(faces, tmp_path, monkeypatch):
    @register_model
    def with_anchor(pretrained=False, num_classes=7, **_):
        core = create_model("baseline_cnn", num_classes=num_classes, width=4)
        core.anchor = nn.Parameter(torch.ones(3))
        core.auxiliary_losses = lambda targets: {"spread": core.anchor.pow(2).sum()}
        core.statistics = lambda: {"load": torch.tensor(100.0)}
        return core

    monkeypatch.setitem(MODULES, "with_anchor", "cnn")
    config = recipe("baseline_cnn", "ours", "sample", epochs=1, ema_decay=0.0)
    learner = Learner(
        type(config).from_dict(config.to_dict() | {"model": "with_anchor", "options": {}}), faces
    )
    logged = learner.train_epoch(0)
    assert 0 < logged["spread"] < 3
    assert logged["load"] == 100 > logged["train_loss"]  # logged, but not added
    assert logged["train_loss"] > logged["spread"]
    assert (learner.core.anchor < 1).all()


def test_training_on_votes_differs_from_training_on_labels(faces):
    keep = faces.votes[:, :7].sum(1) > 0
    voted = faces.subset(keep)
    a, b = (Learner(small(labels=labels), voted) for labels in ("original", "votes"))
    assert torch.equal(a.held_out.labels, b.held_out.labels)
    assert not torch.equal(a.batches.targets, b.batches.targets)


def test_a_full_disk_is_reported_and_the_last_state_is_kept(faces, tmp_path, monkeypatch):
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    before = (run.folder / "best.safetensors").read_bytes()
    original = training.write_results

    def on_a_full_disk(run, *rest):
        (run.folder / f".results.{os.getpid()}.partial.json").symlink_to("/dev/full")
        original(run, *rest)

    monkeypatch.setattr(training, "write_results", on_a_full_disk)
    with pytest.raises(InputError, match=r"results\.json could not be written \(No space left"):
        train(small(epochs=1), faces, runs=tmp_path)
    assert not (run.folder / "results.json").exists()
    assert (run.folder / "best.safetensors").read_bytes() == before
    monkeypatch.undo()
    assert train(small(epochs=1), faces, runs=tmp_path).finished


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_refused(faces, tmp_path):
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    other = Learner(small(options={"width": 8}), faces).state_dict() | {"rows": []}
    torch.save(other, run.state_path)
    with pytest.raises(InputError, match=r"state\.pt is a checkpoint of another model"):
        train(small(epochs=1), faces, runs=tmp_path)
    for content in (b"not a checkpoint", b"", b"hello", b"\x80"):
        run.state_path.write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt is damaged"):
            train(small(epochs=1), faces, runs=tmp_path)


def test_a_state_of_another_optimizer_is_refused(faces):
    learner = Learner(small(), faces)
    state = learner.state_dict()
    state["optimizer"]["param_groups"].pop()
    with pytest.raises(InputError, match="here does not fit the optimizer"):
        learner.load_state_dict(state, "here")


def test_a_damaged_weights_file_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"x\.safetensors cannot be read"):
        load_weights(path)


def test_a_run_that_another_process_is_training_is_refused(faces, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("fer_lib.files.LOCK_SECONDS", 0.2)
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    with FileLock(run.folder / ".lock"), pytest.raises(InputError, match="another process"):
        train(small(epochs=1), faces, runs=tmp_path)


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
    ],
)
def test_bad_arguments_are_reported_in_the_last_line_of_stderr(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_interruption_between_the_files_of_an_epoch_loses_nothing(faces, tmp_path, monkeypatch):
    whole = train(small(), faces, runs=tmp_path / "whole")
    steps = {"save_weights": training, "write_metrics": epochs, "save_state": epochs}
    for step, module in steps.items():
        runs = tmp_path / step
        with monkeypatch.context() as patch:
            patch.setattr(module, step, stop_at_second(getattr(module, step)))
            with pytest.raises(KeyboardInterrupt):
                train(small(), faces, runs=runs)
        resumed = train(small(), faces, runs=runs)
        assert rows(resumed) == rows(whole), step
        assert resumed.results["test"] == whole.results["test"]


def test_an_epoch_is_written_while_the_next_is_trained(faces, tmp_path, monkeypatch):
    """What the next epoch changes must not get into the files of the first."""
    whole = train(small(ema_decay=0.9), faces, runs=tmp_path / "whole")
    save, train_epoch, trained = epochs.save_state, Learner.train_epoch, threading.Event()

    def train_and_tell(self, epoch):
        row = train_epoch(self, epoch)
        if epoch == 1:
            trained.set()
        return row

    def save_afterwards(path, state):
        if path.exists():
            raise KeyboardInterrupt
        assert trained.wait(60)
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_epoch", train_and_tell)
        patch.setattr(epochs, "save_state", save_afterwards)
        with pytest.raises(KeyboardInterrupt):
            train(small(ema_decay=0.9), faces, runs=tmp_path / "killed")
    (unfinished,) = list_runs(tmp_path / "killed", finished=False)
    assert len(load_state(unfinished.state_path, torch.device("cpu"))["rows"]) == 1
    resumed = train(small(ema_decay=0.9), faces, runs=tmp_path / "killed")
    assert rows(resumed) == rows(whole)
    assert resumed.results["test"] == whole.results["test"]


def stop_at_second(original):
    """Wrap a function so that its second call raises KeyboardInterrupt."""
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    return interrupted


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


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("test", "test")])
def test_data_without_a_split_are_refused_before_a_folder_is_made(faces, tmp_path, split, name):
    with pytest.raises(InputError, match=f"has no {name} images"):
        train(small(), faces.subset(faces.split != split), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_resumed_run_records_each_commit_that_trained_it(faces, tmp_path, monkeypatch):
    for epoch, commit in enumerate(("a", "a", "b")):
        monkeypatch.setenv("FER_COMMIT", commit)
        one_epoch = Training.one_epoch

        def stop_at_second(self, number, one_epoch=one_epoch, last=epoch):
            if number > last:
                raise KeyboardInterrupt
            return one_epoch(self, number)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(Training, "one_epoch", stop_at_second)
            train(small(epochs=3), faces, runs=tmp_path)
    (run,) = list_runs(tmp_path)
    assert run.config["environment"]["commit"] == "a"
    (resumed,) = run.config["resumed"]
    assert (resumed["after_epoch"], resumed["commit"]) == (2, "b")
    keep_results(run, tmp_path / "kept")
    assert results_table(tmp_path / "kept").iloc[0]["commit"] == "a, b"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_runs_folder_is_refused(faces, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to"):
        train(small(epochs=1), faces, runs=tmp_path)


def test_a_file_given_as_the_runs_folder_is_refused(faces, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(train_module, "Learner", None)  # it must not be called
    with pytest.raises(InputError, match="file cannot be written to"):
        train(small(epochs=1), faces, runs=tmp_path / "file")


def test_the_path_of_the_runs_folder_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs_folder("~/some runs") == tmp_path / "some runs"


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def fail(_):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("fer_lib.files.FileLock.acquire", fail)
    with (
        pytest.raises(InputError, match=r"supports no locks \(no flock\)"),
        locked(tmp_path / "l", "at"),
    ):
        pass


def test_folders_that_are_no_run_are_left_out_and_named(make_run, tmp_path, capsys):
    run, half = make_run(), make_run(time="2")
    half.folder.rename(half.folder.with_name(f".{half.name}.partial"))  # half restored
    write_json(tmp_path / "a" / "config.json", {})
    write_json(tmp_path / "b" / "config.json", {"train": {"model": "x", "colour": 1}})
    closed = tmp_path / "0" / "config.json"
    closed.mkdir(parents=True)  # a folder, which even root cannot read as a file
    assert [one.name for one in list_runs(tmp_path)] == [run.name]
    printed = capsys.readouterr().out
    assert printed.count("left out") == 3
    assert f"left out: {closed} cannot be read (Is a directory)" in printed
    assert f"left out: {tmp_path / 'a'} is not a run" in printed
    assert "colour" in printed


@pytest.mark.parametrize("how", ["trained", "begun"])
def test_a_run_of_other_code_is_reported(faces, tmp_path, monkeypatch, capsys, how):
    run = train(small(epochs=1), faces, runs=tmp_path)
    if how == "begun":
        (run.folder / "results.json").unlink()
    monkeypatch.setattr(train_module, "code_digest", lambda: "another")
    train(small(epochs=1), faces, runs=tmp_path)
    assert capsys.readouterr().out.count(f"{how} by other code") == 1


def test_the_code_digest_ignores_comments_docstrings_and_line_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    digests = []
    for text in (
        'RATE = 0.1\n"""What it is."""\ndef f(x):\n    return RATE * x\n',
        '"""A module."""\nRATE = 0.1  # a reason\n\n\ndef f(x):\n    "It."\n    return RATE * x\n',
        "RATE = 0.2\ndef f(x):\n    return RATE * x\n",
    ):
        (tmp_path / "one.py").write_text(text)
        digests.append(provenance.code_digest(("one",)))
    assert digests[0] == digests[1] != digests[2]


def test_the_code_digest_covers_training_restoring_and_scoring():
    folder = Path(fer_lib.__file__).parent
    found = {name: set(folder.glob(f"{name}.py")) for name in CODE}
    assert all(found.values())
    files = set().union(*found.values())
    trains = (train, Training, Learner, load_state, load_weights)
    scores = (load_predictions, evaluate, operating_point, exact, clean_test_ids, copy_groups)
    for one in (*trains, *scores):
        assert Path(inspect.getfile(one)) in files, one


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


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_killed_at_its_best_epoch_has_the_weights_of_the_best_recorded_epoch(
    faces, tmp_path, monkeypatch, recorded
):
    """An unrecorded second epoch is repeated with a lower accuracy, as may happen on a GPU."""
    accuracies = [0.5, 0.6]
    validate = Learner.validate
    monkeypatch.setattr(
        Learner, "validate", lambda self: validate(self) | {"valid_accuracy": accuracies.pop(0)}
    )
    original, states = epochs.save_state, []

    def killed_at_the_second(path, state):
        states.append(deepcopy(state["model"]))
        if len(states) == 2 and not recorded:
            raise KeyboardInterrupt
        original(path, state)
        if len(states) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "save_state", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(small(), faces, runs=tmp_path)
    monkeypatch.setattr(epochs, "save_state", original)
    accuracies[:] = [0.4]
    run = train(small(), faces, runs=tmp_path)
    best = 1 if recorded else 0
    assert run.results["best_epoch"] == best + 1
    weights = load_weights(run.folder / "best.safetensors").state_dict()
    expected = states[best]
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert not list(run.folder.glob("epoch-*"))


def test_the_best_weights_are_scored_and_not_the_last(faces, tmp_path, monkeypatch):
    accuracies, validate = [0.6, 0.4], Learner.validate
    monkeypatch.setattr(
        Learner, "validate", lambda self: validate(self) | {"valid_accuracy": accuracies.pop(0)}
    )
    run = train(small(), faces, runs=tmp_path)
    assert run.results["best_epoch"] == 1
    test = faces.where("test")
    reported = load_predictions(run.folder / "predictions.npz").test_probabilities
    np.testing.assert_allclose(predict(run, faces.images[test]), reported, atol=1e-5)
    last = run.load_model()
    last.load_state_dict(load_state(run.state_path, torch.device("cpu"))["model"])
    answers = probabilities(
        last, torch.from_numpy(faces.images[test]), Prepare(last.pretrained_cfg)
    )
    assert np.abs(answers.numpy() - reported).max() > 1e-3
    right = (reported.argmax(1) == faces.labels[test]).mean()
    assert run.results["test"]["full"]["accuracy"] == right


def test_resuming_in_another_precision_is_reported(faces, tmp_path, capsys):
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    config = read_json(run.folder / "config.json")
    config["environment"]["precision"] = "fp16"
    write_json(run.folder / "config.json", config)
    train(small(epochs=1), faces, runs=tmp_path)
    assert "begun in precision fp16 and goes on in" in capsys.readouterr().out


def test_an_epoch_with_a_nan_validation_loss_is_not_kept(faces, tmp_path, monkeypatch):
    validate = Learner.validate
    monkeypatch.setattr(
        Learner, "validate", lambda self: validate(self) | {"valid_loss": float("nan")}
    )
    with pytest.raises(FloatingPointError, match=r"validation loss became nan in epoch 1\. Lower"):
        train(small(), faces, runs=tmp_path)
    (folder,) = tmp_path.glob("*_s0")
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("x=False", False), ("x=false", False), ("x=None", None), ("x=1e-3", 1e-3), ("x=ab", "ab"),
     ("x={[1]: 2}", "{[1]: 2}")],
)  # fmt: skip
def test_values_on_the_command_line_are_parsed(text, value):
    assert parse_setting(text) == ("x", value)


def test_gradients_are_clipped_and_sgd_trains(faces):
    config = small(optimizer="sgd", lr=0.1, weight_decay=0.0, clip_grad=1e-6, warmup_epochs=0)
    learner = Learner(config, faces)
    before = [p.detach().clone() for p in learner.core.parameters()]
    learner.train_epoch(0)
    moved = sum(
        (p - q).square().sum() for p, q in zip(learner.core.parameters(), before, strict=True)
    )
    assert 0 < moved.sqrt() < 0.1 * 1e-6 * 10 * len(learner.batches)  # momentum 0.9: up to 10 times


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the fused kernel is the faster one")
@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("no", True)])
def test_bf16_attention_on_a_cpu_is_not_fused(faces, precision, fused):
    config = recipe("vit_patch", "ours", "sample", precision=precision)
    learner = Learner(config, faces)
    assert {block.attn.fused_attn for block in learner.core.blocks} == {fused}
    assert {block.attn.fused_attn for block in learner.kept.blocks} == {fused}
