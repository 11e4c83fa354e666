"""The learner: a step and its loss, validation, compiled models, memory on the device."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small
from timm.models import register_model
from torch import nn

from fer_lib import learner as learner_module
from fer_lib.augment import Augmentation
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.losses import inverse_frequency
from fer_lib.models import MODULES, create_model
from fer_lib.recipes import recipe


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
    assert learner.core.training


def test_the_average_is_validated_and_the_weights_themselves_beside_it(faces, monkeypatch):
    learner = Learner(small(ema_decay=0.9), faces)
    scores = {learner.ema.module: 0.6, learner.core: 0.5}
    validate = lambda model, precision: {"valid_accuracy": scores[model]}
    monkeypatch.setattr(learner.held_out, "validate", validate)
    wanted = {"valid_accuracy": 0.6, "valid_accuracy_unaveraged": 0.5}
    assert learner.validate() == wanted
    assert learner.kept is learner.ema.module


def test_random_draws_depend_on_the_seed_and_the_epoch(faces):
    drawn, weights = set(), set()
    for seed in (0, 1):
        learner = Learner(small(seed=seed, limit=32, schedule="cosine", warmup_epochs=0), faces)
        weights.add(next(learner.core.parameters())[0, 0, 0, 0].item())
        assert learner.batches.seed == seed
        for epoch in (0, 1):
            learner.train_epoch(epoch)
            drawn |= {torch.initial_seed(), learner.generator.initial_seed()}
    assert (len(drawn), len(weights)) == (8, 2)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0)  # after the last epoch


def test_images_are_mixed_as_the_settings_say(faces, monkeypatch):
    seen = []
    note = lambda x, target, _, **shares: seen.append(shares) or (x, target)
    monkeypatch.setattr(learner_module, "mix", note)
    Learner(small(limit=32, mixup=0.1, cutmix=0.2), faces).train_epoch(0)
    assert seen == [{"mixup": 0.1, "cutmix": 0.2}]


def test_votes_of_which_none_is_for_an_emotion_are_refused(faces):
    mute = faces.subset(np.arange(len(faces)))
    mute.votes = np.zeros_like(faces.votes)
    with pytest.raises(InputError, match="no training image of sample has an emotion vote"):
        Learner(small(labels="votes"), mute)


def test_accumulation_does_not_change_the_step(faces, monkeypatch):
    # Without batch statistics the gradient of a batch is the mean over its parts.
    monkeypatch.setattr(learner_module, "freeze", lambda core, count: core.eval())

    rows = []

    def weights(accumulate):
        plain = {"precision": "no", "augmentation": Augmentation(), "clip_grad": None}
        learner = Learner(small(accumulate=accumulate, **plain), faces)
        Learner(small(accumulate=5 - accumulate, **plain), faces)  # does not change the first one
        rows.append(learner.train_epoch(0))
        return torch.cat([p.detach().flatten() for p in learner.core.parameters()])

    torch.testing.assert_close(weights(1), weights(4), atol=2e-5, rtol=1e-3)
    assert rows[1] == pytest.approx(rows[0], rel=1e-3)  # loss and accuracy are over all parts


def test_a_step_counts_the_right_answers_of_every_part(faces, monkeypatch):
    learner = Learner(small(accumulate=2, batch_size=8, limit=8), faces)
    first = lambda x, *_: (torch.eye(7)[[0] * len(x)], torch.tensor(2.0))
    monkeypatch.setattr(learner, "micro_step", first)
    images, _ = next(learner.batches.epoch(0))
    done = learner.train_step(images, torch.eye(7)[[0, 0, 0, 1, 0, 1, 1, 1]])
    assert {name: value.item() for name, value in done.items()} == {"loss": 2, "right": 4}


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


def test_dropout_and_augmentation_draw_different_numbers(faces):
    learner = Learner(recipe("baseline_cnn", "ours", "sample", limit=64), faces)
    learner.train_epoch(0)
    apart = learner.generator.initial_seed() - torch.initial_seed()
    assert apart % 2**32  # all that a CPU's generator takes of a seed
    assert apart > 2**32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_step_waits_for_the_gpu(faces):
    learner = Learner(recipe("attention_cnn", "ours", "sample", precision="bf16"), faces)
    images, soft = next(learner.batches.epoch(0))
    generator = torch.Generator(learner.device).manual_seed(0)
    x = learner.prepare(images, learner.config.augmentation, generator)
    learner.micro_step(x, soft, {})
    torch.cuda.set_sync_debug_mode("error")
    try:
        x = learner.prepare(images, learner.config.augmentation, generator)
        learner.micro_step(x, soft, {})
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


def test_the_decay_of_the_moving_average_warms_up_to_its_value(faces):
    learner = Learner(small(ema_decay=0.8), faces)
    decays = [learner.ema.get_decay(step) for step in (1, 2, 10, 1000)]
    assert decays == pytest.approx([1 - step ** (-2 / 3) for step in (1, 2, 10)] + [0.8])
    plain = Learner(small(ema_decay=0.8, ema_warmup=False), faces)
    assert [plain.ema.get_decay(step) for step in (2, 1000)] == [0.8, 0.8]
    steps = []
    learner.ema.update = lambda core, step: steps.append(step)
    learner.train_epoch(0)
    assert steps == list(range(1, len(learner.batches) + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"class_weights": True, "label_smoothing": 0.0},
        {"class_weights": False, "label_smoothing": 0.1},
    ],
)
def test_the_loss_on_soft_targets_equals_the_closed_form(faces, changes):
    learner = Learner(small(**changes), faces)
    known = learner.batches.targets
    weights = inverse_frequency(known) if learner.config.class_weights else torch.ones(7)
    soft, x = torch.softmax(torch.randn(16, 7), 1), torch.randn(16, 1, 48, 48)
    soft, x, weights = (one.to(learner.device) for one in (soft, x, weights))
    logits, loss = learner.micro_step(x, soft, {})
    smooth = learner.config.label_smoothing
    target = (1 - smooth) * soft + smooth / 7
    expected = -(weights * target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert loss.dtype == torch.float32


def test_auxiliary_losses_are_added_to_the_loss_and_logged(faces, tmp_path, monkeypatch):
    @register_model
    def with_anchor(pretrained=False, num_classes=7, **_):
        core = create_model("baseline_cnn", num_classes=num_classes, width=4)
        core.anchor = nn.Parameter(torch.ones(3))
        core.auxiliary_losses = lambda targets: {"spread": core.anchor.pow(2).sum()}
        core.statistics = lambda: {"load": torch.tensor(100.0)}
        return core

    monkeypatch.setitem(MODULES, "with_anchor", "cnn")
    config = recipe("baseline_cnn", "ours", "sample", epochs=1, ema_decay=0.0, accumulate=2)
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
