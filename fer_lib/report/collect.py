"""Collect the results of runs, the audit and the refinement of labels for a report."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fer_lib.changed import changed_settings, label, same_network, taken_out
from fer_lib.config import TrainConfig
from fer_lib.data import load_faces
from fer_lib.data.loading import KINDS
from fer_lib.files import InputError, home, read_json, write_json
from fer_lib.in_depth import from_predictions
from fer_lib.kept import KEPT, keep_labels, keep_results
from fer_lib.models import MODULES
from fer_lib.pretrain import pretraining
from fer_lib.provenance import training_command
from fer_lib.report.build import source
from fer_lib.report.parts import audited, describe_models, read_comparison, refined
from fer_lib.report.results import (
    AUDIT,
    COMPARISON,
    INDEX,
    MODELS,
    NEEDED_OF_AN_EVALUATION,
    REFINEMENT,
    Results,
    has,
)
from fer_lib.runs import Run, list_runs, runs_folder


def collect(
    folder: str | Path, *, dataset: str, preset: str, runs: str | Path | None = None
) -> list[str]:
    """Write `results/` of a report from finished runs and from what the notebooks wrote.

    Runs that are kept there already stay if they belong to the report (see `kept_runs`), so a run's
    folder may be deleted once it has been collected. Weights are never read. A run that notebook 09
    has not evaluated is evaluated from its predictions, which takes some seconds. Everything is
    gathered and checked in a temporary folder first, so that an error leaves `results/` as it is.

    Args:
        folder: folder of the report.
        dataset: of the report; runs of other public datasets are collected too, unless its data
            have a mark.
        preset: of the runs.
        runs: folder of all runs; None for `runs/` at home.

    Returns:
        Names of the files that the report is made of.

    Raises:
        InputError: there is no finished run, a file is missing or made from other data, the
            comparison lacks a run, or numbers from data with a mark, such as drawn faces, or from
            the user's own pictures would go into the report of the repository.
    """
    results, manifest = Path(folder) / "results", manifest_for(folder, dataset)
    finished = [
        run
        for run in list_runs(runs, preset=preset)
        if belongs(run.config["data"], dataset, manifest)
    ]
    comparison = runs_folder(runs) / f"comparison_{dataset}_{preset}" / COMPARISON
    own = [run for run in finished if run.config["data"]["dataset"] == dataset]
    kept = kept_runs(results, dataset, preset, manifest)
    parts = {
        COMPARISON: read_comparison(comparison, own, manifest, kept),
        AUDIT: audited(dataset, manifest),
        REFINEMENT: refined(dataset, preset, manifest, results),
        MODELS: describe_models(),
    }
    judge(own, dataset)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".collect") as staged:
        gather(Path(staged), kept, finished, parts)
        about = {"dataset": dataset, "preset": preset, "mark": parts[COMPARISON]["mark"]}
        write_json(Path(staged) / INDEX, indexed(Path(staged), about, manifest["fingerprint"]))
        files = publish(Path(staged), results)
    for run in finished:
        if note := keep_labels(run, results):
            print(note)
    return files


def manifest_for(folder: str | Path, dataset: str) -> dict[str, Any]:
    """Return the manifest of the data that a report is about.

    Raises:
        InputError: there is no complete one, or numbers from these data have no place in `folder`.
    """
    path = home() / "data" / dataset / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if "fingerprint" not in manifest:  # which is so while the cache is written
        raise InputError(f"{path} is not there or not complete: run notebook 01_data first")
    private = "" if dataset in KINDS else f"{dataset}, which is not a public dataset,"
    if (odd := manifest.get("mark") or private) and Path(folder).resolve() == source():
        raise InputError(
            f"numbers from {odd} have no place in {folder}: name another folder with --folder"
        )
    return manifest


def gather(staged: Path, kept: list[Path], finished: list[Run], parts: dict[str, Any]) -> None:
    """Write kept runs, finished runs and the other parts that there are into a temporary folder."""
    for file in kept:
        for path in (file, *file.parent.glob(f"{file.stem}*.npz")):
            shutil.copy(path, staged)
    for run in finished:
        keep_results(run, staged)
    for name, part in parts.items():
        if part is not None:
            write_json(staged / name, part)


def publish(staged: Path, results: Path) -> list[str]:
    """Check the files in a temporary folder, then move them into `results/`, the index last.

    Returns:
        Names of the files that the index lists.

    Raises:
        InputError: a file cannot be used; nothing is moved.
    """
    files = Results(staged).index["files"]
    results.mkdir(exist_ok=True)
    predictions = [path.name for path in staged.glob("*.npz")]
    for name in [*files, *predictions, INDEX]:
        os.replace(staged / name, results / name)
    return files


def indexed(folder: Path, about: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the content of `index.json` for the files in a folder (see `report.results`).

    It begins with `about`: `dataset`, `preset` and `mark`.
    """
    files = sorted(path.name for path in folder.glob("*.json"))
    runs = {path.name: read_json(path) for path in sorted(folder.glob(KEPT))}
    first: dict[str, str] = {}
    predicted = {path.stem for path in folder.glob("*.npz")}
    standings = {name: (Path(name).stem in predicted, *standing(runs[name])) for name in runs}
    for name in sorted(runs, key=standings.get, reverse=True):
        if runs[name]["config"]["data"]["dataset"] == about["dataset"]:
            first.setdefault(runs[name]["config"]["train"]["model"], name)
    if not first:
        raise InputError(f"no finished run of {about['dataset']} is there: train one first")
    configs = {name: TrainConfig.from_dict(run["config"]["train"]) for name, run in runs.items()}
    return {
        **about,
        "fingerprint": fingerprint,
        "files": files,
        "headlines": [first[model] for model in MODULES if model in first],
        "best": next(iter(first.values())),
        "networks": {
            name: {"label": label(runs[name]["config"]), "own": same_network(config.to_dict())}
            for name, config in configs.items()
        },
        "settings": {name: " ".join(changed_settings(config)) for name, config in configs.items()},
        "pretraining": pretraining(about["preset"]).to_dict(),
        "commands": {
            name: training_command(config, runs[name]["config"]["data"]["dataset"])
            for name, config in configs.items()
        },
    }


