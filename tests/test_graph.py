"""Recorded training steps: where they are used, and that they learn the same."""

import pytest
import torch
from torch import nn

from fer_lib.config import TrainConfig
from fer_lib.data.sample import make_sample
from fer_lib.learner import Learner
from fer_lib.models import create_model


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs an NVIDIA GPU")
def test_a_recorded_step_learns_the_same(faces):
    """Also over an epoch's end, where the rate has changed and the draws begin anew."""
    rows, weights = [], []
    for recorded in (True, False):
        learner = Learner(config(epochs=3, warmup_epochs=1, cuda_graph=recorded), faces)
        assert bool(learner.recorded) == recorded
        rows.append([learner.train_epoch(epoch)["train_loss"] for epoch in range(3)])
        weights.append(nn.utils.parameters_to_vector(learner.core.parameters()))
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=1e-2, atol=0.0)
    torch.testing.assert_close(*weights, rtol=0.1, atol=1e-2)
