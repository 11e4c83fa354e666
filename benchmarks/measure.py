"""Timing in turn, and the tables and headings that go with it."""

import os
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from statistics import median

import torch

from fer_lib.runs import git_commit, processor


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_turn(
    parts: dict[str, Callable[[], int]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Images a second of each part in each round, without the first round, which warms up.

    Args:
        parts: name -> function to time, which returns the number of images it went through.
    """
    rates: dict[str, list[float]] = {name: [] for name in parts}
    synchronize = getattr(torch, device.type).synchronize
    for number in range(rounds + 1):
        for name, part in parts.items():
            synchronize()
            start = time.perf_counter()
            images = part()
            synchronize()
            if number:
                rates[name].append(images / (time.perf_counter() - start))
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
    """Where and when this is measured: device, threads, load, versions and commit."""
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return (
        f"measured on {date.today()}: {processor()}, {cores()} cores, {torch.get_num_threads()} "
        f"threads{load}; python {platform.python_version()}, {versions}; commit {git_commit()}"
    )
