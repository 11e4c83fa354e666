"""Collect the results of runs, the audit and the refinement of labels for a report."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fer_lib import compare
from fer_lib.data import load_faces
from fer_lib.data.loading import KINDS
from fer_lib.files import InputError, home, read_json, write_json
from fer_lib.in_depth import from_predictions
from fer_lib.kept import KEPT, keep_labels, keep_results, train_config
from fer_lib.models import MODULES, create_model
from fer_lib.networks import label, same_network, taken_out
from fer_lib.pretrain import pretraining
from fer_lib.provenance import public_path, training_command
from fer_lib.recipes import RECIPES, changed_settings, recipe
from fer_lib.report.build import source
from fer_lib.report.results import (
    AUDIT,
    COMPARISON,
    INDEX,
    MODELS,
    NEEDED,
    REFINEMENT,
    Results,
    has,
    lacking_in_rows,
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
            comparison lacks a run, or numbers from data with a mark, such as drawn faces, would go
            into the report of the repository.
    """
    results = Path(folder) / "results"
    path = home() / "data" / dataset / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if "fingerprint" not in manifest:  # which is so while the cache is written
        raise InputError(f"{path} is not there or not complete: run notebook 01_data first")
    if manifest.get("mark") and Path(folder).resolve() == source():
        raise InputError(
            f"numbers from {manifest['mark']} have no place in {folder}: name another folder "
            "with --folder"
        )
    finished = [run for run in list_runs(runs, preset=preset) if belongs(run, dataset, manifest)]
    comparison = runs_folder(runs) / f"comparison_{dataset}_{preset}" / COMPARISON
    own = [run for run in finished if is_of(run, dataset)]
    kept = kept_runs(results, dataset, preset, manifest["fingerprint"])
    parts = {
        COMPARISON: read_comparison(comparison, own, manifest, kept),
        AUDIT: audited(dataset, manifest),
        REFINEMENT: refined(dataset, preset, manifest, results),
        MODELS: describe_models(),
    }
    judge(own, dataset)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".collect") as staged:
        for file in kept:
            for path in (file, file.with_suffix(".npz")):
                if path.exists():
                    shutil.copy(path, staged)
        for run in finished:
            keep_results(run, Path(staged))
        for name, part in parts.items():
            if part is not None:
                write_json(Path(staged) / name, part)
        about = {"dataset": dataset, "preset": preset, "mark": parts[COMPARISON]["mark"]}
        write_json(Path(staged) / INDEX, indexed(Path(staged), about, manifest["fingerprint"]))
        files = Results(staged).index["files"]  # raises InputError if a file cannot be used
        results.mkdir(exist_ok=True)
        predictions = [path.name for path in Path(staged).glob("*.npz")]
        for name in [*files, *predictions, INDEX]:
            os.replace(Path(staged) / name, results / name)
    for run in finished:
        if note := keep_labels(run, results):
            print(note)
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
    configs = {name: train_config(run["config"]["train"]) for name, run in runs.items()}
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
    """Write `evaluation.json`, from predictions, of each run that notebook 09 has not evaluated."""
    paths = {run.folder / "evaluation.json": run for run in runs}
    # A file of an earlier version has no calibration and is made again.
    todo = [path for path in paths if not (path.exists() and has(read_json(path), "calibration"))]
    faces = load_faces(dataset) if todo else None
    for path in todo:
        write_json(path, from_predictions(paths[path], faces))


def is_of(run: Run, dataset: str) -> bool:
    return run.config["data"]["dataset"] == dataset


def belongs(run: Run, dataset: str, manifest: dict[str, Any]) -> bool:
    """Return whether a run is of these data or, if they have no mark, of other public data."""
    if is_of(run, dataset):
        return run.fingerprint == manifest["fingerprint"]
    return not manifest.get("mark") and public(run.config["data"])


def public(data: dict[str, Any]) -> bool:
    """Return whether a run's data are a public dataset: not drawn, not one's own, no mark."""
    return data["dataset"] in KINDS and not data.get("mark")


def kept_runs(results: Path, dataset: str, preset: str, fingerprint: str) -> list[Path]:
    """List the files of kept runs of this preset and of these data or other public ones."""
    found = []
    for path in sorted(results.glob(KEPT)):
        config = read_json(path)["config"]
        data = config["data"]
        other = data["dataset"] != dataset and public(data)
        same = data["dataset"] == dataset and data["fingerprint"] == fingerprint
        if (same or other) and config["train"]["preset"] == preset:
            found.append(path)
    return found


