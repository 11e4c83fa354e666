"""What runs, the audit and the refinement of labels have left, gathered as a report's results."""

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
from fer_lib.kept import KEPT, keep_results, train_config
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

    Runs that are kept there already and belong to the same data and preset stay, so a run's folder
    may be deleted once it has been collected. Weights are never read. A run that notebook 09 has
    not looked at is evaluated from its predictions, which takes some seconds. All is gathered and
    checked in a temporary folder first: where something is wrong, `results/` stays as it is.

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
    path = home() / "data" / dataset / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    if "fingerprint" not in manifest:  # as while the cache is written
        raise InputError(f"{path} is not there or not complete: run notebook 01_data first")
    if manifest.get("mark") and Path(folder).resolve() == source():
        raise InputError(
            f"numbers from {manifest['mark']} have no place in {folder}: give --folder"
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
        files = Results(staged).index["files"]  # what is wrong with them is said right here
        results.mkdir(exist_ok=True)
        predictions = [path.name for path in Path(staged).glob("*.npz")]
        for name in [*files, *predictions, INDEX]:
            os.replace(Path(staged) / name, results / name)
    return files


def indexed(folder: Path, about: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """What `index.json` says of the files of a folder; `about` is its beginning."""
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
    """Whether a kept run was evaluated in depth, is whole, and its validation accuracy.

    A run of which the scores alone are left cannot stand for its model in most chapters, nor can a
    network of which a part was taken out to see what that adds.
    """
    whole = not taken_out(run["config"]["train"])
    return "evaluation" in run, whole, run["results"]["valid"]["full"]["accuracy"]


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
    """Whether a run is of these data; or, where these are real, of other public ones."""
    if is_of(run, dataset):
        return run.fingerprint == manifest["fingerprint"]
    return not manifest.get("mark") and public(run.config["data"])


def public(data: dict[str, Any]) -> bool:
    """Whether data are those of a public dataset: neither drawn nor somebody's own."""
    return data["dataset"] in KINDS and not data.get("mark")


def kept_runs(results: Path, dataset: str, preset: str, fingerprint: str) -> list[Path]:
    """The files of runs in `results` that belong to this report."""
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
    """The comparison of notebook 10, with the cells of its table of claims as `printed_claims`.

    Args:
        kept: files of kept runs; those with predictions on the same data belong to it too.

    Raises:
        InputError: it is missing, of other data, or of an earlier version; or it lacks a run, a
            kept one or not, or has names that its runs do not have any more.
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
    if compared == {run.name for run in runs}:  # else other runs had a part in the names
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
                f"{path} lacks {file.stem}, which is kept in {file.parent}: make its run folder by "
                "python -m fer_lib.kept --restore, then run notebook 10_comparison again"
            )
    table = compare.tables(content)["claims"].reset_index()
    return content | {"printed_claims": table.to_dict(orient="records")}


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


def refined(
    dataset: str, preset: str, manifest: dict[str, Any], results: Path
) -> dict[str, Any] | None:
    """What notebook 02 found by this preset, here or as it is kept in `results`; None: nothing."""
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
    """Size, input and recipes of every model at its full size; no weights are made or read."""
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
