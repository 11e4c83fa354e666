"""Show where the time of a training step goes, and how far it is from what its arithmetic needs.

    python benchmarks/steps.py
    python benchmarks/steps.py --models vit_tiny vit_mae --batch-size 8        # on a CPU
    python benchmarks/steps.py --models baseline_cnn --set compile=true --operators 8

Each model trains by `fer_lib.learner.Learner.train_epoch` and our recipe, from random weights, on
drawn faces (sample data: speed does not depend on what a picture shows). The parts of an epoch are
timed from outside, by a clock around the calls that it makes: *input* (augmentation, resize,
mixup), *forward* with the loss, *backward*, *optimizer* (clipping, update, zeroing, schedule),
*average* (the moving average of the weights), and *rest*: gathering the batch, the sums of the loss
and of right answers, and everything else. The parts are shares of an epoch with this clock, whose
step has a column of its own (*under the clock*): on a GPU it waits for the device before and after
each call, launches one kernel after the other (`cuda_graph` off), and takes longer than *step*,
which is the best of three epochs without the clock.

The floor is the larger of two times, for the layers as they are written. Arithmetic: floating-point
operations of matrix products, convolutions and attention, forward and backward, as torch's
FlopCounterMode counts them, at the rate of a large square matrix product in the same precision.
Memory: what autograd keeps of the forward pass is written and read once, each weight is read twice,
its gradient is written and read, and the update reads and writes weight, moments and moving
average, at the rate of a large copy; fused or recomputed layers would keep less. Both rates are
measured in the same process. *Gap* is step / floor; *of the matrix rate* is the arithmetic time as
a share of the step. On a GPU, float32 is without TF32 here.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from measure import drawn, environment, matrix_rate, memory_rate, positive, shortest, synchronize
from torch import Tensor
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from fer_lib import learner as learner_module
from fer_lib.arguments import SET, parse_settings
from fer_lib.batches import DTYPES
from fer_lib.device import choose_precision
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.models import MODULES
from fer_lib.recipes import recipe

PARTS = ("input", "forward", "backward", "optimizer", "average", "rest")
FLOOR = ("GFLOP an image", "MB kept an image", "arithmetic, ms", "memory, ms")
NAMES = {"no": "float32"}
SPEED = ("images/s", "step, ms", "under the clock, ms")
COLUMNS = (*SPEED, *PARTS, *FLOOR, "gap", "of the matrix rate")


class Clock:
    """Sums the seconds spent in calls, by part; waits for the device before and after each call."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, part: str, call: Callable) -> Callable:
        """Wrap a call so that its seconds are added to a part."""

        @wraps(call, updated=())
        def timed(*arguments: Any, **named: Any) -> Any:
            synchronize(self.device)
            start = time.perf_counter()
            result = call(*arguments, **named)
            synchronize(self.device)
            self.seconds[part] += time.perf_counter() - start
            return result

        return timed


def watched(learner: Learner) -> dict[str, list[tuple[Any, str]]]:
    """Return the calls that `train_epoch` makes for each part, as (owner, attribute name)."""
    update = [(learner.optimizer, "step"), (learner.optimizer, "zero_grad")]
    return {
        "input": [(learner, "prepare"), (learner_module, "mix")],
        "forward": [(learner.model, "forward"), (learner, "criterion")],
        "backward": [(learner.accelerator, "backward")],
        "optimizer": [
            (learner.accelerator, "clip_grad_norm_"),
            *update,
            (learner.schedule, "step"),
        ],
        "average": [(learner.ema, "update")] if learner.ema else [],
    }


def clocked(learner: Learner) -> dict[str, float]:
    """Train an epoch under the clock; return the seconds of each part."""
    clock, before = Clock(learner.device), {}
    if learner.recorded:
        learner.recorded = None  # a replay cannot be split into parts
        learner.train_epoch(0)  # without the clock: memory is allocated anew outside the recording
    for part, calls in watched(learner).items():
        for owner, name in calls:
            before[id(owner), name] = owner, name, vars(owner).get(name)
            vars(owner)[name] = clock.around(part, getattr(owner, name))
    try:
        start = time.perf_counter()
        learner.train_epoch(0)
        whole = time.perf_counter() - start
    finally:
        for owner, name, value in before.values():
            if value is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = value
    clock.seconds["rest"] = whole - sum(clock.seconds.values())
    return {part: clock.seconds[part] for part in PARTS}


def operations(learner: Learner, x: Tensor, target: Tensor) -> int:
    """Count the floating-point operations of forward and backward on a batch."""
    with FlopCounterMode(display=False) as counter:
        learner.micro_step(x, target, {})
    return counter.get_total_flops()


def bytes_kept(learner: Learner, x: Tensor, target: Tensor) -> int:
    """Count the bytes that autograd keeps of the forward pass of a batch, weights excluded."""
    weights = {p.shape for p in learner.core.parameters()}  # autocast keeps copies of them
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.shape not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.micro_step(x, target, {})
    return sum(kept.values())


