"""Describe where a run comes from, for `config.json`: code, command, device and versions."""

import ast
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fer_lib.changed import of_recipe
from fer_lib.config import TrainConfig
from fer_lib.device import choose_precision, processes
from fer_lib.files import expanded, sha256
from fer_lib.recipes import own_start

CODE = (
    *("augment", "batches", "checkpoints", "config", "data/ferplus", "data/refined", "device"),
    *("epochs", "graph", "held_out", "learner", "losses", "optim", "train", "training", "models/*"),
    *("evaluate/predictions", "evaluate/scores", "evaluate/calibration", "evaluate/abstention"),
    *("data/audit", "data/copies"),
)
"""Modules on which the numbers of a training depend. Those in the last two rows score it, also on
the clean test images."""


def describe_environment(config: TrainConfig) -> dict[str, Any]:
    """Return the versions, device, commit and command, which are needed to repeat a run."""
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy")
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": choose_precision(config.precision),
        "code": code_digest(),
        "pretrained_sha256": pretrained_sha256(config),
        "processes": processes().num_processes,
        **{package: version(package) for package in packages},
    }


def pretrained_sha256(config: TrainConfig) -> str | None:
    """Return the SHA-256 of the weights file from which a training starts; None without a file."""
    if not isinstance(config.pretrained, str):
        return None
    path = expanded(config.pretrained)
    return sha256(path) if path.is_file() else None


def code_digest(names: tuple[str, ...] = CODE) -> str:
    """Return the SHA-256 of the code of some modules.

    Comments, docstrings and line breaks do not count. Python versions may differ in the result.

    Args:
        names: paths within the package, without ".py"; they may have wildcards. By default, the
            modules that the numbers of a training depend on.
    """
    files = [path for name in names for path in sorted(Path(__file__).parent.glob(f"{name}.py"))]
    trees = [_WithoutDocstrings().visit(ast.parse(path.read_bytes())) for path in files]
    return hashlib.sha256("\n".join(map(ast.unparse, trees)).encode()).hexdigest()


class _WithoutDocstrings(ast.NodeTransformer):
    """Remove statements that consist of a constant alone, such as docstrings."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def git_commit() -> str | None:
    """Return the commit of the checkout, with "+" if files differ from it; None if unknown.

    The environment variable FER_COMMIT comes first, as only it knows the commit on a machine to
    which the files were copied.
    """
    if told := os.environ.get("FER_COMMIT"):
        return told
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").exists():  # an installed package, perhaps in another checkout
        return None
    git = lambda *arguments: subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def short(commit: str | None) -> str:
    """Shorten a commit to eight digits and its "+" for changed files; "" for None."""
    commit = commit or ""
    return commit.rstrip("+")[:8] + "+" * commit.endswith("+")


def processor() -> str:
    """Return the name of the GPU, or of the CPU with its vector instructions, such as "AVX2".

    Clouds use one name for CPUs of different speed, so that the name alone would not tell them
    apart.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.+)", text)[1]
    except (OSError, TypeError):
        name = platform.processor() or platform.machine()
    vectors = torch.backends.cpu.get_cpu_capability()
    return name if vectors == "DEFAULT" else f"{name} ({vectors})"


def public_path(path: str) -> str:
    """Shorten a path to its last two parts, which hides the other folders of the user."""
    return "/".join(Path(path).parts[-2:])


def training_command(config: TrainConfig, dataset: str) -> str:
    """Return the shell command that trains a run of this config; DIR is the folder of the data.

    A weights file is given with its last folder only, and one of our own in runs/. If it is from a
    pretraining, FOLDER replaces the name of its folder.

    Args:
        config: as `recipe` or `fine_tuning` returns it.
        dataset: name of the data.
    """
    before, after = of_recipe(config), config.to_dict()
    apart = ("model", "recipe", "preset", "seed", "labels", "cuda_graph")
    changed = {k: v for k, v in after.items() if k not in apart and v != before[k]}
    for name in ("options", "augmentation"):
        if name in changed:
            known = before[name].items()
            changed[name] = {k: v for k, v in changed[name].items() if (k, v) not in known}
    if isinstance(config.pretrained, str):
        start, wrote = public_path(config.pretrained), own_start(config.pretrained)
        if wrote == "pretraining":  # its folder is named after its time
            start = f"runs/pretraining/FOLDER/{Path(start).name}"
        changed["pretrained"] = f"runs/{start}" if wrote == "run" else start
    words = ["--dataset", dataset, "--data-dir", "DIR", "--preset", config.preset]
    if config.recipe == "finetune":
        words += ["--from-run", f"runs/{Path(changed.pop('pretrained')).parent.name}"]
    words += ["--recipe", config.recipe, "--seed", str(config.seed), "--labels", config.labels]
    words += ["--set"] * bool(changed)
    text = lambda value: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    words += [f"{name}={text(value)}" for name, value in sorted(changed.items())]
    return shlex.join(["python", "-m", "fer_lib.train", config.model, *words])
