"""Where a run comes from: code, commit, command, device and versions, as `config.json` has them."""

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

from fer_lib.config import TrainConfig
from fer_lib.device import choose_precision, processes
from fer_lib.files import expanded, sha256
from fer_lib.recipes import own_start, recipe

CODE = (
    *("augment", "batches", "checkpoints", "config", "data/ferplus", "data/refined", "device"),
    *("epochs", "graph", "held_out", "learner", "losses", "optim", "train", "training", "models/*"),
    *("evaluate/predictions", "evaluate/scores", "evaluate/calibration", "evaluate/abstention"),
    *("data/audit", "data/copies"),
)
"""Modules that the numbers of a training depend on: its own, and, in the last two rows, those that
score it, on the clean test images too."""


def describe_environment(config: TrainConfig) -> dict[str, Any]:
    """Versions, device, commit and command: what it takes to repeat a run."""
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
    """SHA-256 of the weights file that a training starts from; None where there is none."""
    if not isinstance(config.pretrained, str):
        return None
    path = expanded(config.pretrained)
    return sha256(path) if path.is_file() else None


def code_digest(names: tuple[str, ...] = CODE) -> str:
    """SHA-256 of the code of some modules, by default those that a training's numbers depend on.

    Comments, docstrings and line breaks do not count. Versions of Python may differ in it.
    """
    files = [path for name in names for path in sorted(Path(__file__).parent.glob(f"{name}.py"))]
    trees = [_WithoutDocstrings().visit(ast.parse(path.read_bytes())) for path in files]
    return hashlib.sha256("\n".join(map(ast.unparse, trees)).encode()).hexdigest()


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops every statement that is only a constant, as the docstrings of attributes are too."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def git_commit() -> str | None:
    """What FER_COMMIT says, else the commit of the checkout, with "+" where files differ, or None.

    That environment variable alone knows it on a machine to which the files were copied.
    """
    if told := os.environ.get("FER_COMMIT"):
        return told
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").exists():  # installed, maybe within another project's checkout
        return None
    git = lambda *arguments: subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def short(commit: str | None) -> str:
    """Eight digits of a commit, with its "+" where files differed from it; "" for none."""
    commit = commit or ""
    return commit.rstrip("+")[:8] + "+" * commit.endswith("+")


def processor() -> str:
    """Name of the GPU where there is one, else of the CPU, with its vectors, as "AVX2".

    Clouds give one name to processors of unlike speed.
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
    """A path without the folders of whoever gave it, but for the last."""
    return "/".join(Path(path).parts[-2:])


def public_command(command: str) -> str:
    """A command without the folders of whoever gave it.

    `/home/me/fer_lib/train.py baseline_cnn --data-dir /home/me/faces` becomes
    `python -m fer_lib.train baseline_cnn --data-dir DIR`.

    Args:
        command: the words of `sys.argv`, quoted for a shell.
    """
    program, *rest = shlex.split(command)
    module = re.search(r"[/\\]fer_lib[/\\](\w+)(?:[/\\]__main__)?\.py$", program)
    words = ["python", "-m", f"fer_lib.{module[1]}"] if module else [_without_folders(program)]
    rest = iter(rest)
    for word in rest:  # options as argparse takes them, also cut short
        if option := re.fullmatch(r"(--data-d|--ru)\w*(=.*)?", word):
            words += ["--data-dir" if option[1] == "--data-d" else "--runs", "DIR"]
            if option[2] is None:
                next(rest, None)  # the folder
        else:
            words.append(_without_folders(word))
    return shlex.join(words)


def _without_folders(word: str) -> str:
    """A word of a command, of each path in it only the last part where it begins elsewhere."""
    start = r"(?<![\w.])(?:~[\w.-]*|\b[A-Za-z]:|\.\.)?[/\\]"
    return re.sub(start + r'(?:[^/\\"]+[/\\])*', "", word)


def training_command(config: TrainConfig, dataset: str) -> str:
    """The command that trains a run of this config, for a shell; DIR is the folder of the data.

    Of where a file of weights lies only the last folder is told, and for the folder of a
    pretraining of our own stands FOLDER.

    Args:
        config: as `recipe` gives it, or `fine_tuning`.
    """
    plain = recipe(config.model, config.recipe, config.preset, epochs=config.epochs)
    before, after = (one.to_dict() for one in (plain, config))
    before["epochs"] = recipe(config.model, config.recipe, config.preset).epochs
    apart = ("model", "recipe", "preset", "seed", "labels", "cuda_graph")
    changed = {k: v for k, v in after.items() if k not in apart and v != before[k]}
    if "options" in changed:
        known = before["options"].items()
        changed["options"] = {k: v for k, v in changed["options"].items() if (k, v) not in known}
    if "augmentation" in changed:
        known = before["augmentation"]
        changed["augmentation"] = {
            k: v for k, v in changed["augmentation"].items() if v != known[k]
        }
    if isinstance(config.pretrained, str):
        changed["pretrained"] = public_path(config.pretrained)
        if own_start(config.pretrained) == "pretraining":  # of a folder named by its time
            file = Path(config.pretrained).name
            changed["pretrained"] = f"runs/pretraining/FOLDER/{file}"
    words = ["--dataset", dataset, "--data-dir", "DIR", "--preset", config.preset]
    if config.recipe == "finetune":
        words += ["--from-run", f"runs/{Path(changed.pop('pretrained')).parent.name}"]
    words += ["--recipe", config.recipe, "--seed", str(config.seed), "--labels", config.labels]
    words += ["--set"] * bool(changed)
    text = lambda value: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    words += [f"{name}={text(value)}" for name, value in sorted(changed.items())]
    return shlex.join(["python", "-m", "fer_lib.train", config.model, *words])