def standing(run: dict[str, Any]) -> tuple[bool, bool, float]:
    """Return whether a kept run was evaluated in depth, has a complete network, and its accuracy.

    The accuracy is that on validation. A run of which only the scores are left cannot represent its
    model in most chapters, nor can a network from which a part was removed to see what it adds.
    """
    whole = not taken_out(run["config"]["train"])
    return "evaluation" in run, whole, run["results"]["valid"]["full"]["accuracy"]


def judge(runs: list[Run], dataset: str) -> None:
    """Write `evaluation.json`, from predictions, of each run that notebook 09 has not evaluated.

    A file of an earlier version, which lacks a part, is made again; what was computed from the
    weights stays in it.
    """
    todo = {}
    for run in runs:
        path = run.folder / "evaluation.json"
        found = read_json(path) if path.exists() else {}
        if not all(has(found, key) for key in NEEDED_OF_AN_EVALUATION):
            todo[path] = run
    faces = load_faces(dataset) if todo else None
    for path, run in todo.items():
        write_json(path, from_predictions(run, faces))


def belongs(data: dict[str, Any], dataset: str, manifest: dict[str, Any]) -> bool:
    """Return whether a run's data are these or, if these have no mark, other public ones.

    Public data are neither drawn nor one's own, and have no mark.
    """
    if data["dataset"] == dataset:
        return data["fingerprint"] == manifest["fingerprint"]
    return data["dataset"] in KINDS and not (data.get("mark") or manifest.get("mark"))


def kept_runs(results: Path, dataset: str, preset: str, manifest: dict[str, Any]) -> list[Path]:
    """List the files of kept runs of this preset whose data belong to the report."""
    configs = {path: read_json(path)["config"] for path in sorted(results.glob(KEPT))}
    return [
        path
        for path, config in configs.items()
        if config["train"]["preset"] == preset and belongs(config["data"], dataset, manifest)
    ]
