"""What runs, the audit and the refinement of labels have left, gathered as a report's results."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fer_lib.data import load_faces
from fer_lib.files import InputError, home, read_json, write_json
from fer_lib.in_depth import from_predictions
from fer_lib.kept import KEPT, keep
from fer_lib.models import MODULES, create_model
from fer_lib.recipes import RECIPES, recipe
from fer_lib.report.build import source
from fer_lib.report.results import AUDIT, COMPARISON, INDEX, MODELS, REFINEMENT, Results, has
from fer_lib.runs import Run, list_runs, runs_folder


def collect(
    folder: str | Path, *, dataset: str, preset: str, runs: str | Path | None = None
) -> list[str]:
    """Write `results/` of a report from finished runs and from what the notebooks wrote.

    Runs that are kept there already and belong to the same data and preset stay, so a run's folder
    may be deleted once it has been collected. Weights are never read. A run that notebook 09 has
    not looked at is evaluated from its predictions, which takes some seconds.

    Args:
        folder: of the report.
        runs: folder of all runs.

    Returns:
        Names of the files that the report is made of.

    Raises:
        InputError: there is no finished run, a file is missing or of other data, the comparison
            lacks a run, or drawn faces would go into the report of the repository.
    """
    results = Path(folder) / "results"
    manifest = read_json(home() / "data" / dataset / "manifest.json")
    if manifest.get("mark") and Path(folder).resolve() == source():
        raise InputError(
            f"numbers from {manifest['mark']} have no place in {folder}: give --folder"
        )
    finished = [run for run in list_runs(runs, preset=preset) if belongs(run, dataset, manifest)]
    comparison = runs_folder(runs) / f"comparison_{dataset}_{preset}" / COMPARISON
    content = read_comparison(comparison, [run for run in finished if is_of(run, dataset)])
    parts = {
        COMPARISON: content,
        AUDIT: audited(dataset, manifest),
        REFINEMENT: refined(dataset, manifest),
        MODELS: describe_models(),
    }
    judge([run for run in finished if is_of(run, dataset)], dataset)
    for run in finished:
        keep(run, results)
    for name, part in parts.items():
        if part is not None:
            write_json(results / name, part)
    names = [name for name in parts if parts[name] is not None]
    names += kept_runs(results, dataset, preset, manifest["fingerprint"])
    index = {"dataset": dataset, "preset": preset, "mark": content["mark"]}
    index |= {"fingerprint": manifest["fingerprint"], "files": sorted(names)}
    write_json(results / INDEX, index)
    Results(results)  # what is wrong with them is said right here
    return index["files"]


def judge(runs: list[Run], dataset: str) -> None:
    """Write each run's `evaluation.json` from its predictions, where notebook 09 has not."""
    paths = {run.folder / "evaluation.json": run for run in runs}
    # One of an earlier version has no calibration.
    todo = [path for path in paths if not (path.exists() and has(read_json(path), "calibration"))]
    faces = load_faces(dataset) if todo else None
    for path in todo:
        write_json(path, from_predictions(paths[path], faces))


def is_of(run: Run, dataset: str) -> bool:
    return run.config["data"]["dataset"] == dataset


def belongs(run: Run, dataset: str, manifest: dict[str, Any]) -> bool:
    """Whether a run is of these data, or of other labels of the same kind of faces, all real."""
    if is_of(run, dataset):
        return run.fingerprint == manifest["fingerprint"]
    return not manifest.get("mark") and not run.config["data"].get("mark")


def kept_runs(results: Path, dataset: str, preset: str, fingerprint: str) -> list[str]:
    """Names of the files of runs in `results` that belong to this report."""
    names = []
    for path in sorted(results.glob(KEPT)):
        config = read_json(path)["config"]
        data = config["data"]
        same = data["fingerprint"] == fingerprint or data["dataset"] != dataset
        if same and config["train"]["preset"] == preset:
            names.append(path.name)
    return names


def read_comparison(path: Path, runs: list[Run]) -> dict[str, Any]:
    """The comparison of notebook 10; InputError where it is missing, or older than a run."""
    if not path.exists():
        raise InputError(f"{path} does not exist: run notebook 10_comparison first")
    content = read_json(path)
    compared = {row["run"] for row in content["runs"]}
    if absent := sorted({run.name for run in runs} - compared):
        raise InputError(f"{path} is stale: it lacks {absent[0]}: run notebook 10_comparison again")
    return content


def audited(dataset: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """The audit of notebook 01 without the ids of single images, and what the manifest counts."""
    path = home() / "data" / dataset / AUDIT
    if not path.exists():
        raise InputError(f"{path} does not exist: run notebook 01_data first")
    content = read_json(path)
    require_same(path, content, manifest, "01_data")
    content.pop("clean_test_ids", None)
    known = {key: manifest.get(key) for key in ("counts", "layout", "dropped")}
    return content | {"manifest": known}


def refined(dataset: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What notebook 02 found; None where it has not been run."""
    path = home() / "data" / dataset / REFINEMENT
    if not path.exists():
        return None
    content = read_json(path)
    require_same(path, content, manifest, "02_label_refinement")
    return content


def require_same(path: Path, content: dict, manifest: dict, notebook: str) -> None:
    if content["fingerprint"] != manifest["fingerprint"]:
        raise InputError(f"{path} is stale, made from other data: run notebook {notebook} again")


def describe_models() -> dict[str, Any]:
    """Size, input and recipes of every model at its full size; no weights are made or read."""
    described = {}
    for name in MODULES:
        with torch.device("meta"):
            model = create_model(name)
        recipes = {
            kind: json.loads(json.dumps(asdict(recipe(name, kind))))
            for model_name, kind in RECIPES
            if model_name == name
        }
        described[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "input": list(model.pretrained_cfg["input_size"]),
            "recipes": recipes,
        }
    return described
