"""Training steps recorded as CUDA graphs: when they are used, and that they train the same."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fer_lib import graph
from fer_lib.augment import Augmentation
from fer_lib.config import TrainConfig
from fer_lib.data.sample import make_sample
from fer_lib.device import choose_precision
from fer_lib.files import InputError
from fer_lib.graph import recordable
from fer_lib.learner import Learner
from fer_lib.models import MODULES, create_model
from fer_lib.pretrain import autoencoder, pretraining
from fer_lib.pretrain.autoencoder import attention
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import recipe
from fer_lib.runs import find_run, start_run


@pytest.fixture(scope="module")
def faces():
    return make_sample(400)


UNRECORDABLE = {
    "aten._local_scalar_dense",  # .item()
    "aten.lift_fresh",  # a tensor of Python's numbers
    "aten.nonzero",
    "aten.masked_select",
    "aten._unique2",
    "aten.unique_consecutive",
    "aten.equal",
    "aten.bincount",
}
"""Operations that copy from the host or whose result, or its shape, the host waits for."""


class Operations(TorchDispatchMode):
    """Count all operations in a block by name, including those of backward passes."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func.overloadpacket)] += 1
        if func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            self.names["aten.nonzero"] += 1  # which indexing with a mask calls
        return func(*args, **kwargs or {})


EVERY = Augmentation(
    flip=0.5, affine=1.0, rotate=10, translate=0.1, scale=(0.9, 1.1), crop=(0.8, 1.0),
    photometric=0.5, brightness=0.2, contrast=0.2, noise=0.2, dropout=0.3, erase=0.25,
)  # fmt: skip

needs_bf16_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and choose_precision() == "bf16"),
    reason="a recording needs an NVIDIA GPU that computes in bf16",
)


def on_one(monkeypatch, device: str) -> None:
    here = SimpleNamespace(device=torch.device(device), num_processes=1)
    monkeypatch.setattr(graph, "processes", lambda: here)


