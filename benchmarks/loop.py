"""Compare the speed of our training loop and of the usual one: same model, faces and batch size.

    python benchmarks/loop.py
    python benchmarks/loop.py --models baseline_cnn attention_cnn
    python benchmarks/loop.py --augmentation

Ours is `fer_lib.learner.Learner.train_epoch`, which `python -m fer_lib.train` runs: all faces on
the device as uint8, `Batches`, `Prepare` (flip and affine maps of a whole batch), bf16 if
`choose_precision` chooses it, channels_last, fused AdamW, on a GPU a recorded step; no moving
average.

The usual loop is in `usual.py`: single PIL images, torchvision transforms, a DataLoader with a
worker for each core, float32, and the network written as usual. Two variants show where the ratio
comes from: the same loop with our network, and the usual network in channels_last and mixed
precision, as the reference scripts of torchvision and timm train it if they are asked to.

Both clip the gradient, leave out the last incomplete batch, and draw the same operations equally
often and equally strongly; neither validates or writes anything. Two parts are also timed alone:
the input pipeline (batches ready for the model, on its device), and the model (forward, backward
and update on one batch, again and again).

Each side runs as its user would run it, in a process of its own with as many threads as cores. The
process is freshly spawned, so that no side sees the memory and the settings of another (`Learner`
makes glibc keep the memory of freed tensors, which the usual loop does not). The two variants have
processes too, and so has our model in float32, unless ours is in float32 anyway. All live from the
first round to the last and work strictly in turn, while the others idle. Every part runs once in
each round, one after the other; the first round is not counted. The time is taken inside the
process. A rate is the median over the rounds; a ratio is taken within each round.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from statistics import median

import torch
from augmentation import AFFINE, compare_augmentation
from measure import Apart, cores, drawn, environment, in_turn, positive, table
from torch import Tensor
from usual import STYLES, Usual

from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.device import choose_precision
from fer_lib.graph import RecordedStep
from fer_lib.learner import Learner
from fer_lib.models import MODULES

IMAGES = {"cpu": 1024, "cuda": 16384}  # an epoch then takes seconds, not minutes


class Ours:
    """The loop of the project and its parts, with the methods of `Usual`."""

    def __init__(self, config: TrainConfig, faces: FaceSet):
        self.learner = Learner(config, faces)
        self.device = self.learner.device
        self.epoch = 0
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        images, self.targets = next(self.learner.batches.epoch(0))
        self.batch = self.prepare(images)
        self.step = lambda x, target: {"loss": self.learner.micro_step(x, target, {})[1]}
        if self.learner.recorded:
            recorded = RecordedStep(self.learner.optimizer, self.generator)
            self.step = partial(recorded, self.step)

    def prepare(self, images: Tensor) -> Tensor:
        augmentation = self.learner.config.augmentation
        return self.learner.prepare(images, augmentation, self.generator)

    def loop(self) -> int:
        seen = self.learner.train_epoch(self.epoch)["train_images"]
        self.epoch += 1
        return seen

    def input(self) -> int:
        return sum(len(self.prepare(images)) for images, _ in self.learner.batches.epoch(0))

    def model(self) -> int:
        steps = len(self.learner.batches)
        for _ in range(steps):
            self.step(self.batch, self.targets)
        return steps * len(self.targets)


def compare(model: str, images: int, batch_size: int, rounds: int) -> str:
    """Measure both loops and their parts with one model; return heading, table and remark."""
    config = TrainConfig(
        model=model,
        limit=images,
        batch_size=batch_size,
        schedule="constant",
        clip_grad=1.0,
        augmentation=AFFINE,
    )
    faces = drawn(images)
    precision = choose_precision(config.precision).replace("no", "float32")
    sides = {"ours": (Ours, config, faces)}
    if precision != "float32":
        sides["float32"] = (Ours, replace(config, precision="no"), faces)
    sides |= {style: (Usual, config, faces, cores(), style) for style in STYLES}
    pairs = {
        "whole loop": ("ours loop", "usual loop"),
        "whole loop, the usual one with our network": ("ours loop", "our network loop"),
        "whole loop, the reference style": ("ours loop", "reference loop"),
        "input alone": ("ours input", "usual input"),
        f"model alone, ours in {precision}": ("ours model", "usual model"),
    }
    if precision != "float32":
        pairs["model alone, ours in float32"] = ("float32 model", "usual model")
    with ExitStack() as running:
        apart = {name: running.enter_context(Apart(*side)) for name, side in sides.items()}
        device, *_ = [side.ready.result() for side in apart.values()]
        parts = {}
        for name in dict.fromkeys(chain(*pairs.values())):
            side, part = name.rsplit(" ", 1)
            parts[name] = partial(apart[side].rate, part)
        rates = in_turn(parts, rounds)
    rows = {title: tuple(rates[part] for part in pair) for title, pair in pairs.items()}
    reached = {}
    for side in ("ours", "usual"):
        pairs = zip(rates[f"{side} loop"], rates[f"{side} model"], strict=True)
        reached[side] = median(loop / alone for loop, alone in pairs)
    heading = (
        f"{model} on {device.type}: images/s in batches of {batch_size}, {images:,} drawn faces "
        f"({faces.mark}), {rounds} rounds, a process for each side with {cores()} threads, "
        f"{cores()} workers in the usual loop"
    )
    remark = (
        f"Our loop reaches {reached['ours']:.0%} of the speed of its model alone, the usual one "
        f"{reached['usual']:.0%}: a faster input could gain at most the rest."
    )
    return "\n\n".join([heading, table(rows, "ours", "usual"), remark])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", default=["baseline_cnn"], choices=sorted(MODULES), metavar="MODEL")
    add("--images", type=positive, help="training faces; default 1,024, on a GPU 16,384")
    add("--batch-size", type=positive, default=64)
    add("--rounds", type=positive, default=3)
    add("--augmentation", action="store_true", help="measure the augmentation alone instead")
    args = parser.parse_args(arguments)
    usual = IMAGES["cuda" if torch.cuda.is_available() else "cpu"]
    images = usual if args.images is None else args.images
    if args.batch_size > images:
        parser.error("--images must be at least --batch-size")
    print(environment(), flush=True)
    if args.augmentation:
        print(f"\n{compare_augmentation(images, args.rounds)}")
        return
    for model in args.models:
        print(f"\n{compare(model, images, args.batch_size, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
