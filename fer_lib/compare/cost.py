"""Measure what a prediction costs: parameters, multiplications, and time on a stated device.

The weights of runs are never read: a network costs the same with any weights.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from timeit import repeat
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.compare.names import named
from fer_lib.device import keep_memory, processes
from fer_lib.files import read_json, write_json
from fer_lib.models import create_model
from fer_lib.provenance import processor
from fer_lib.runs import Run

MILLISECONDS = "ms an image, batch of {}"
BATCHES = (1, 64)
CALLS = 5  # timed calls for each size of batch


def untrained(run: Run) -> nn.Module:
    """Build the network of a run with random weights, in evaluation mode."""
    config, classes = run.train_config, run.config["data"]["classes"]
    return create_model(config.model, num_classes=len(classes), **config.options).eval()


def macs(model: nn.Module) -> int:
    """Count the multiplications with additions (MACs) for one image of the model's input size.

    They are half of the floating-point operations that torch counts: those of convolutions and
    matrix products, including attention; element-wise operations are not counted. The model is
    left in evaluation mode, and its parameters no longer require gradients.
    """
    model.requires_grad_(False)  # the counter follows gradients, and none are computed here
    image = torch.zeros(1, *model.pretrained_cfg["input_size"])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(image)
    return counter.get_total_flops() // 2


@cache
def _built(model: str, classes: int, options: str) -> tuple[int, tuple[int, ...]]:
    """Return the MACs and the input size of a network; computed once for all seeds.

    All weights are zero, because drawing random ones takes seconds.
    """
    with torch.device("meta"):
        network = create_model(model, num_classes=classes, **json.loads(options))
    network.to_empty(device="cpu")
    with torch.no_grad():
        for values in (*network.parameters(), *network.buffers()):
            values.zero_()
    return macs(network), tuple(network.pretrained_cfg["input_size"])


def costs(runs: Sequence[Run] | Mapping[str, Run]) -> pd.DataFrame:
    """Return what a prediction of each run costs.

    Args:
        runs: a sequence, whose runs are named by `short_names`, or a dict of runs by other names.

    Returns:
        One row per run, in the given order, indexed by `name`. Columns: `model`, `parameters`,
        `macs` (see `macs`; for one image, without its mirror image), `passes` (2 if a prediction
        also uses the mirror image, else 1), `input` (such as "1x48x48"), and from the run's
        `inference.json` `ms_1` and `ms_64` (milliseconds per image in batches of 1 and 64),
        `device`, `processor` and `threads`. A run without that file has the values of the newest
        run of the same network that has one; if there is none, they are NaN or None.
    """
    networks, times, called = [], {}, named(runs)
    runs = list(called.values())
    for run in runs:
        config, classes = run.train_config, run.config["data"]["classes"]
        options = json.dumps(config.options, sort_keys=True)
        built = _built(config.model, len(classes), options)
        networks.append((config.model, run.results["parameters"], *built))
    for network, run in sorted(zip(networks, runs, strict=True), key=lambda pair: pair[1].name):
        if (path := run.folder / "inference.json").exists():
            times[network] = times[run.name] = read_json(path)
    rows = []
    for network, run in zip(networks, runs, strict=True):
        model, parameters, multiplied, size = network
        measured = times.get(run.name) or times.get(network) or {"milliseconds": {}}
        rows.append(
            {
                "model": model,
                "parameters": parameters,
                "macs": multiplied,
                "passes": 1 + run.train_config.flip_tta,
                "input": "x".join(map(str, size)),
                **{
                    f"ms_{n}": measured["milliseconds"].get(MILLISECONDS.format(n)) for n in BATCHES
                },
                **{key: measured.get(key) for key in ("device", "processor", "threads")},
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(called, name="name"))
    return table.astype({f"ms_{n}": float for n in BATCHES})


def timed(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Time the predictions of named runs with `measure`; nothing else should run meanwhile.

    Returns:
        One row per run, by name, with its milliseconds per image, a column for each size of batch,
        as text of three significant digits.
        `attrs["on"]` says where they were measured, such as "cpu, 2 threads".
    """
    measured = {name: measure(run) for name, run in runs.items()}
    table = pd.DataFrame({name: one["milliseconds"] for name, one in measured.items()}).T
    table = table.map(lambda ms: f"{ms:.3g}" if ms < 999.5 else f"{ms:,.0f}")
    table.attrs["on"] = on_device(next(iter(measured.values())))
    return table


def on_device(measured: dict[str, Any]) -> str:
    """Name the device that a time was measured on, as in "cpu, 2 threads"."""
    threads = int(measured["threads"])  # in a table a float, if other rows have none
    return f"{measured['device']}, {threads} thread{'s' * (threads > 1)}"


def measure(run: Run) -> dict[str, Any]:
    """Time a prediction on this machine, and write the result as the run's `inference.json`.

    The time is that from bytes in memory to probabilities in memory, in float32, without the mirror
    image; the fastest of `CALLS` calls counts. The answer is copied to the CPU, so that the clock
    waits for a GPU.

    Returns:
        `device` ("cpu" or "cuda"), `processor` (its name), `threads`, and `milliseconds` (per
        image, with the keys `MILLISECONDS.format(1)` and `MILLISECONDS.format(64)`).
    """
    device = processes().device
    keep_memory()
    network = untrained(run).to(device, memory_format=torch.channels_last)
    prepare = Prepare(network.pretrained_cfg, device)
    times = {}
    for size in BATCHES:
        images = torch.zeros(size, 1, 48, 48, dtype=torch.uint8)  # the format of FER2013's images
        call = lambda images=images: probabilities(network, images, prepare).cpu()
        seconds = min(repeat(call, number=1, repeat=1 + CALLS)[1:])  # the first call is a warm-up
        times[MILLISECONDS.format(size)] = 1000 * seconds / size
    measured = {
        "device": device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "milliseconds": times,
    }
    write_json(run.folder / "inference.json", measured)
    return measured
