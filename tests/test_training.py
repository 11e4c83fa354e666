"""The epochs of a run: resuming after a kill, the best epoch and its scores, NaN losses."""

import os
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import rows, small
from forked import killed_at

from fer_lib import epochs, files, training
from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.checkpoints import load_state, load_weights
from fer_lib.device import processes
from fer_lib.evaluate import aligned, load_predictions
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.losses import SoftCrossEntropy
from fer_lib.provenance import processor
from fer_lib.refine.folds import predict
from fer_lib.runs import list_runs
from fer_lib.train import main, train

pytestmark = pytest.mark.usefixtures("undrawn_runs")


def test_few_steps_are_reported_once_with_the_remedy(faces, tmp_path, capsys):
    run = train(small(), faces, runs=tmp_path)
    steps = 2 * (len(faces.where("train")) // 32)
    few = f"{steps} steps in all are few to learn from: raise epochs"
    said = capsys.readouterr().out
    assert said.count(f"{few}, or start from a trained model with pretrained=FILE\n") == 1
    train(small(pretrained=str(run.weights)), faces, runs=tmp_path)
    assert f"{few}\n" in capsys.readouterr().out
    train(small(epochs=1, batch_size=4), faces, runs=tmp_path)
    assert "steps in all" not in capsys.readouterr().out


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
    assert not list(run.folder.glob("best-*"))


@pytest.mark.usefixtures("kept_states")
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
    last.load_state_dict(load_state(run.state_path)["model"])
    answers = probabilities(
        last, torch.from_numpy(faces.images[test]), Prepare(last.pretrained_cfg)
    )
    assert np.abs(answers.numpy() - reported).max() > 1e-3
    right = (reported.argmax(1) == faces.labels[test]).mean()
    assert run.results["test"]["full"]["accuracy"] == right


def test_of_equally_good_epochs_the_first_is_the_best():
    rows = [{"valid_accuracy": accuracy} for accuracy in (0.5, 0.6, 0.6)]
    assert training.best_epoch(rows) == 1


def test_the_scores_on_validation_images_equal_those_by_hand(faces, monkeypatch):
    held = Learner(small(), faces).held_out
    p = torch.full((len(held.labels), 7), 0.001)
    p[:, 0] = 0.994  # of a model that always answers with the first class
    monkeypatch.setattr(held, "predict", lambda split, *_: p if split == "valid" else None)
    first = (faces.labels[faces.where("valid")] == 0).mean()
    assert held.validate(torch.nn.Identity(), "no") == {
        "valid_loss": pytest.approx(-first * np.log(0.994) - (1 - first) * np.log(0.001)),
        "valid_accuracy": pytest.approx(first),
        "valid_images": len(p),
    }


def test_the_plateau_schedule_gets_its_own_metric_after_the_warm_up(monkeypatch):
    seen = []
    losses = lambda run, learner, epoch: {"valid_loss": 9 - epoch, "valid_accuracy": 0.5}
    monkeypatch.setattr(training, "one_epoch", losses)
    config = SimpleNamespace(warmup_epochs=2, plateau_metric="valid_loss")
    learner = SimpleNamespace(plateau=SimpleNamespace(step=seen.append))
    it = SimpleNamespace(run=None, learner=learner, config=config)
    for epoch in range(4):
        training.Training.one_epoch(it, epoch)
    assert seen == [7, 6]


def test_a_row_has_the_largest_rate_at_the_start_and_the_time_with_and_without_validation(
    monkeypatch,
):
    clock, groups = iter([10.0, 12.0, 15.0]), [{"lr": 0.1}, {"lr": 0.5}]
    monkeypatch.setattr(epochs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    learner = SimpleNamespace(
        optimizer=SimpleNamespace(param_groups=groups),
        config=SimpleNamespace(batch_size=8),
        train_epoch=lambda epoch: groups.clear() or {"train_loss": 2.0},
        validate=lambda: {"valid_loss": 3.0},
    )
    row = epochs.one_epoch(SimpleNamespace(folder="run"), learner, 2)
    scores = {"epoch": 3, "train_loss": 2.0, "valid_loss": 3.0, "lr": 0.5}
    assert row == scores | {"train_seconds": 2.0, "seconds": 5.0}


def test_results_have_the_rate_of_images_and_a_mark_only_if_images_were_left_out(faces):
    done = [{"train_images": 30, "train_seconds": seconds} for seconds in (4.0, 2.0)]
    every = len(faces.where("train"))
    common = epochs.in_common(small(limit=every), faces, done)
    assert (common["images_per_second"], common["train_seconds"]) == (10.0, 6.0)
    assert common["mark"] == faces.mark
    fewer = epochs.in_common(small(limit=every - 1), faces, done)["mark"]
    assert fewer == f"{faces.mark}; trained on {every - 1} images"


def test_early_stopping_counts_from_the_best_epoch(faces, tmp_path):
    run = train(small(epochs=9, lr=1e-12, patience=2), faces, runs=tmp_path)
    table = run.metrics()
    assert len(table) == table["valid_accuracy"].idxmax() + 3 < 9


@pytest.mark.usefixtures("kept_states")
def test_the_moving_average_is_saved_as_the_best_weights(faces, tmp_path):
    run = train(small(epochs=1, ema_decay=0.9), faces, runs=tmp_path)
    state = torch.load(run.state_path, weights_only=True)
    best = run.load_model().state_dict()
    assert all(torch.equal(best[name], state["ema"][name]) for name in best)
    assert not all(torch.equal(best[name], state["model"][name]) for name in best)


def test_the_weights_themselves_are_scored_at_their_own_best_epoch(faces, tmp_path, monkeypatch):
    accuracies = {"valid_accuracy": [0.5, 0.6], "valid_accuracy_unaveraged": [0.4, 0.3]}
    validate, keep, states = Learner.validate, epochs.keep, []

    def noted(run, state, rows):
        states.append(deepcopy(state["model"]))
        keep(run, state, rows)

    monkeypatch.setattr(
        Learner,
        "validate",
        lambda self: validate(self) | {name: some.pop(0) for name, some in accuracies.items()},
    )
    monkeypatch.setattr(training, "keep", noted)
    fewer = np.delete(np.arange(len(faces)), faces.where("valid")[0])  # than test images
    faces = faces.subset(fewer)
    run = train(small(ema_decay=0.9), faces, runs=tmp_path)
    found = run.results["unaveraged"]
    assert (run.results["best_epoch"], found["best_epoch"]) == (2, 1)
    for split in ("valid", "test"):
        images = len(faces.where(split))
        assert found[split]["full"]["n"] == run.results[split]["full"]["n"] == images
    model = run.load_model()
    model.load_state_dict(states[0])
    rows = faces.where("test")
    answers = probabilities(
        model, torch.from_numpy(faces.images[rows]), Prepare(model.pretrained_cfg)
    )
    assert (
        found["test"]["full"]["accuracy"]
        == (answers.argmax(1).numpy() == faces.labels[rows]).mean()
    )
    kept = load_predictions(run.folder / "predictions_unaveraged.npz").test_probabilities
    np.testing.assert_allclose(kept, answers.numpy(), atol=1e-5)
    assert not list(run.folder.glob("unaveraged*"))


def test_a_run_without_a_moving_average_has_no_unaveraged_scores(faces, tmp_path):
    run = train(small(epochs=1), faces, runs=tmp_path)
    assert "unaveraged" not in run.results


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


def test_an_epoch_with_a_nan_validation_loss_is_not_kept(faces, tmp_path, monkeypatch):
    validate = Learner.validate
    monkeypatch.setattr(
        Learner, "validate", lambda self: validate(self) | {"valid_loss": float("nan")}
    )
    with pytest.raises(FloatingPointError, match=r"validation loss became nan in epoch 1: lower"):
        train(small(), faces, runs=tmp_path)
    (folder,) = tmp_path.glob("*_s0")
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.usefixtures("kept_states")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has /dev/full")
def test_a_full_disk_is_reported_and_the_last_state_is_kept(faces, tmp_path, monkeypatch):
    run = train(small(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    before = (run.folder / "best.safetensors").read_bytes()
    original = training.write_results

    def on_a_full_disk(run, *rest):
        (run.folder / ".results.0.partial.json").symlink_to("/dev/full")
        original(run, *rest)

    monkeypatch.setattr(training, "write_results", on_a_full_disk)
    monkeypatch.setattr(files, "token_hex", lambda bytes: "0")
    with pytest.raises(InputError, match=r"results\.json could not be written \(No space left"):
        train(small(epochs=1), faces, runs=tmp_path)
    assert not (run.folder / "results.json").exists()
    assert (run.folder / "best.safetensors").read_bytes() == before
    monkeypatch.undo()
    assert train(small(epochs=1), faces, runs=tmp_path).finished


def test_predictions_and_accuracy_without_the_mirror_image_are_kept(faces, tmp_path):
    run = train(small(flip_tta=True), faces, runs=tmp_path)
    model = run.load_model()
    prepare = Prepare(model.pretrained_cfg)
    kept = load_predictions(run.folder / "predictions_one_view.npz")
    for split, accuracy in run.results["one_view"].items():
        rows = faces.where(split)
        p = probabilities(model, torch.from_numpy(faces.images[rows]), prepare).numpy()
        assert (p.argmax(1) == faces.labels[rows]).mean() == accuracy
        np.testing.assert_allclose(aligned(faces, kept, split), p, atol=1e-5)
    mean = load_predictions(run.folder / "predictions.npz")
    assert not np.allclose(mean.test_probabilities, kept.test_probabilities, atol=1e-5)