def vector(model: nn.Module) -> torch.Tensor:
    """Return a copy of all weights of a model as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


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
        ({"compile": True}, True),
    ],
)
def test_only_supported_trainings_on_one_gpu_are_recorded(faces, monkeypatch, changes, expected):
    on_one(monkeypatch, "cpu")
    assert Learner(config(), faces).recorded is None
    assert MaskedLearner(pretraining("sample"), faces).recorded is None
    settings, model = config(**changes), nn.Linear(1, 1)
    assert not recordable(settings, model, settings.precision)
    on_one(monkeypatch, "cuda")
    assert recordable(settings, model, settings.precision) == expected


def test_a_model_with_shapes_that_depend_on_values_is_not_recorded(monkeypatch):
    small = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    options = {"img_size": 48, "in_chans": 1, "backbone_options": small}
    on_one(monkeypatch, "cuda")
    models = {name: create_model(name, **options) for name in ("vit_moe", "grefel")}
    assert {name: recordable(config(), core, "bf16") for name, core in models.items()} == {
        "vit_moe": False,
        "grefel": True,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="the optimizer notices that none is recorded")
@pytest.mark.parametrize("model", [*MODULES, "mae"])
def test_a_step_neither_copies_to_the_device_nor_waits_for_it(faces, model, monkeypatch):
    """A recording forbids both, so `vit_moe`, which needs such operations, is not recorded.

    The faces are in colour because a step that turns them grey is the most likely to copy.
    """
    # transformers behaves differently during a recording, and the autoencoder has another attention
    # on a GPU.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(autoencoder, "attention", lambda device: attention("cuda"))
    faces = replace(faces, images=np.repeat(faces.images, 3, axis=1))
    if model == "mae":
        learner = MaskedLearner(pretraining("sample", batch_size=16), faces)
    else:
        changes = {"batch_size": 16, "mixup": 0.2, "cutmix": 1.0, "clip_grad": 1.0}
        draws = {"augmentation": EVERY, "ema_decay": 0.9}
        learner = Learner(recipe(model, "ours", "sample", **changes, **draws), faces)
    batch = next(learner.batches.epoch(0))
    assert batch[0].shape[1] == 3
    with Operations() as seen:
        done = learner.train_step(*batch)
    assert done["loss"].isfinite()
    assert {"aten.convolution", "aten.convolution_backward"} <= seen.names.keys()
    bad = seen.names.keys() & UNRECORDABLE
    assert bool(bad) == (model == "vit_moe"), bad


def test_operations_that_cannot_be_recorded_are_detected():
    x = torch.arange(3.0)
    for bad, name in (
        (lambda: x[x > 1], "aten.nonzero"),
        (lambda: x.sum().item(), "aten._local_scalar_dense"),
        (lambda: torch.tensor([1.0]), "aten.lift_fresh"),
    ):
        with Operations() as seen:
            bad()
        assert seen.names.keys() & UNRECORDABLE == {name}


def test_an_epoch_waits_for_the_device_as_often_with_more_steps(faces):
    counts = []
    for steps in (2, 4):
        learner = Learner(config(limit=16 * steps, ema_decay=0.9, cuda_graph=False), faces)
        learner.train_epoch(0)
        with Operations() as seen:
            learner.train_epoch(1)
        assert len(learner.batches) == steps
        counts.append(sum(seen.names[name] for name in UNRECORDABLE))
    assert counts[0] == counts[1] > 0  # the sums are read once per epoch


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError, InputError, r"\(the first error\): train with cuda_graph=false"),
        (torch.OutOfMemoryError, torch.OutOfMemoryError, "^the first error$"),
    ],
)
def test_a_failed_recording_reports_the_first_error(monkeypatch, error, raised, message):
    class Recording:
        def __enter__(self):
            pass

        def __exit__(self, *error):  # like torch's after a failed capture
            raise RuntimeError("operation failed due to a previous error during capture")

    def step(images, targets):
        raise error("the first error")

    nothing = SimpleNamespace(register_generator_state=lambda generator: None)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: nothing)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: Recording())
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.5)
    recorded = graph.RecordedStep(optimizer, torch.Generator())
    with pytest.raises(raised, match=message):
        recorded.record(step, torch.zeros(1), torch.zeros(1))
    assert recorded.graph is None
    (group,) = optimizer.param_groups
    assert (group["lr"], group["capturable"]) == (0.5, False)


def test_a_run_is_found_with_any_value_of_cuda_graph(faces, tmp_path):
    run = start_run(config(), faces, tmp_path)
    assert find_run(config(cuda_graph=False), faces, tmp_path).folder == run.folder
    assert find_run(config(seed=1), faces, tmp_path) is None


@needs_bf16_gpu
@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2}, {"ema_decay": 0.9}, {"frozen_layers": 1}, {"precision": "no"}],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_recorded_steps_train_like_normal_steps(faces, changes, channels):
    """This includes the start of an epoch: a new learning rate, and a generator seeded again."""
    faces = replace(faces, images=np.repeat(faces.images, channels, axis=1))
    rows, weights = [], []
    for recorded in (True, False):
        settings = config(epochs=3, warmup_epochs=1, cuda_graph=recorded, **changes)
        learner = Learner(settings, faces)
        weights[:1] = [vector(learner.kept)]
        assert bool(learner.recorded) == recorded
        rows.append([learner.train_epoch(epoch)["train_loss"] for epoch in range(3)])
        weights.append(vector(learner.kept))
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=1e-2, atol=0.0)
    assert (weights[1] - weights[2]).norm() < 0.1 * (weights[1] - weights[0]).norm()


@needs_bf16_gpu
@pytest.mark.parametrize("precision", ["no", "auto"])
def test_recorded_steps_pretrain_like_normal_steps(faces, precision):
    rows, weights = [], []
    for recorded in (True, False):
        settings = pretraining("sample", epochs=3, precision=precision, cuda_graph=recorded)
        learner = MaskedLearner(settings, faces)
        weights[:1] = [vector(learner.model)]
        assert bool(learner.recorded) == recorded
        rows.append([learner.train_epoch(epoch)["train_loss"] for epoch in range(3)])
        weights.append(vector(learner.model))
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=1e-2, atol=0.0)
    assert (weights[1] - weights[2]).norm() < 0.1 * (weights[1] - weights[0]).norm()
