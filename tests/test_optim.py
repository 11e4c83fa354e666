"""Parameter groups, schedules of the learning rate, frozen layers and clipped gradients."""

import pytest
import torch
from conftest import small
from torch import nn

from fer_lib.learner import Learner
from fer_lib.models import create_model
from fer_lib.optim import parameter_groups, schedules
from fer_lib.recipes import recipe


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
    assert lrs[:11] == pytest.approx([step / 11 for step in range(1, 12)])
    assert lrs[10:] == sorted(lrs[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def test_the_warm_up_may_be_a_part_of_an_epoch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, _ = schedules(small(epochs=10, warmup_epochs=0.5), optimizer, steps=4)
    lrs = [optimizer.param_groups[0]["lr"]]
    for _ in range(2):
        optimizer.step()
        schedule.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == pytest.approx([1 / 3, 2 / 3, 1])


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


def test_a_plateau_of_the_loss_is_where_it_no_longer_falls():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    metric = {"plateau_metric": "valid_loss", "plateau_patience": 1, "plateau_factor": 0.2}
    _, plateau = schedules(small(schedule="plateau", warmup_epochs=0, **metric), optimizer, steps=5)
    lrs = []
    for loss in (0.4, 0.3, 0.35, 0.35):
        plateau.step(loss)
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == pytest.approx([1, 1, 1, 0.2])


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


def test_gradients_are_clipped_and_sgd_trains(faces):
    sgd = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.0}
    learner = Learner(small(**sgd, clip_grad=1e-6, warmup_epochs=0), faces)
    assert learner.optimizer.param_groups[0]["momentum"] == 0.5
    before = [p.detach().clone() for p in learner.core.parameters()]
    learner.train_epoch(0)
    moved = sum(
        (p - q).square().sum() for p, q in zip(learner.core.parameters(), before, strict=True)
    )
    assert 0 < moved.sqrt() < 0.1 * 1e-6 * 2 * len(learner.batches)  # momentum 0.5: up to twice
