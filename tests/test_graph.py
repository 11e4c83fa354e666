"""Recorded training steps: where they are used, and that they learn the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fer_lib.config import TrainConfig
from fer_lib.data.sample import make_sample
from fer_lib.learner import Learner
from fer_lib.models import create_model
from fer_lib.runs import find_run, start_run


@pytest.fixture(scope="module")
def faces():
    return make_sample(400)


def config(**changes) -> TrainConfig:
    options = {"width": 8} if changes.get("model", "baseline_cnn") == "baseline_cnn" else {}
    plain = {"model": "baseline_cnn", "batch_size": 16, "mixup": 0.2, "clip_grad": 1.0}
    return TrainConfig(**{"options": options} | plain | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"cuda_graph": False}, False),
        ({"optimizer": "sgd"}, False),
        ({"precision": "fp16"}, False),
        ({"frozen_layers": 1, "unfreeze_every": 1}, False),
        ({"frozen_layers": 1}, True),
        ({"compile": "reduce-overhead"}, False),
        ({"compile": True}, True),
    ],
)
def test_only_what_can_be_recorded_is(faces, changes, expected):
    learner = Learner(config(), faces)
    assert learner.recorded is None  # on a CPU
    learner.config, learner.device = config(**changes), torch.device("cuda")
    learner.precision = learner.config.precision
    assert learner.recordable(learner.core) == expected


def test_shapes_that_the_device_alone_knows_are_not_recorded(faces):
    small = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    options = {"img_size": 48, "in_chans": 1, "backbone_options": small}
    learner = Learner(config(), faces)
    learner.device = torch.device("cuda")
    models = {name: create_model(name, **options) for name in ("vit_moe", "grefel")}
    assert {name: learner.recordable(core) for name, core in models.items()} == {
        "vit_moe": False,
        "grefel": True,
    }


def test_a_step_copies_nothing_to_the_device(faces, monkeypatch):
    """A recording forbids it; colour faces for a grey model are the likeliest to do so."""
    images = np.repeat(faces.images, 3, axis=1)
    learner = Learner(config(flip_tta=True), replace(faces, images=images))
    batch = next(learner.batches.epoch(0))
    assert batch[0].shape[1] == 3
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("made from Python's numbers"))
    assert learner.one_batch(*batch)["loss"].isfinite()


def test_a_run_is_the_same_however_its_steps_are_launched(faces, tmp_path):
    run = start_run(config(), faces, tmp_path)
    assert find_run(config(cuda_graph=False), faces, tmp_path).folder == run.folder
    assert find_run(config(seed=1), faces, tmp_path) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs an NVIDIA GPU")
@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2}, {"ema_decay": 0.9}, {"frozen_layers": 1}, {"precision": "no"}],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_recorded_step_learns_the_same(faces, changes, channels):
    """Also over an epoch's end, where the rate has changed and the draws begin anew."""
    faces = replace(faces, images=np.repeat(faces.images, channels, axis=1))
    rows, weights = [], []
    for recorded in (True, False):
        settings = config(epochs=3, warmup_epochs=1, cuda_graph=recorded, **changes)
        learner = Learner(settings, faces)
        assert bool(learner.recorded) == recorded
        rows.append([learner.train_epoch(epoch)["train_loss"] for epoch in range(3)])
        weights.append(nn.utils.parameters_to_vector(learner.kept.parameters()))
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=1e-2, atol=0.0)
    torch.testing.assert_close(*weights, rtol=0.1, atol=1e-2)
