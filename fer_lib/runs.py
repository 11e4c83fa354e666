"""The run folder: what a training writes, and how the next stage finds and reads it."""

import csv
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from fer_lib.checkpoints import load_weights
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.data.refined import refined_sha256
from fer_lib.files import InputError, expanded, home, read_json, replacing, write_json
from fer_lib.provenance import describe_environment, pretrained_sha256

if TYPE_CHECKING:
    from pandas import DataFrame


class RunFolder:
    """A folder that a training fills; without `results.json` it is unfinished."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "config.json").exists():
            raise InputError(f"{self.folder} is not a run folder: it has no config.json")
        self.config = read_json(self.folder / "config.json")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data it was trained on."""
        return self.config["data"]["fingerprint"]

    @property
    def finished(self) -> bool:
        return (self.folder / "results.json").exists()

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds; InputError where the run is unfinished."""
        return read_json(self.folder / "results.json")

    @property
    def state_path(self) -> Path:
        """The file from which it resumes."""
        return self.folder / "checkpoint" / "state.pt"

    def require_finished(self) -> None:
        """InputError where it is unfinished."""
        if not self.finished:
            raise InputError(f"{self.folder} is unfinished: train it to its end first")

    def require_data(self, faces: FaceSet) -> None:
        """InputError where it was trained on other data than these."""
        if self.fingerprint != faces.fingerprint:
            raise InputError(f"{self.folder} was trained on other data than these of {faces.name}")

    def metrics(self) -> "DataFrame":
        """`metrics.csv`, a row an epoch."""
        import pandas as pd  # a second of time, which a prediction can do without

        return pd.read_csv(self.folder / "metrics.csv")

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"{type(self).__name__}({self.name}, {state})"


Kind = TypeVar("Kind", bound=RunFolder)


class Run(RunFolder):
    """One training's folder, `runs/<timestamp>_<model>_<dataset>_s<seed>/`.

    Training an unfinished one again resumes it.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        try:
            self.train_config = TrainConfig.from_dict(self.config["train"])
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{self.folder} is no run of this version ({error})") from error

    @property
    def has_weights(self) -> bool:
        """Whether the file of the best weights is here; it may have been deleted."""
        return (self.folder / "best.safetensors").exists()

    @property
    def weights(self) -> Path:
        """The file of the best weights; InputError where it is gone, or never was here."""
        if not self.has_weights:
            raise InputError(
                f"the weights of {self.folder} are not here: delete that folder and train it again"
            )
        return self.folder / "best.safetensors"

    def load_model(self) -> nn.Module:
        """The best weights, in evaluation mode, on the CPU; touches no network."""
        return load_weights(self.weights)


def runs_folder(folder: str | Path | None = None) -> Path:
    """The folder of all runs: as given, else `runs/` at home."""
    return expanded(folder) if folder else home() / "runs"


def read_runs(root: Path, kind: type[Kind]) -> list[Kind]:
    """The runs of a kind in a folder, oldest first; what is none of this version is named."""
    found = []
    for path in sorted(root.glob("[!.]*/config.json")):  # none that is half made
        try:
            found.append(kind(path.parent))
        except InputError as error:
            print(f"left out: {error}")
    return found


def newest(runs: Iterable[Kind]) -> Kind | None:
    """The newest of some runs; a finished one if there is."""
    return max(runs, key=lambda run: (run.finished, run.name), default=None)


def list_runs(
    folder: str | Path | None = None,
    *,
    fingerprint: str | None = None,
    preset: str | None = None,
    finished: bool = True,
) -> list[Run]:
    """Runs in a folder, oldest first, filtered by data, preset and whether they are finished."""
    return [
        run
        for run in read_runs(runs_folder(folder), Run)
        if fingerprint in (None, run.fingerprint)
        and preset in (None, run.train_config.preset)
        and (run.finished or not finished)
    ]


def find_run(config: TrainConfig, faces: FaceSet, folder: str | Path | None = None) -> Run | None:
    """The newest run of exactly this config on exactly these data; a finished one if there is.

    How its steps were launched (`cuda_graph`) makes no difference beyond rounding. Where the
    weights file that it started from is still there, or the file of refined labels that it learned
    from, the weights and the labels must be the same too.
    """
    start, refined = pretrained_sha256(config), refined_sha256(faces, config.labels)

    def is_same(run: Run) -> bool:
        known = run.config["environment"].get("pretrained_sha256")
        settings = replace(run.train_config, cuda_graph=config.cuda_graph)
        if start and known:  # wherever the file lies
            settings = replace(settings, pretrained=config.pretrained)
        same_labels = refined in (None, run.config["data"].get("refined_sha256"))
        same_start = start in (None, known)
        return same_labels and same_start and settings.to_dict() == config.to_dict()

    every = list_runs(folder, fingerprint=faces.fingerprint, finished=False)
    return newest(filter(is_same, every))


def start_run(config: TrainConfig, faces: FaceSet, folder: str | Path | None = None) -> Run:
    """Make a new run folder with its `config.json`."""
    path = new_folder(runs_folder(folder), config.model, faces, config.seed)
    data = describe_data(
        faces,
        classes=list(faces.classes),
        fingerprint=faces.fingerprint,
        refined_sha256=refined_sha256(faces, config.labels),
        counts=faces.counts(),
    )
    write_json(
        path / "config.json",
        {"train": config.to_dict(), "data": data, "environment": describe_environment(config)},
    )
    return Run(path)


def record_resume(run: Run, config: TrainConfig, epoch: int) -> None:
    """Add to `resumed` in `config.json` what a training goes on with, if that is something new.

    Args:
        epoch: how many it has behind it.
    """
    keys = ("commit", "code", "processor", "precision", "torch")
    now = describe_environment(config)
    stages = [run.config["environment"], *run.config.get("resumed", [])]
    if any(stages[-1].get(key) != now[key] for key in keys):
        stages.append({"after_epoch": epoch} | {key: now[key] for key in keys})
        write_json(run.folder / "config.json", run.config | {"resumed": stages[1:]})


def describe_data(faces: FaceSet, **more: Any) -> dict[str, Any]:
    """What `config.json` says of the data, and `more`."""
    manifest = {key: faces.manifest.get(key) for key in ("layout", "source", "mark", "dropped")}
    return {"dataset": faces.name, **more, **manifest}


def new_folder(root: Path, model: str, faces: FaceSet, seed: int) -> Path:
    """Make `root/<timestamp>_<model>_<dataset>_s<seed>`; waits a second where that is taken."""
    dataset = re.sub(r"[^\w.-]+", "-", faces.name)
    while True:
        path = root / f"{datetime.now():%Y%m%d-%H%M%S}_{model}_{dataset}_s{seed}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            time.sleep(0.1)
        except OSError as error:
            raise InputError(f"{path} could not be made ({error.strerror})") from error


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `metrics.csv`, one row an epoch."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
