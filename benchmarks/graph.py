"""Training steps recorded as a CUDA graph against the same steps launched kernel by kernel.

    python benchmarks/graph.py --models baseline_cnn vit_tiny mae

Each model is trained twice by our recipe (`mae`: the masked autoencoder by its preset), from the
same random weights and draws, for two epochs on drawn faces (sample data): with `cuda_graph`, and
without. The table gives the images a second of the second epoch, by which the recording has been
made, and the mean training loss of it from both. The two do the same sums in nearly the same order,
so the losses may differ by little; where one differs by more than `TOLERANCE`, the exit status is
1. Needs an NVIDIA GPU.
"""

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from measure import environment

from fer_lib.config import TrainConfig, parse_setting
from fer_lib.data.faceset import FaceSet
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.models import MODULES
from fer_lib.pretrain import PretrainConfig, pretraining
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import recipe

TOLERANCE = 0.02
"""Largest difference of the mean training loss, relative."""


def settings(model: str, changes: dict[str, Any]) -> TrainConfig | PretrainConfig:
    """Of two epochs of a model, or of the masked autoencoder "mae"."""
    changes = {"warmup_epochs": 0.5, "epochs": 2} | changes
    if model == "mae":
        return pretraining("full", **changes)
    return recipe(model, "ours", "full", **{"pretrained": False} | changes)


def trained(
    model: str, config: TrainConfig | PretrainConfig, faces: FaceSet
) -> tuple[float, float]:
    """Images a second, and mean loss, of the second epoch."""
    learner = (MaskedLearner if model == "mae" else Learner)(config, faces)
    if bool(learner.recorded) != config.cuda_graph:
        raise InputError(f"{model} cannot be recorded as it is configured here")
    learner.train_epoch(0)
    torch.cuda.synchronize()
    start = time.perf_counter()
    row = learner.train_epoch(1)
    return row["train_images"] / (time.perf_counter() - start), row["train_loss"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    known = sorted([*MODULES, "mae"])
    add("--models", nargs="+", default=["baseline_cnn"], choices=known, metavar="MODEL")
    add("--steps", type=int, default=24, help="of an epoch")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the training")
    args = parser.parse_args(arguments)
    same = True
    try:
        if not torch.cuda.is_available():
            raise InputError("a CUDA graph needs an NVIDIA GPU, and there is none")
        print(
            f"{environment()}\n\n{args.steps} steps an epoch on drawn faces (sample data)\n\n"
            "| model | batch | recorded, images/s | launched, images/s | ratio | loss, recorded "
            "| loss, launched |\n|---|---:|---:|---:|---:|---:|---:|",
            flush=True,
        )
        changes = dict(map(parse_setting, args.set))
        configs = {model: settings(model, changes) for model in args.models}
        largest = max(config.batch_size for config in configs.values())
        faces = make_sample(largest * args.steps * 4 // 3)
        for model, config in configs.items():
            config = replace(config, limit=config.batch_size * args.steps)
            recorded, loss = trained(model, config, faces)
            launched, other = trained(model, replace(config, cuda_graph=False), faces)
            same &= abs(loss - other) <= TOLERANCE * other
            print(
                f"| {model} | {config.batch_size} | {recorded:,.0f} | {launched:,.0f} | "
                f"{recorded / launched:.2f} | {loss:.4f} | {other:.4f} |",
                flush=True,
            )
    except InputError as error:
        parser.error(str(error))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
