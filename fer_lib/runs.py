"""Folders of runs: create them, find them again, and read what a training wrote."""

import csv
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from fer_lib.checkpoints import load_weights
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.data.refined import refined_sha256
from fer_lib.files import InputError, expanded, home, read_json, replacing, write_json
from fer_lib.provenance import describe_environment, pretrained_sha256
from fer_lib.starts import started_from

if TYPE_CHECKING:
    from pandas import DataFrame

STAGE = (
    *("commit", "code", "processor", "threads", "processes", "precision"),
    *("python", "torch", "torchvision", "timm", "accelerate", "transformers", "numpy"),
)
"""Entries of a run's environment that are recorded again if one changes before the run ends."""


class RunFolder:
    """The folder of one training, which is unfinished until it contains `results.json`.

    Attributes:
        config: the content of `config.json`.
        fingerprint: SHA-256 of the data that the run was trained on.
        scores: the entries of `results.json` that runs of this kind have, besides `mark`.

    Raises:
        InputError: the folder has no `config.json`, or one without the data or the environment.
    """

    scores: tuple[str, ...] = ()

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "config.json").exists():
            raise InputError(f"{self.folder} is not a run folder: it has no config.json")
        self.config = read_json(self.folder / "config.json")
        try:
            self.fingerprint: str = self.config["data"]["fingerprint"]
            self.config["environment"].get("code")  # which every training compares
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                f"{self.folder} is not a run: its config.json does not name data and environment"
            ) from None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "results.json").exists()

    @property
    def begun(self) -> bool:
        """Whether an epoch has been trained and saved."""
        return self.finished or self.state_path.exists()

    @property
    def results(self) -> dict[str, Any]:
        """The content of `results.json`; raises InputError if it is missing or damaged."""
        results = read_json(path := self.folder / "results.json")
        if not (isinstance(results, dict) and {"mark", *self.scores} <= results.keys()):
            raise InputError(f"{path} lacks the results: delete it and create it again")
        return results

    @property
    def state_path(self) -> Path:
        """The file from which an unfinished run resumes."""
        return self.folder / "checkpoint" / "state.pt"

    def forget_state(self) -> None:
        """Delete that file, which a finished run does not need; it is larger than the weights."""
        shutil.rmtree(self.state_path.parent, ignore_errors=True)

    def require_finished(self) -> None:
        """Raise InputError if the run is unfinished."""
        if not self.finished:
            raise InputError(f"{self.folder} is unfinished: train it to its end first")

    def require_data(self, faces: FaceSet) -> None:
        """Raise InputError if the run was trained on other data than `faces`."""
        if self.fingerprint != faces.fingerprint:
            other = f"{self.folder} was trained on other data than this {faces.name}"
            alike = self.config["data"].get("dataset") in (None, faces.name)
            own, same = "give its own as data_dir (--data-dir)", "use runs on the same data only"
            remedy = own if alike else same
            raise InputError(f"{other}: {remedy}; docs/training.md says how to score it on others")

    def metrics(self) -> "DataFrame":
        """Read `metrics.csv`, which has one row per epoch."""
        import pandas as pd  # takes a second, and predictions do not need it

        return pd.read_csv(self.folder / "metrics.csv")

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"{type(self).__name__}({self.name}, {state})"


Kind = TypeVar("Kind", bound=RunFolder)


class Run(RunFolder):
    """The folder of one classifier's training, `runs/<timestamp>_<model>_<dataset>_s<seed>/`.

    Training an unfinished run again resumes it.

    Attributes:
        train_config: the settings of the training.

    Raises:
        InputError: the folder is not a run, or has settings that this version does not know.
    """

    scores = ("valid", "test")

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        try:
            self.train_config = TrainConfig.from_dict(self.config["train"])
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{self.folder} is not a run of this version ({error})") from error

    @property
    def has_weights(self) -> bool:
        """Whether the file of the best weights is here (it may have been deleted)."""
        return (self.folder / "best.safetensors").exists()

    @property
    def weights(self) -> Path:
        """The file of the best weights; raises InputError if it was deleted or never was here."""
        if not self.has_weights:
            raise InputError(
                f"the weights of {self.folder} are not here: delete that folder and train it again"
            )
        return self.folder / "best.safetensors"

    def load_model(self) -> nn.Module:
        """Load the best weights, in evaluation mode on the CPU; needs no network access."""
        return load_weights(self.weights)


def runs_folder(folder: str | Path | None = None) -> Path:
    """Return the folder of all runs: the given one, or `runs/` in `files.home()`."""
    return expanded(folder) if folder else home() / "runs"


