"""Checkpoints: written in the background, complete after an interruption, refused if damaged."""

import threading

import pytest
import torch
from conftest import rows, small

from fer_lib import epochs, training
from fer_lib.checkpoints import Background, load_state, load_weights
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.models.weights import write_weights
from fer_lib.predict import Predictor
from fer_lib.runs import list_runs
from fer_lib.train import train

pytestmark = pytest.mark.usefixtures("undrawn_runs")


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


def stop_at_second(original):
    """Wrap a function so that its second call raises KeyboardInterrupt."""
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    return interrupted


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
    assert len(load_state(unfinished.state_path)["rows"]) == 1
    resumed = train(small(ema_decay=0.9), faces, runs=tmp_path / "killed")
    assert rows(resumed) == rows(whole)
    assert resumed.results["test"] == whole.results["test"]


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


@pytest.mark.usefixtures("kept_states")
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


@pytest.mark.parametrize("load", [load_weights, Predictor.from_file])
def test_weights_of_another_program_are_refused(tmp_path, load):
    path = tmp_path / "x.safetensors"
    write_weights(path, {"weight": torch.zeros(2)}, {"format": "pt"})
    with pytest.raises(InputError, match=r"x\.safetensors does not say .* not written by fer_lib"):
        load(path)
