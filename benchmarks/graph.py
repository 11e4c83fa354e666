"""Compare training steps recorded as a CUDA graph with the same steps launched kernel by kernel.

    python benchmarks/graph.py --models baseline_cnn vit_tiny mae

Each model is trained twice by our recipe (`mae`: the masked autoencoder by its preset), from the
same random weights and with the same draws, on drawn faces (sample data): with `cuda_graph`, and
without. The two trainings run in turn, round after round, for the same number of steps; the first
round, in which the step is recorded, is not counted. A rate is the median over the rounds; a ratio
is taken within each round. Both trainings do the same sums in nearly the same order, so their mean
losses in the second epoch, the first that is replayed throughout, may differ only a little. If they
differ by more than `TOLERANCE` for any model, the exit status is 1. Needs an NVIDIA GPU.
"""

import argparse
import math
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from measure import drawn, environment, in_turn, positive, rate, table

from fer_lib.arguments import SET, parse_settings
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.models import MODULES
from fer_lib.pretrain import PretrainConfig, pretraining
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import recipe

TOLERANCE = 0.02
"""Largest relative difference allowed between the mean training losses."""

EPOCH = 24
"""Steps in an epoch; it sets the number of faces to draw."""


def settings(model: str, changes: dict[str, Any]) -> TrainConfig | PretrainConfig:
    """Return settings of a model, or of the autoencoder ("mae"), with epochs of `EPOCH` steps."""
    if model == "mae":
        config = pretraining("full", **changes)
    else:
        config = recipe(model, "ours", "full", **{"pretrained": False} | changes)
    return replace(config, limit=EPOCH * config.batch_size)


class Side:
    """One of the two trainings of a model.

    Attributes:
        losses: mean training loss of each epoch so far.

    Raises:
        InputError: steps of this model cannot be recorded with these settings.
    """

    def __init__(self, model: str, config: TrainConfig | PretrainConfig, faces: FaceSet):
        self.learner = (MaskedLearner if model == "mae" else Learner)(config, faces)
        if bool(self.learner.recorded) != config.cuda_graph:
            raise InputError(f"{model} cannot be recorded as it is configured here")
        self.losses: list[float] = []

    def train(self, epochs: int) -> int:
        """Train for some more epochs; return the number of images."""
        images = 0
        for _ in range(epochs):
            row = self.learner.train_epoch(len(self.losses))
            self.losses.append(row["train_loss"])
            images += row["train_images"]
        return images


def compare(
    model: str, config: TrainConfig | PretrainConfig, faces: FaceSet, steps: int, rounds: int
) -> tuple[list[float], list[float], float, float]:
    """Train recorded and launched in turn.

    Args:
        steps: steps in a round, rounded up to whole epochs.

    Returns:
        Images per second in each round, recorded and launched; mean training losses of the second
        epoch, recorded and launched.
    """
    epochs = math.ceil(steps / EPOCH)
    total = epochs * (rounds + 1)
    config = replace(config, epochs=total, warmup_epochs=min(config.warmup_epochs, total / 5))
    sides = {way: Side(model, replace(config, cuda_graph=way), faces) for way in (True, False)}
    parts = {
        str(way): partial(rate, partial(side.train, epochs), side.learner.device)
        for way, side in sides.items()
    }
    rates = in_turn(parts, rounds)
    second = (sides[way].losses[1] for way in (True, False))
    return rates["True"], rates["False"], *second


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    known = sorted([*MODULES, "mae"])
    add("--models", nargs="+", default=["baseline_cnn"], choices=known, metavar="MODEL")
    add("--steps", type=positive, default=240, help="steps in a round")
    add("--rounds", type=positive, default=5)
    add("--set", **SET, help="settings of the training to change")
    args = parser.parse_args(arguments)
    losses, same = [], True
    try:
        require_gpu()
        changes = parse_settings(args.set)
        configs = {model: settings(model, changes) for model in args.models}
        print(
            f"{environment()}\n\n{args.rounds} rounds of about {args.steps} steps in turn on drawn "
            "faces (sample data)\n",
            flush=True,
        )
        faces = drawn(max(config.limit for config in configs.values()))
        for model, config in configs.items():
            *rates, recorded, launched = compare(model, config, faces, args.steps, args.rounds)
            title = f"{model}, batches of {config.batch_size}"
            lines = table({title: tuple(rates)}, "recorded, images/s", "launched, images/s")
            print(lines if not losses else lines.splitlines()[-1], flush=True)
            losses.append(f"{model}: loss {recorded:.4f} recorded, {launched:.4f} launched")
            same &= abs(recorded - launched) <= TOLERANCE * launched
    except InputError as error:
        parser.error(str(error))
    print("", *losses, sep="\n")
    sys.exit(0 if same else 1)


def require_gpu() -> None:
    if not torch.cuda.is_available():
        raise InputError("a CUDA graph needs an NVIDIA GPU, and there is none")


if __name__ == "__main__":
    main()
