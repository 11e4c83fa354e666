"""Timing in turn, in processes of their own, on drawn faces; and the tables and headings of it."""

import os
import platform
import time
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
"""Faces that are drawn at most, in some seconds; an epoch on a GPU has 16,384."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@cache
def drawn(images: int) -> FaceSet:
    """Drawn faces (sample data), at least so many for training: `DIFFERENT` at most, repeated."""
    faces = make_sample(min(max(100, images * 4 // 3), DIFFERENT))  # four in five are for training
    train = faces.where("train")
    again = np.resize(train, max(0, images - len(train)))
    return faces.subset(np.concatenate([np.arange(len(faces)), again])) if len(again) else faces


def synchronize(device: torch.device) -> None:
    """Wait until all that was begun on the device is done."""
    getattr(torch, device.type).synchronize()


def rate(part: Callable[[], int], device: torch.device) -> float:
    """Images a second of a function that returns the number of images it went through."""
    synchronize(device)
    start = time.perf_counter()
    images = part()
    synchronize(device)
    return images / (time.perf_counter() - start)


def begin(threads: int) -> None:
    """Begin a process that ends with the one that started it, also where that is killed."""
    torch.set_num_threads(threads)
    Thread(target=end_with, args=(parent_process(),), daemon=True).start()


def end_with(process: Any) -> None:
    """End this process at once when another one has ended."""
    process.join()
    os._exit(1)


class Apart(ProcessPoolExecutor):
    """One side of a comparison in a new process of its own, with a thread for each core.

    It does nothing but what it is asked for, and ends with the `with` block.

    Args:
        side: makes the side there: an object with `device`, `precision` and the parts, methods that
            return the number of images they went through.
        arguments: of `side`.

    Several may be started before the first is asked for anything: they get ready side by side.

    Attributes:
        ready: future of the side's device and precision; its result raises what `side` raised.
    """

    def __init__(self, side: Callable[..., Any], *arguments: Any):
        super().__init__(1, get_context("spawn"), begin, (cores(),))
        self.ready = self.submit(set_up, side, arguments)

    @property
    def device(self) -> torch.device:
        """That of the side, once it is ready."""
        return self.ready.result()[0]

    @property
    def precision(self) -> str:
        """That of the side, once it is ready."""
        return self.ready.result()[1]

    def rate(self, part: str) -> float:
        """Run a part once; its images a second, timed in the process itself."""
        return self.submit(rate_here, part).result()


def set_up(side: Callable[..., Any], arguments: tuple) -> tuple[torch.device, str]:
    """Make the side of this process; its device and precision."""
    global here
    here = side(*arguments)
    return here.device, here.precision


def rate_here(part: str) -> float:
    """Images a second of a part of this process's side."""
    return rate(getattr(here, part), here.device)


def in_turn(parts: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Images a second of each part in each round, without the first round, which warms up.

    Args:
        parts: name -> function that runs the part once and returns its images a second.
    """
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            images_per_second = part()
            if number:
                rates[name].append(images_per_second)
    return rates


def ratio(rates: list[float], others: list[float]) -> str:
    """Median and range over the rounds of one rate divided by the other of the same round."""
    each = [a / b for a, b in zip(rates, others, strict=True)]
    return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def table(rows: dict[str, tuple[list[float], list[float]]], *columns: str) -> str:
    """Lines of a Markdown table: two rates, in images a second, and their ratio."""
    lines = [f"| | {' | '.join(columns)} | ratio (range) |", "|---|---:|---:|---:|"]
    for title, (ours, others) in rows.items():
        rate = f"{median(ours):,.0f} | {median(others):,.0f}"
        lines.append(f"| {title} | {rate} | {ratio(ours, others)} |")
    return "\n".join(lines)


def environment() -> str:
    """Where and when this is measured: processor, cores, load, versions and commit."""
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return (
        f"measured on {date.today()}: {processor()}, {cores()} cores{load}; "
        f"python {platform.python_version()}, {versions}; commit {git_commit()}"
    )


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / shortest(lambda: a @ b, device)


@cache
def memory_rate(device: torch.device) -> float:
    """Bytes a second, read and written together, of a copy of 256 MiB."""
    a = torch.ones(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / shortest(lambda: b.copy_(a), device)


def shortest(part: Callable[[], Any], device: torch.device, runs: int | None = None) -> float:
    """Least seconds of a part in three goes of `runs` each (10, on a CPU 3), after a warm-up."""
    runs = runs or (10 if device.type == "cuda" else 3)

    def again() -> int:
        for _ in range(runs):
            part()
        return runs

    again()
    return 1 / max(rate(again, device) for _ in range(3))