def read_comparison(
    path: Path, runs: list[Run], manifest: dict[str, Any], kept: Iterable[Path] = ()
) -> dict[str, Any]:
    """Read the comparison of notebook 10, and add its table of claims as `printed_claims`.

    Args:
        path: of `comparison.json`.
        runs: must all be in the comparison.
        manifest: of the data.
        kept: files of kept runs; those of the same data with predictions must be in it too.

    Raises:
        InputError: the comparison is missing, made from other data or by an earlier version, or
            lacks a run, or its runs have other names now.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: run notebook 10_comparison first")
    content = read_json(path)
    lacking = [key for key in NEEDED[COMPARISON] if key not in (*content, "printed_claims")]
    if lacking := lacking or lacking_in_rows(content):
        raise InputError(f"{path} lacks {lacking[0]}: run notebook 10_comparison again")
    require_same(path, content, manifest, "10_comparison")
    compared = {row["run"] for row in content["runs"]}
    if absent := sorted({run.name for run in runs} - compared):
        raise InputError(f"{path} is stale: it lacks {absent[0]}: run notebook 10_comparison again")
    if gone := sorted(compared - {run.name for run in runs} - {file.stem for file in kept}):
        raise InputError(
            f"{path} is stale: the folder of its run {gone[0]} is gone: put it back, or run "
            "notebook 10_comparison again"
        )
    if compared == {run.name for run in runs}:  # names depend on all runs that are compared
        names = dict(zip((run.name for run in runs), compare.short_names(runs), strict=True))
        for row in content["runs"]:
            if row["name"] != (now := names[row["run"]]):
                raise InputError(
                    f"{path} is stale: it calls {row['run']} {row['name']!r}, and its name is now "
                    f"{now!r}: run notebook 10_comparison again"
                )
    for file in kept:
        data = read_json(file)["config"]["data"]
        same = data["fingerprint"] == manifest["fingerprint"] and file.with_suffix(".npz").exists()
        if same and file.stem not in compared:
            raise InputError(
                f"{path} lacks {file.stem}, which is kept in {file.parent}: restore its run folder "
                "with python -m fer_lib.kept --restore, then run notebook 10_comparison again"
            )
    table = compare.tables(content)["claims"].reset_index()
    return content | {"printed_claims": table.to_dict(orient="records")}


def audited(dataset: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Read the audit of notebook 01 without the ids of images, and add a part of the manifest.

    The part is `counts`, `layout` and `dropped`, under the key `manifest`.
    """
    path = home() / "data" / dataset / AUDIT
    if not path.exists():
        raise InputError(f"{path} does not exist: run notebook 01_data first")
    content = read_json(path)
    require_same(path, content, manifest, "01_data")
    content.pop("clean_test_ids", None)
    known = {key: manifest.get(key) for key in ("counts", "layout", "dropped")}
    return content | {"manifest": known}


def refined(
    dataset: str, preset: str, manifest: dict[str, Any], results: Path
) -> dict[str, Any] | None:
    """Read what notebook 02 found by a preset, from the data's folder or else from `results`.

    None if neither has a file of this preset and these data.

    Raises:
        InputError: the file in the data's folder was made from other data.
    """
    path, kept = home() / "data" / dataset / REFINEMENT, results / REFINEMENT
    if path.exists():
        content = read_json(path)
        require_same(path, content, manifest, "02_label_refinement")
        if (other := content.get("student", {}).get("preset")) == preset:
            for config in [*content["configs"], content["student"]]:
                if isinstance(config["pretrained"], str):
                    config["pretrained"] = public_path(config["pretrained"])
            return content
        print(f"{path} is of the preset {other}, so it is left out")
    if kept.exists():
        content = read_json(kept)
        same = content["fingerprint"] == manifest["fingerprint"]
        if same and content.get("student", {}).get("preset") == preset:
            return content
    return None


def require_same(path: Path, content: dict, manifest: dict, notebook: str) -> None:
    if content["fingerprint"] != manifest["fingerprint"]:
        raise InputError(f"{path} is stale, made from other data: run notebook {notebook} again")


def describe_models() -> dict[str, Any]:
    """Return size, input and recipes of every model at full size; no weights are made or read."""
    described = {}
    for name in MODULES:
        with torch.device("meta"):
            model = create_model(name)
        recipes = {
            kind: recipe(name, kind).to_dict() for model_name, kind in RECIPES if model_name == name
        }
        described[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "input": list(model.pretrained_cfg["input_size"]),
            "recipes": recipes,
        }
    return described