def read_runs(root: Path, kind: type[Kind]) -> list[Kind]:
    """Read the runs of a kind in a folder, oldest first; print once which cannot be read."""
    found = []
    for path in sorted(root.glob("[!.]*/config.json")):  # a dot marks a half-made folder
        try:
            found.append(kind(path.parent))
        except InputError as error:
            leave_out(str(error))
    return found


leave_out = cache(lambda reason: print(f"left out: {reason}"))  # a campaign reads every 5 s


def newest(runs: Iterable[Kind]) -> Kind | None:
    """Return the newest run, a finished one if there is one; None if there are no runs."""
    return max(runs, key=lambda run: (run.finished, run.name), default=None)


def list_runs(
    folder: str | Path | None = None,
    *,
    fingerprint: str | None = None,
    preset: str | None = None,
    finished: bool = True,
) -> list[Run]:
    """List the runs in a folder, oldest first.

    Args:
        folder: folder of all runs; None: `runs/` in `files.home()`.
        fingerprint: only runs on the data with this SHA-256; None: on any data.
        preset: only runs with this preset; None: with any.
        finished: only finished runs; False: unfinished ones too.
    """
    return [
        run
        for run in read_runs(runs_folder(folder), Run)
        if fingerprint in (None, run.fingerprint)
        and preset in (None, run.train_config.preset)
        and (run.finished or not finished)
    ]


def find_run(config: TrainConfig, faces: FaceSet, folder: str | Path | None = None) -> Run | None:
    """Find the newest run of this config on these data, a finished one if there is one.

    `cuda_graph` may differ: how steps are launched makes no difference beyond rounding. If the
    weights file or the refined labels of `config` exist, their content must be what the run used;
    the weights file may have moved. Returns None if there is no such run.
    """
    start, refined = pretrained_sha256(config), refined_sha256(faces, config.labels)

    def is_same(run: Run) -> bool:
        known = run.config["environment"].get("pretrained_sha256")
        settings = replace(run.train_config, cuda_graph=config.cuda_graph)
        if start and known:  # the file may have moved
            settings = replace(settings, pretrained=config.pretrained)
        same_labels = refined in (None, run.config["data"].get("refined_sha256"))
        same_start = start in (None, known)
        return same_labels and same_start and settings.to_dict() == config.to_dict()

    return newest(filter(is_same, list_runs(folder, fingerprint=faces.fingerprint, finished=False)))


def start_run(config: TrainConfig, faces: FaceSet, folder: str | Path | None = None) -> Run:
    """Create a new run folder with its `config.json`."""
    path = new_folder(runs_folder(folder), config.model, faces, config.seed)
    data = describe_data(
        faces,
        classes=list(faces.classes),
        refined_sha256=refined_sha256(faces, config.labels),
        counts=faces.counts(),
    )
    known = {
        "train": config.to_dict(),
        "data": data,
        "environment": describe_environment(config),
        "started_from": started_from(config),
    }
    write_json(path / "config.json", known)
    return Run(path)


def record_resume(run: RunFolder, now: dict[str, Any], epoch: int) -> None:
    """Record in `config.json` that a run goes on under changed conditions.

    Appends to `resumed` a stage with `after_epoch` and the entries of `now` that `STAGE` names,
    unless nothing changed in them. A run that has trained no epoch yet gets `now` as its
    environment, if its start changed too: what trains it is the code, the machine and the weights
    from the hub of now.

    Args:
        now: the environment, as in the run's `config.json`.
        epoch: number of epochs trained so far.
    """
    stages = [run.config["environment"], *run.config.get("resumed", [])]
    names = STAGE if epoch else (*STAGE, "pretrained_sha256")
    stage = {key: now[key] for key in names if key in now}
    # Stages that older code wrote lack some entries: the last known value of each counts.
    known = {key: value for one in stages for key, value in one.items()}
    if all(known.get(key, value) == value for key, value in stage.items()):
        return
    changed = {"environment": now}
    if epoch:
        changed = {"resumed": [*stages[1:], {"after_epoch": epoch} | stage]}
    run.config |= changed
    write_json(run.folder / "config.json", run.config)


def describe_data(faces: FaceSet, **more: Any) -> dict[str, Any]:
    """Return what `config.json` says about the data, with `more` added."""
    told = ("layout", "source", "mark", "dropped", "split")
    manifest = {key: faces.manifest.get(key) for key in told}
    return {"dataset": faces.name, "fingerprint": faces.fingerprint, **more, **manifest}


def new_folder(root: Path, model: str, faces: FaceSet, seed: int) -> Path:
    """Create `root/<timestamp>_<model>_<dataset>_s<seed>`; waits up to a second if that exists."""
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
    """Write `metrics.csv`, one row per epoch."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        names = dict.fromkeys(name for row in rows for name in row)  # other code may log more
        writer = csv.DictWriter(file, fieldnames=list(names), restval="")
        writer.writeheader()
        writer.writerows(rows)
