"""How long an entry takes alone on an H100: assumed first, then as it was measured.

The five constants below are rough readings of the runs of 2026-11-26 (`README.md`). A step takes
the longer of its arithmetic (operations of a forward pass of one image, as torch's FlopCounterMode
counts them on the meta device, times three with the backward pass; of a head on tokens nothing) and
the starting of its kernels, where it is not recorded; a batch of validation takes a third of it,
and always starts its kernels. Once an entry has done `ENOUGH` epochs, what
these took counts, and the times of other entries are scaled by it.
"""

import json
import math
from functools import cache

import pandas as pd
import torch
from entries import Entry, Place, Refinement
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.config import TrainConfig
from fer_lib.data.counts import FER2013
from fer_lib.graph import static_shapes
from fer_lib.models import create_model
from fer_lib.pretrain import PretrainConfig
from fer_lib.pretrain.autoencoder import build_autoencoder

RATE = 60e12
"""Operations a second: between the 30e12 of a small network and the 220e12 of a ViT-B."""

STEP, LAUNCH = 1.5e-3, 150e-6
"""Seconds of a step to start kernels: of input and loop, and for each tensor of parameters."""

SAVE = 500e6
"""Bytes a second of the state that is saved after an epoch, beside the next one."""

START = 15.0
"""Seconds of an entry beside its epochs: building, first kernels, scores, figures, packing."""

ENOUGH = 3
"""Epochs after which their measured time counts: the first ones warm up."""

IMAGES = {split: sum(counts) for split, counts in FER2013.items()}


@cache
def counted(name: str, options: str) -> tuple[int, int, int, bool]:
    """Operations of a forward pass of one image, tensors of parameters, bytes of parameters, and
    whether all shapes are known beforehand.

    Args:
        name: of the model, or "mae" for a pretraining.
        options: of its constructor, or all settings of the pretraining, as JSON.
    """
    if name == "mae":
        config = PretrainConfig.from_dict(json.loads(options))
        model = core = build_autoencoder(config).to("meta")
        size, arguments = (
            config.pretrained_cfg["input_size"],
            {"noise": torch.rand(1, config.patches)},
        )
    else:
        with torch.device("meta"):  # shapes without numbers
            model = create_model(name, **json.loads(options)).eval()
        size, arguments = model.pretrained_cfg["input_size"], {}
        core = getattr(model, "backbone", model)
    arguments = {key: value.to("meta") for key, value in arguments.items()}
    with FlopCounterMode(display=False) as counter:
        core(torch.empty(1, *size, device="meta"), **arguments)
    parameters = list(model.parameters())
    size = sum(p.nbytes for p in parameters)
    return counter.get_total_flops(), len(parameters), size, static_shapes(model)


def network(config: TrainConfig | PretrainConfig) -> tuple[int, int, int, bool]:
    """`counted` of the network of a config."""
    pretrains = isinstance(config, PretrainConfig)
    name, options = ("mae", config.to_dict()) if pretrains else (config.model, config.options)
    return counted(name, json.dumps(options))


def assumed(config: TrainConfig | PretrainConfig) -> float:
    """Seconds of an epoch on the images of FER2013 and of its validation."""
    pretrains = isinstance(config, PretrainConfig)
    flops, tensors, _, static = network(config)
    recorded = static and (config.training if pretrains else config).may_record
    arithmetic = lambda n: 3 * flops * n / RATE
    starting = STEP + LAUNCH * tensors
    step = max(arithmetic(config.batch_size), STEP if recorded else starting)
    views = 1 if pretrains else (1 + bool(config.ema_decay)) * (1 + config.flip_tta)
    training = IMAGES["train"] // config.batch_size * step
    validation = views * math.ceil(IMAGES["valid"] / 512) * max(arithmetic(512), starting) / 3
    return training + validation


def saving(config: TrainConfig | PretrainConfig) -> float:
    """Seconds to save the state after an epoch; the next one may be over before."""
    copies = 3 + bool(getattr(config, "ema_decay", 0))  # weights, two moments, their average
    return copies * network(config)[2] / SAVE


def measured(rows: pd.DataFrame | None) -> float | None:
    """Seconds of an epoch, the mean of the last three; None before there are `ENOUGH`."""
    return None if rows is None or len(rows) < ENOUGH else rows["seconds"].tail(3).mean()


def left(entry: Entry, place: Place | None = None, factor: float = 1.0) -> float:
    """Seconds that an entry still takes; without a place, the whole of it.

    Args:
        factor: of measured to assumed times, of other entries.
    """
    if isinstance(entry, Refinement):
        each = [one.epochs * max(saving(one), assumed(one)) for one in entry.configs(place)]
        return START + entry.folds * sum(START / 3 + factor * seconds for seconds in each)
    config, rows = entry.config(place), place and entry.progress(place)
    epochs = config.epochs - (0 if rows is None else len(rows))
    return START + epochs * max(saving(config), measured(rows) or factor * assumed(config))