def bytes_of_weights(learner: Learner) -> int:
    """Count the bytes moved for the weights in a step: forward, backward and update."""
    # The weight twice, its gradient twice; then weight, two moments and the average in and out.
    times = 2 + 2 + 6 + (2 if learner.ema else 0)
    return times * sum(p.nbytes for p in learner.core.parameters())


def measure(model: str, changes: dict[str, Any], steps: int) -> tuple[Learner, dict[str, Any]]:
    """Measure one model; return its learner and the cells of its row of the table, by column."""
    size = recipe(model, "ours", "full", **changes).batch_size
    config = recipe(model, "ours", "full", **changes, limit=size * steps)
    learner = Learner(config, drawn(config.limit))
    step = shortest(lambda: learner.train_epoch(0), learner.device, runs=1) / steps
    # Counted without compiling: else operations and bytes kept would be those of the compiler.
    written = Learner(replace(config, compile=False, accumulate=1), drawn(config.limit))
    images, answer = next(written.batches.epoch(0))
    x = written.prepare(images)
    flops, kept = operations(written, x, answer), bytes_kept(written, x, answer)
    del written
    arithmetic = flops / matrix_rate(learner.device, DTYPES[learner.precision])
    memory = (2 * kept + bytes_of_weights(learner)) / memory_rate(learner.device)
    seconds = clocked(learner)
    whole = sum(seconds.values())
    return learner, {
        "images/s": f"{size / step:,.0f}",
        "step, ms": f"{1e3 * step:,.2f}",
        "under the clock, ms": f"{1e3 * whole / steps:,.2f}",
        **{part: f"{share / whole:.1%}" for part, share in seconds.items()},
        "GFLOP an image": f"{flops / size / 1e9:.2f}",
        "MB kept an image": f"{kept / size / 1e6:.2f}",
        "arithmetic, ms": f"{1e3 * arithmetic:,.2f}",
        "memory, ms": f"{1e3 * memory:,.2f}",
        "gap": f"{step / max(arithmetic, memory):.1f}",
        "of the matrix rate": f"{arithmetic / step:.0%}",
    }


def operators(learner: Learner, number: int) -> str:
    """Return the costliest operators of an epoch, as torch's profiler prints them."""
    with profile() as profiled:
        learner.train_epoch(0)
    kind = "cpu" if learner.device.type == "cpu" else "device"
    order = {"sort_by": f"self_{kind}_time_total", "row_limit": number}
    return profiled.key_averages().table(**order, max_name_column_width=50)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    three = ["baseline_cnn", "attention_cnn", "vit_cnn"]
    add("--models", nargs="+", default=three, choices=sorted(MODULES), metavar="MODEL")
    add("--batch-size", type=positive, help="default: as in the recipe")
    add("--steps", type=positive, help="steps in an epoch; default: 8, on a GPU 50")
    add("--operators", type=int, default=0, metavar="N", help="list the N costliest operators")
    add("--set", **SET, help="settings of TrainConfig")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # as for the product that gives the rate
    steps = (50 if device.type == "cuda" else 8) if args.steps is None else args.steps
    try:
        changes = parse_settings(args.set)
        if args.batch_size is not None:
            changes["batch_size"] = args.batch_size
        if "limit" in changes:
            raise InputError("limit cannot be set: it follows from --steps and the batch size")
        changes = {"pretrained": False} | changes
        configs = [recipe(model, "ours", "full", **changes) for model in args.models]
        kinds = dict.fromkeys(["no", *(choose_precision(config.precision) for config in configs)])
    except InputError as error:
        parser.error(str(error))
    products = {kind: matrix_rate(device, DTYPES[kind]) / 1e12 for kind in kinds}
    rates = [f"{rate:,.2f} TFLOP/s in {NAMES.get(kind, kind)}" for kind, rate in products.items()]
    print(
        f"{environment()}\n\n{device.type}, {torch.get_num_threads()} threads, matrix products "
        f"{' and '.join(rates)}, copies "
        f"{memory_rate(device) / 1e9:,.0f} GB/s; {steps} steps on drawn faces (sample data)\n\n"
        f"| model | batch | precision | {' | '.join(COLUMNS)} |\n"
        f"|---|---:|---|{'---:|' * len(COLUMNS)}",
        flush=True,
    )
    listed = []
    for model in args.models:
        learner, cells = measure(model, changes, steps)
        kind = NAMES.get(learner.precision, learner.precision)
        line = " | ".join(cells[column] for column in COLUMNS)
        print(f"| {model} | {learner.config.batch_size} | {kind} | {line} |", flush=True)
        if args.operators:
            listed.append(f"\n{model}\n\n{operators(learner, args.operators)}")
    print("\n".join(listed))


if __name__ == "__main__":
    main()
