"""Measure images per second and peak memory of training as it grows, as tables and a figure.

    python benchmarks/growth.py
    python benchmarks/growth.py --models vit_patch --batch-sizes 64 256 --sides 48 96 --repeats 1

`fer_lib.learner.Learner.train_epoch` runs on drawn faces (sample data: speed does not depend on
what a picture shows), repeated to the number of training images in FER2013. One thing grows at a
time: the batch, at each model's own input size; the side of the input, for which a ViT is then
built; and the number of images, with the first model alone. Images are kept on the device if they
take at most half of its free memory, else on the host, from which batches are streamed
(`fer_lib.batches.placed`); on a GPU, further lines keep them on the host on purpose.

Every point is measured in a new process, so its peak of memory is its own. Four steps warm up, two
more give the speed from which the number of measured steps is chosen, at least two; past the end of
an epoch its order begins again. The order is drawn before the steps, and its time is given as a
share of a whole epoch. A process that the system ends counts as out of memory: on Linux each
process asks to be the first that is ended.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import measure
import seaborn as sns
import torch
from augmentation import AFFINE
from matplotlib.ticker import LogLocator
from measure import Apart, cores, environment, rate
from torch import Tensor

from fer_lib.augment import Prepare
from fer_lib.batches import Batches, placed
from fer_lib.config import TrainConfig
from fer_lib.data.counts import FER2013
from fer_lib.data.faceset import FaceSet
from fer_lib.data.sample import make_sample
from fer_lib.device import choose_precision
from fer_lib.learner import Learner
from fer_lib.models import MODULES, create_model
from fer_lib.plots.style import MARKERS, new_figure, save
from fer_lib.provenance import processor

IMAGES = sum(FER2013["train"])
DRAWN = 4000  # training faces; a quarter as many are held out
NO_MEMORY = "MemoryError|BrokenProcessPool|out of memory|allocate memory|ALLOC_FAILED"
SMALLEST = 8  # pixels a side, of which three poolings leave one


class Cost(NamedTuple):
    """Speed and memory of a point."""

    speed: float  # images/s
    memory: int  # peak, bytes
    before: int  # the same before the images and the first step
    order: float  # share of an epoch that drawing its order takes, 0..1
    place: str  # type of the device where the images lie


Rows = list[tuple[str, int, Cost | None]]  # line of the figure, size, None: out of memory


class Steps(Batches):
    """A set number of steps in an order drawn beforehand, which begins again when it ends."""

    steps = 2

    def draw(self) -> int:
        """Draw the order and copy it to the device, as an epoch does; return its length."""
        self.order = super().permutation(0)
        return len(self.order.to(self.targets.device))

    def __len__(self) -> int:
        return self.steps

    def permutation(self, epoch: int) -> Tensor:
        return self.order[torch.arange(self.steps * self.batch_size) % len(self.order)]


class Point:
    """One training on images of `side` pixels a side (None: the model's own input size)."""

    def __init__(self, config: TrainConfig, faces: FaceSet, side: int | None):
        self.learner = Learner(config, faces)
        self.device = self.learner.device
        if side:
            cfg = self.learner.core.pretrained_cfg
            size = {"input_size": (cfg["input_size"][0], side, side)}
            self.learner.prepare = Prepare(cfg | size, self.device)

    def train(self) -> int:
        return self.learner.train_epoch(0)["train_images"]

    def cost(self, seconds: float, number: int, host: bool) -> Cost:
        """Measure steps for about `seconds` on `number` images.

        Args:
            host: keep the images on the host.
        """
        before, few = self.memory(), self.learner.batches
        rows = torch.arange(number) % len(few.images)
        images, soft = few.images.cpu()[rows], few.targets[rows.to(self.device)]
        images = images if host else placed(images, self.device)
        batches = Steps(images, soft, batch_size=self.learner.config.batch_size)
        self.learner.batches = batches
        drawn = rate(batches.draw, self.device)
        for _ in range(2):  # warms up: a recording begins with the fourth step
            self.train()
        batches.steps = max(2, round(seconds * rate(self.train, self.device) / batches.batch_size))
        speed = rate(self.train, self.device)
        order = speed / (speed + drawn)  # of images / drawn + images / speed
        memory = max(before, self.memory())  # Linux counts pages approximately
        return Cost(speed, memory, before, order, batches.images.device.type)

    def memory(self) -> int:
        """Return the peak bytes allocated by PyTorch on a GPU, or held by the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if (status := Path("/proc/self/status")).exists():
            return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
        from resource import RUSAGE_SELF, getrusage  # Windows has no such module

        return getrusage(RUSAGE_SELF).ru_maxrss  # on Linux it would include the parent's memory


def cost_here(*arguments: Any) -> Cost:
    """Call `cost` of this process's point; out of memory, Linux ends this process first."""
    if (offer := Path("/proc/self/oom_score_adj")).exists():
        offer.write_text("1000")
    return measure.here.cost(*arguments)


def measured(
    faces: FaceSet, seconds: float, model: str, *, batch_size: int = 64,
    images: int = IMAGES, side: int | None = None, host: bool = False,
) -> Cost | None:  # fmt: skip
    """Measure a point in a new process; return None if it runs out of memory."""
    config = TrainConfig(
        model, options={"img_size": side} if side and patch_size(model) else {},
        batch_size=batch_size, schedule="constant", clip_grad=1.0, augmentation=AFFINE,
    )  # fmt: skip
    try:
        with Apart(Point, config, faces, side) as apart:
            apart.ready.result()
            return apart.submit(cost_here, seconds, images, host).result()
    except (MemoryError, RuntimeError) as error:  # PyTorch has no error type for it on a CPU
        if not re.search(NO_MEMORY, repr(error)):
            raise
        return None


@cache
def patch_size(model: str) -> int | None:
    """Return the side of a ViT's patches in pixels; None for a CNN, which takes any input side."""
    with torch.device("meta"):
        modules = create_model(model).modules()
    return next((m.patch_embed.patch_size[0] for m in modules if hasattr(m, "patch_embed")), None)


def points(args: argparse.Namespace, cost: Callable[..., Cost | None]) -> Iterator[tuple]:
    """Yield the name of each thing that grows, and its rows, measured when they are asked for."""
    models, first = args.models, args.models[0]
    yield "batch size", [(m, n, cost(m, batch_size=n)) for m in models for n in args.batch_sizes]
    yield "input side, pixels", [(m, n, cost(m, side=n)) for m in models for n in args.sides]
    sizes, on_host = [n * IMAGES for n in args.repeats], f"{first}, images on the host"
    rows = [(first, n, cost(first, images=n)) for n in sizes]
    if torch.cuda.is_available():
        rows += [(on_host, n, cost(first, images=n, host=True)) for n in sizes]
    yield "training images", rows


def table(what: str, rows: Rows) -> str:
    """Return a Markdown table, below a line on the memory used before images and first step."""
    before = {name: f"{cost.before / 1e9:.2f} GB ({name})" for name, _, cost in rows if cost}
    lines = [
        f"\nGrowing: {what}. Memory before images and first step: {', '.join(before.values())}\n\n"
        f"| | {what} | images on | images/s | peak memory, GB | order, share of an epoch |\n"
        "|---|---:|---|---:|---:|---:|"
    ]
    for name, size, cost in rows:
        cells = "| out of memory | |"
        if cost:
            speed, memory, _, order, place = cost
            cells = f"{place} | {speed:,.1f} | {memory / 1e9:.2f} | {100 * order:.1g} %"
        lines.append(f"| {name} | {size:,} | {cells} |")
    return "\n".join(lines)


def draw(panels: dict[str, Rows], title: str, mark: str) -> Any:
    """Draw the figure: speed above, memory below, a column for each thing that grows."""
    figure, axes = new_figure(9, 5.4, mark=mark, nrows=2, ncols=3, sharex="col", sharey="row")
    axes[0, 1].set_title(title)
    names = list(dict.fromkeys(name for name, *_ in chain(*panels.values())))
    colours = sns.color_palette("colorblind", len(names))
    for column, (what, rows) in zip(axes.T, panels.items(), strict=True):
        for number, name in enumerate(names):
            costs = {size: cost for line, size, cost in rows if line == name}
            lost = [size for size, cost in costs.items() if not cost]
            look = {"color": colours[number], "markersize": 5}
            for place, axis in enumerate(column):
                y = [cost[place] if cost else None for cost in costs.values()]
                axis.plot(list(costs), y, marker=MARKERS[number % len(MARKERS)], label=name, **look)
                edge = abs(place - 0.05 - 0.07 * number)  # low for speed, high for memory
                cross = look | {"transform": axis.get_xaxis_transform()}
                axis.plot(lost, [edge] * len(lost), "x", **cross)
        sizes = sorted({size for _, size, _ in rows})
        column[1].set(xlabel=what, xscale="log")
        column[1].set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        column[1].minorticks_off()
    for row, label in enumerate(("images/s", "peak memory, GB")):
        axis, unit = axes[row, 0], 1e9**row
        axis.set(ylabel=label, yscale="log")
        axis.margins(y=0.25)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda y, _, unit=unit: f"{y / unit:,g}")
        axis.minorticks_off()
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = partial(parser.add_argument, nargs="+", type=int)
    models = {"default": ["baseline_cnn", "vit_tiny"], "choices": sorted(MODULES)}
    add("--models", type=str, metavar="MODEL", **models)
    add("--batch-sizes", metavar="N", help="default: 16 to 256, on a GPU 16 to 16,384")
    add("--sides", default=[48, 96, 144, 224], metavar="PIXELS")
    add("--repeats", default=[1, 10, 100], metavar="TIMES", help=f"times {IMAGES:,} images")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of steps at each point")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.batch_sizes = args.batch_sizes or [4**n for n in range(2, 8 if device == "cuda" else 5)]
    if min(*args.batch_sizes, *args.repeats, args.seconds) <= 0 or max(args.batch_sizes) > IMAGES:
        parser.error(f"--batch-sizes must be 1 to {IMAGES:,}, --repeats and --seconds above 0")
    for model in args.models:
        step = patch_size(model) or 1
        if any(side < SMALLEST or side % step for side in args.sides):
            parser.error(f"--sides of {model} must be multiples of {step}, {SMALLEST} or more")
    faces = make_sample(DRAWN * 5 // 4)
    precision = choose_precision().replace("no", "float32")
    held = {"cpu": "in the process, libraries and all", "cuda": "allocated on the GPU"}[device]
    print(
        f"{environment()}\n\nTraining on {device} in {precision}, {cores()} threads, about "
        f"{args.seconds:g} s a point. Unless they grow, batches of 64 and {IMAGES:,} images: "
        f"{DRAWN:,} drawn faces ({faces.mark}), repeated. Memory is the peak {held}.",
        flush=True,
    )
    panels = {}
    for what, panels[what] in points(args, partial(measured, faces, args.seconds)):
        print(table(what, panels[what]), flush=True)
    title = f"Training on {processor()}, in {precision}, on drawn faces ({faces.mark})"
    save(draw(panels, title, f"× out of memory; {faces.mark}"), args.out)


if __name__ == "__main__":
    main()
