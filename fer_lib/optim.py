"""Layers, parameter groups, optimizer and learning-rate schedules of a training."""

from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

from fer_lib.config import TrainConfig
from fer_lib.files import InputError, first_line


def layers(model: nn.Module) -> list[list[str]]:
    """Return the parameter names of each layer, from the input to the head (timm's order)."""
    grouped = group_parameters(model, model.group_matcher(coarse=False))
    return [grouped[number] for number in sorted(grouped)]


def require_layers(model: nn.Module, config: TrainConfig) -> None:
    """Raise InputError if a config freezes all layers of a model, so that nothing would learn."""
    if config.frozen_layers >= (depth := len(layers(model))):
        raise InputError(
            f"{config.model} has {depth} layers, the last with the head, so frozen_layers is at "
            f"most {depth - 1}, not {config.frozen_layers}"
        )


def freeze(model: nn.Module, count: int) -> None:
    """Freeze the first `count` layers: no gradients, evaluation mode. All others get gradients.

    Without evaluation mode, dropout and batch statistics of the frozen layers would still change
    what later layers see.
    """
    frozen = {name for layer in layers(model)[:count] for name in layer}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    if count:  # parts of a ViT's embedding that may have no parameters, so were not found above
        vit = getattr(model, "backbone", model)
        for name in ("pos_drop", "patch_drop", "norm_pre"):
            if hasattr(vit, name):
                getattr(vit, name).eval()


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameter groups of the optimizer, with every parameter in one of them.

    The learning rate can differ between layers and for the head. Norms, biases and what the
    model's `no_weight_decay()` names have no decay. Parameters with the same rate and decay form
    one group, so that the optimizer is called less often.
    """
    skip = getattr(model, "no_weight_decay", set)()
    head = {id(p) for p in model.get_classifier().parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in param_groups_layer_decay(
        model, config.weight_decay, skip, layer_decay=config.layer_decay
    ):
        for parameter in group["params"]:
            scale = config.head_lr_scale if id(parameter) in head else 1.0
            key = config.lr * group["lr_scale"] * scale, group["weight_decay"]
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def create_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Create the optimizer of a config with timm, on the groups of `parameter_groups`.

    Raises:
        InputError: timm has no optimizer of this name, or the optimizer does not take the settings
            or needs second derivatives.
    """
    # timm itself ignores what stands before the last underscore, whatever it is.
    if config.optimizer.removeprefix("lookahead_") not in list_optimizers():
        raise InputError(
            f"optimizer {config.optimizer!r} is unknown to timm: use a name of "
            "timm.optim.list_optimizers()"
        )
    fused = {"fused": True} if config.optimizer == "adamw" else {}
    try:
        optimizer = create_optimizer_v2(
            parameter_groups(model, config),
            opt=config.optimizer,
            lr=config.lr,
            momentum=config.momentum,
            **fused,
        )
    except (ValueError, AssertionError, ImportError) as error:
        reason = first_line(error)
        plain = "" if config.momentum else ": plain SGD is optimizer=momentum"
        raise InputError(
            f"optimizer={config.optimizer} does not take these settings ({reason}){plain}"
        ) from error
    if getattr(optimizer, "is_second_order", False):
        raise InputError(
            f"optimizer={config.optimizer} needs second derivatives, which are not computed here: "
            "use another one"
        )
    return optimizer


def schedules(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int
) -> tuple[LRScheduler, ReduceLROnPlateau | None]:
    """Create the learning-rate schedules of a config.

    Args:
        steps: number of batches in an epoch.

    Returns:
        A schedule to step after every batch, and one to step with the value of `plateau_metric`
        after an epoch, which is None unless `config.schedule` is "plateau".
    """
    warmup = round(config.warmup_epochs * steps)
    if config.schedule == "cosine":
        main = CosineAnnealingLR(optimizer, T_max=max(1, config.epochs * steps - warmup))
    else:
        main = ConstantLR(optimizer, factor=1.0, total_iters=0)
    if warmup:
        linear = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        main = SequentialLR(optimizer, [linear, main], milestones=[warmup])
    plateau = None
    if config.schedule == "plateau":
        mode = "min" if config.plateau_metric == "valid_loss" else "max"
        plateau = ReduceLROnPlateau(
            optimizer, mode, factor=config.plateau_factor, patience=config.plateau_patience
        )
    return main, plateau
