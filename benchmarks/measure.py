"""Tools of the benchmarks: timing in turn, separate processes, drawn faces, tables, headings."""

import os
import platform
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
import torch

from fer_lib.data.faceset import FaceSet
from fer_lib.data.sample import make_sample
from fer_lib.provenance import git_commit, processor

DIFFERENT = 2000
"""Maximum number of faces to draw, which takes some seconds; an epoch on a GPU has 16,384."""


def positive(text: str) -> int:
    """Read a number of a command line, which must be 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be 1 or more, not {text}")
    return int(text)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@cache
def drawn(images: int) -> FaceSet:
    """Return drawn faces (sample data), at least `images` of them for training.

    At most `DIFFERENT` faces are drawn; if that is too few, those for training are repeated.
    """
    faces = make_sample(min(max(100, images * 4 // 3), DIFFERENT))  # four in five are for training
    train = faces.where("train")
    again = np.resize(train, max(0, images - len(train)))
    return faces.subset(np.concatenate([np.arange(len(faces)), again])) if len(again) else faces


def synchronize(device: torch.device) -> None:
    """Wait until all work begun on the device is done."""
    getattr(torch, device.type).synchronize()


def rate(part: Callable[[], int], device: torch.device) -> float:
    """Time a function that returns the number of images it processed; return images per second."""
    synchronize(device)
    start = time.perf_counter()
    images = part()
    synchronize(device)
    return images / (time.perf_counter() - start)


def begin(threads: int) -> None:
    """Set the threads of this process, and let it end with its parent, even if that is killed."""
    torch.set_num_threads(threads)
    Thread(target=end_with, args=(parent_process(),), daemon=True).start()


def end_with(process: Any) -> None:
    """Wait for another process to end, then end this one at once."""
    process.join()
    os._exit(1)


class Apart(ProcessPoolExecutor):
    """One side of a comparison, in a new process with a thread for each core.

    The process does only what it is asked to do, and ends with the `with` block. Several may be
    started before the first is asked for anything: they get ready in parallel.

    Args:
        side: called in the process to make the side: an object with `device` and the parts,
            methods that return the number of images they processed.
        arguments: arguments of `side`.

    Attributes:
        ready: future of the side's device; its result raises what `side` raised.
    """

    def __init__(self, side: Callable[..., Any], *arguments: Any):
        super().__init__(1, get_context("spawn"), begin, (cores(),))
        self.ready = self.submit(set_up, side, arguments)

    def rate(self, part: str) -> float:
        """Run a part once; return its images per second, timed in the process itself."""
        return self.submit(rate_here, part).result()


def set_up(side: Callable[..., Any], arguments: tuple) -> torch.device:
    """Make the side of this process; return its device."""
    global here
    here = side(*arguments)
    return here.device


def rate_here(part: str) -> float:
    """Run a part of this process's side; return its images per second."""
    return rate(getattr(here, part), here.device)


def in_turn(parts: dict[Any, Callable[[], float]], rounds: int) -> dict[Any, list[float]]:
    """Run the parts in turn, round after round; a first round, which warms up, does not count.

    Args:
        parts: name -> function that runs the part once and returns its images per second.
        rounds: rounds that count.

    Returns:
        Name -> images per second in each round that counts.
    """
    rates: dict[Any, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            images_per_second = part()
            if number:
                rates[name].append(images_per_second)
    return rates


def ratio(rates: list[float], others: list[float]) -> str:
    """Return the median and range of one rate divided by the other, round by round."""
    each = [a / b for a, b in zip(rates, others, strict=True)]
    return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def table(rows: dict[str, tuple[list[float], list[float]]], *columns: str) -> str:
    """Return a Markdown table of two rates, as medians in images per second, and their ratio.

    Args:
        rows: title -> the two rates in each round.
        columns: headings of the two rates.
    """
    lines = [f"| | {' | '.join(columns)} | ratio (range) |", "|---|---:|---:|---:|"]
    for title, (ours, others) in rows.items():
        rate = f"{median(ours):,.0f} | {median(others):,.0f}"
        lines.append(f"| {title} | {rate} | {ratio(ours, others)} |")
    return "\n".join(lines)


def environment() -> str:
    """Return a line with date, processor, cores, load, versions and commit of the measurement."""
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return (
        f"measured on {date.today()}: {processor()}, {cores()} cores{load}; "
        f"python {platform.python_version()}, {versions}; commit {git_commit()}"
    )


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / shortest(lambda: a @ b, device)


@cache
def memory_rate(device: torch.device) -> float:
    """Measure the bytes per second, read plus written, of a copy of 256 MiB."""
    a = torch.ones(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / shortest(lambda: b.copy_(a), device)


def shortest(part: Callable[[], Any], device: torch.device, runs: int | None = None) -> float:
    """Return the seconds of one run of a part: the shortest of three trials after a warm-up.

    Args:
        runs: runs in a trial, which gives their mean; None: 10, on a CPU 3.
    """
    runs = runs or (10 if device.type == "cuda" else 3)

    def again() -> int:
        for _ in range(runs):
            part()
        return runs

    again()
    return 1 / max(rate(again, device) for _ in range(3))
