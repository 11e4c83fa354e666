"""Estimate how long an entry takes alone on an H100: from assumed rates, then from measured epochs.

The five constants below are rough readings of the runs of 2026-11-26 (`README.md`). A training step
takes the longer of its arithmetic and its launch. Arithmetic is the operations of a forward pass of
one image, as torch's FlopCounterMode counts them on the meta device (of a model with a `backbone`,
only the backbone's), times three to include the backward pass. The launch of the kernels takes
time for every tensor of parameters, unless the step is recorded. A batch of validation takes a
third of a step, and its kernels are always launched. Once an entry has done `ENOUGH` epochs, their
measured time is used, and the times of other entries are scaled by it.
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
"""Operations per second: between the 30e12 of a small network and the 220e12 of a ViT-B."""

STEP, LAUNCH = 1.5e-3, 150e-6
"""Seconds to launch the kernels of a step: input and loop, and each tensor of parameters."""

SAVE = 500e6
"""Bytes per second at which the state is saved after an epoch, during the next one."""

START = 15.0
"""Seconds of an entry outside its epochs: building, first kernels, scores, figures, packing."""

ENOUGH = 3
"""Number of epochs after which their measured time is used: the first ones warm up."""

IMAGES = {split: sum(counts) for split, counts in FER2013.items()}


@cache
def counted(name: str, options: str) -> tuple[int, int, int, bool]:
    """Count the operations and the parameters of a network.

    Args:
        name: name of the model, or "mae" for a pretraining.
        options: options of the model's constructor, or all settings of the pretraining, as JSON.

    Returns:
        Operations of a forward pass of one image, number of parameter tensors, bytes of all
        parameters, and whether all shapes are known before anything is computed.
    """
    if name == "mae":
        config = PretrainConfig.from_dict(json.loads(options))
        model = core = build_autoencoder(config).to("meta")
        size = config.pretrained_cfg["input_size"]
        arguments = {"noise": torch.empty(1, config.patches, device="meta")}
    else:
        with torch.device("meta"):  # shapes without numbers
            model = create_model(name, **json.loads(options)).eval()
        size, arguments = model.pretrained_cfg["input_size"], {}
        core = getattr(model, "backbone", model)
    with FlopCounterMode(display=False) as counter:
        core(torch.empty(1, *size, device="meta"), **arguments)
    sizes = [p.nbytes for p in model.parameters()]
    return counter.get_total_flops(), len(sizes), sum(sizes), static_shapes(model)


def network(config: TrainConfig | PretrainConfig) -> tuple[int, int, int, bool]:
    """Return what `counted` returns for the network of a config."""
    pretrains = isinstance(config, PretrainConfig)
    name, options = ("mae", config.to_dict()) if pretrains else (config.model, config.options)
    return counted(name, json.dumps(options))


def assumed(config: TrainConfig | PretrainConfig) -> float:
    """Estimate the seconds of an epoch on FER2013, validation included."""
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
    """Estimate the seconds to save the state after an epoch; the next epoch may end earlier."""
    copies = 3 + bool(getattr(config, "ema_decay", 0))  # weights, two moments, their average
    return copies * network(config)[2] / SAVE


def measured(rows: pd.DataFrame | None) -> float | None:
    """Return the mean seconds of the last three epochs; None before there are `ENOUGH`."""
    return None if rows is None or len(rows) < ENOUGH else rows["seconds"].tail(3).mean()


def left(entry: Entry, place: Place | None = None, factor: float = 1.0) -> float:
    """Estimate the seconds that an entry still takes.

    Args:
        place: where its run is looked for. None: the whole entry is estimated, as a refinement
            always is.
        factor: ratio of measured to assumed times in other entries.
    """
    if isinstance(entry, Refinement):
        each = [one.epochs * max(saving(one), assumed(one)) for one in entry.configs(place)]
        return START + entry.folds * sum(START / 3 + factor * seconds for seconds in each)
    config, rows = entry.config(place), place and entry.progress(place)
    epochs = config.epochs - (0 if rows is None else len(rows))
    return START + epochs * max(saving(config), measured(rows) or factor * assumed(config))
