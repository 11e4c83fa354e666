"""Read the parts of a report beside its runs: comparison, audit, refinement and models."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fer_lib import compare
from fer_lib.files import InputError, home, read_json
from fer_lib.models import MODULES, create_model
from fer_lib.provenance import public_path
from fer_lib.recipes import RECIPES, recipe
from fer_lib.report.results import AUDIT, COMPARISON, NEEDED, REFINEMENT, has
from fer_lib.runs import Run


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
    needed = (key for key in NEEDED[COMPARISON] if key != "printed_claims")  # which is added below
    if lacking := [key for key in needed if not has(content, key)]:
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
