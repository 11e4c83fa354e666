"""Where a run comes from: code, commit, command, device and versions, as `config.json` has them."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fer_lib.config import TrainConfig
from fer_lib.optim import choose_precision, processes


def describe_environment(config: TrainConfig) -> dict[str, Any]:
    """Versions, device, commit and command: what it takes to repeat a run."""
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy")
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": choose_precision(config),
        "code": code_digest(),
        "pretrained_sha256": pretrained_sha256(config),
        "processes": processes().num_processes,
        **{package: version(package) for package in packages},
    }


def pretrained_sha256(config: TrainConfig) -> str | None:
    """SHA-256 of the weights file that a training starts from; None where there is none."""
    path = Path(str(config.pretrained)).expanduser()
    if not isinstance(config.pretrained, str) or not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(
    names: tuple[str, ...] = (
        "augment",
        "batches",
        "graph",
        "held_out",
        "learner",
        "losses",
        "optim",
        "train",
        "models/*",
    ),
) -> str:
    """SHA-256 of the modules that a training's numbers depend on."""
    files = [path for name in names for path in sorted(Path(__file__).parent.glob(f"{name}.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def git_commit() -> str | None:
    """What FER_COMMIT says, else the commit of the checkout, with "+" where files differ, or None.

    That environment variable alone knows it on a machine to which the files were copied.
    """
    if told := os.environ.get("FER_COMMIT"):
        return told
    root = Path(__file__).resolve().parent.parent
    git = lambda *arguments: subprocess.run(  # noqa: E731
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def short(commit: str | None) -> str:
    """Eight digits of a commit, with its "+" where files differed from it; "" for none."""
    return (commit or "")[:8] + "+" * (commit or "").endswith("+")


def processor() -> str:
    """Name of the GPU where there is one, else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text()
        return re.search(r"model name\s*: (.+)", text)[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()
