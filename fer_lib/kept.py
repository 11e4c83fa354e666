"""Keep results in the repository: one file per run, and tables of the best runs and of all.

    python -m fer_lib.kept runs/20260101-000000_baseline_cnn_fer2013_s0
    python -m fer_lib.kept
    python -m fer_lib.kept --restore

The first command keeps the results of a finished run in `report/results/`. The first two write the
tables of all kept results: the best run of each kind in the README, and all runs, with the settings
that they changed, in `report/results/README.md`. `python -m fer_lib.report --collect` adds new
results to the report. The last command makes run folders, without weights, from the kept results,
so that everything that depends on predictions can be computed again. Refined labels that a kept run
learned from are kept too, and put back into `data/`.
"""

import argparse
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.config import TrainConfig
from fer_lib.data.refined import LABELS, read_refined, refined_path
from fer_lib.evaluate import load_predictions, save_predictions
from fer_lib.files import InputError, read_json, replacing, sha256, write_json
from fer_lib.markdown import around_table, write_table
from fer_lib.models.weights import FILES
from fer_lib.networks import label
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.provenance import public_command, public_path, short
from fer_lib.recipes import changed_settings
from fer_lib.runs import Run, runs_folder, write_metrics

KIND = ["model", "data", "recipe"]
"""Columns that define a kind of run; the project's README shows the best run of each kind."""

SHORT = (
    *("model", "data", "test accuracy (95 %)", "one view", "clean test", "macro-F1", "validation"),
    *("recipe", "runs", "epochs", "on"),
)
"""Columns of the table in the project's README; the other table has more, but not `runs`."""

KEPT = "[0-9]*_*_s[0-9]*.json"
"""Pattern of the file names of kept runs; other results are in the same folder."""


def keep_results(run: Run, folder: Path) -> None:
    """Write the results of a finished run to one file in `folder`.

    The file has the parts `config`, `results`, `metrics` (a list of rows, one per epoch) and, if
    the run folder has them, `evaluation` and `inference`. If the run started from one of our own
    pretrainings, `config` also says where that comes from. The folder of the data and all other
    folders of the user are left out. Predictions are written beside it in half precision.

    Raises:
        InputError: the run is unfinished.
    """
    run.require_finished()
    data = {key: value for key, value in run.config["data"].items() if key != "source"}
    environment = dict(run.config["environment"])
    if known := FILES.get(environment.get("pretrained_sha256")):
        environment["pretrained_name"] = known
    command = public_command(environment["command"])
    train = dict(run.config["train"])
    pretraining = pretraining_of(run.config)
    if isinstance(train["pretrained"], str):  # all runs name their files alike: say which run
        train["pretrained"] = public_path(train["pretrained"])
    config = {
        **run.config,
        "train": train,
        "data": data,
        "environment": {**environment, "command": command},
        **({"pretraining": pretraining} if pretraining else {}),
    }
    rows = json.loads(run.metrics().to_json(orient="records", double_precision=15))
    parts = {"config": config, "results": run.results, "metrics": rows}
    for part in ("evaluation", "inference"):
        path = run.folder / f"{part}.json"
        if path.exists():
            parts[part] = read_json(path)
    if (path := run.folder / "predictions.npz").exists():
        save_predictions(folder / f"{run.name}.npz", load_predictions(path), small=True)
    write_json(folder / f"{run.name}.json", parts)  # last, as this file makes the run a kept one


def keep_labels(run: Run, folder: Path) -> str:
    """Copy the refined labels that a run learned from to `<dataset>_refined_<rule>_<digits>.npz`.

    The digits are the first of the file's SHA-256.

    Returns:
        "", or why the labels cannot be kept: those in `data/` are missing or others.
    """
    match, dataset = LABELS.fullmatch(run.config["train"]["labels"]), run.results["dataset"]
    if not match or kept_labels(run.config, dataset, folder):
        return ""
    source = refined_path(dataset, match[1])
    if not source.exists() or not _teaches(source, run.config, soft=bool(match[2])):
        return f"the labels that {run.name} learned from are not kept: {source} has them no longer"
    with replacing(folder / f"{dataset}_{source.stem}_{sha256(source)[:8]}.npz") as temporary:
        shutil.copyfile(source, temporary)
    return ""


def kept_labels(config: dict[str, Any], dataset: str, folder: Path) -> Path | None:
    """Return the kept file of the refined labels that a run learned from; None if there is none."""
    match = LABELS.fullmatch(config["train"]["labels"])
    files = folder.glob(f"{dataset}_refined_{match[1]}_*.npz") if match else ()
    return next((path for path in files if _teaches(path, config, soft=bool(match[2]))), None)


def _teaches(path: Path, config: dict[str, Any], soft: bool) -> bool:
    return read_refined(path)[0].sha256(soft) == config["data"]["refined_sha256"]


def restore_labels(folder: Path) -> list[str]:
    """Put refined labels that kept runs learned from back into `data/`, where there are none.

    If runs learned from different labels by one rule, it puts back those of the newest run.

    Returns:
        A line for each new file, and for each run that learned from other labels than `data/` has.

    Raises:
        InputError: a file of labels is damaged.
    """
    lines = []
    for path in sorted(folder.glob(KEPT), reverse=True):
        kept = read_json(path)
        dataset = kept["results"]["dataset"]
        if labels := kept_labels(kept["config"], dataset, folder):
            target = refined_path(dataset, read_refined(labels)[0].rule)
            if not target.exists():
                with replacing(target) as temporary:
                    shutil.copyfile(labels, temporary)
                lines.append(f"{target} is made")
            elif target.read_bytes() != labels.read_bytes():
                lines.append(f"{target} has other labels than {path.stem} learned from: {labels}")
    return lines


def restore(folder: Path, runs: str | Path | None = None) -> list[Run]:
    """Make run folders for the runs whose predictions are kept in `folder`.

    They have all that a comparison and a report need, but no weights. Runs that already exist are
    not changed. Runs with settings that this version no longer knows are left out; a printed line
    names them.

    Args:
        runs: folder of all runs; None: `runs/` in `files.home()`.

    Returns:
        The new runs.

    Raises:
        InputError: `folder` has no predictions, or a file in it is damaged.
    """
    new, files = [], [p for p in sorted(folder.glob("*.npz")) if p.with_suffix(".json").exists()]
    if not files:
        raise InputError(
            f"{folder} has no predictions: run this from the root of the repository, or keep a "
            "finished run first"
        )
    for path in files:
        target = runs_folder(runs) / path.stem
        if target.exists():
            continue
        kept, predictions = read_json(path.with_suffix(".json")), load_predictions(path)
        temporary = target.with_name(f".{target.name}.partial")
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            for part in kept.keys() - {"metrics"}:
                write_json(temporary / f"{part}.json", kept[part])
            write_metrics(temporary / "metrics.csv", kept["metrics"])
            save_predictions(temporary / "predictions.npz", predictions)
            Run(temporary)  # raises for settings that no longer exist
            temporary.rename(target)
        except InputError as error:
            print(f"left out: {path} ({error})")
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        new.append(Run(target))
    return new


def results_table(folder: Path) -> pd.DataFrame:
    """Return a table of text with a row per kept run.

    The rows are sorted by dataset, then by validation accuracy with the best run first.

    Raises:
        InputError: `folder` contains no kept run.
    """
    files = sorted(folder.glob(KEPT))
    if not files:
        raise InputError(
            f"{folder} contains no kept results: keep a finished run first, with "
            "python -m fer_lib.kept runs/RUN"
        )
    every = [read_json(path) for path in files]
    score = lambda results: (results["dataset"], -results["valid"]["full"]["accuracy"])
    every.sort(key=lambda kept: score(kept["results"]))
    return pd.DataFrame(map(_row, every))


def best_of_each(table: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each kind that is best on validation, with the number of its `runs`.

    Args:
        table: as `results_table` returns it, with the best run first.
    """
    runs = table.groupby(KIND)["model"].transform("size").astype(str)
    return table.assign(runs=runs).drop_duplicates(KIND)[list(SHORT)]


def on_real_faces(*models: str) -> pd.DataFrame:
    """Return the rows of the README's table for some models; none if this is not a clone."""
    folder = Path(__file__).resolve().parents[1] / "report" / "results"
    if not any(folder.glob(KEPT)):
        return pd.DataFrame(columns=SHORT)
    table = best_of_each(results_table(folder))
    return table[table["model"].str.split().str[0].isin(models)].set_index("model")


def _row(kept: dict[str, Any]) -> dict[str, str]:
    results, environment = kept["results"], kept["config"]["environment"]
    train = kept["config"]["train"]
    labels, backbone, seed = train["labels"], train["options"].get("backbone", ""), train["seed"]
    shown = (f"labels={labels}", f"backbone={backbone}")  # they have columns of their own
    changed = [part for part in _setting(train) if part not in shown]
    if start := environment.get("pretrained_name"):
        changed = [part for part in changed if not part.startswith("pretrained=")]
        changed = [f"from {start}", *changed]
    learned = () if labels == "original" else (f"{labels} labels",)
    full, clean, people = (
        results["test"].get(part) for part in ("full", "clean", "ferplus_majority")
    )
    low, high = full["interval"]["accuracy"]
    alone = None if train["flip_tta"] else full["accuracy"]
    one_view = results.get("one_view", {"test": alone})["test"]
    return {
        "model": label(kept["config"]),
        "data": " ".join(filter(None, (results["dataset"], *learned, results["mark"]))),
        "test accuracy (95 %)": f"{full['accuracy']:.1%} ({low:.1%} to {high:.1%})",
        "one view": "" if one_view is None else f"{one_view:.1%}",
        "clean test": f"{clean['accuracy']:.1%}" if clean else "",
        "majority": f"{people['accuracy']:.1%}" if people else "",
        "macro-F1": f"{full['macro_f1']:.3f}",
        "balanced": f"{full['balanced_accuracy']:.1%}",
        "validation": f"{results['valid']['full']['accuracy']:.1%}",
        "recipe": f"{results['recipe']}{'*' * any(changed)}, {results['preset']}",
        "seed": str(seed),
        "epochs": str(results["epochs"]),
        "on": f"{environment['processor']}, torch {environment['torch']}",
        "commit": ", ".join(
            dict.fromkeys(
                short(stage["commit"])
                for stage in (environment, *kept["config"].get("resumed", []))
            )
        ),
        "changed in the recipe": " ".join(changed),
    }


def train_config(train: dict[str, Any]) -> TrainConfig:
    """Return the settings of a kept run, without those that no longer exist."""
    known = {field.name for field in fields(TrainConfig)}
    return TrainConfig.from_dict({key: value for key, value in train.items() if key in known})


def _setting(train: dict[str, Any]) -> list[str]:
    """List a kept run's changes to its recipe; settings that no longer exist count as changes."""
    now = train_config(train)
    gone = [f"{key}={value}" for key, value in train.items() if key not in now.to_dict() and value]
    return changed_settings(now) + gone


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the tables, or restore runs; run from the root of the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.kept", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--restore", action="store_true", help="make run folders from kept results")
    args = parser.parse_args(arguments)
    folder, readme = Path("report/results"), Path("README.md")
    try:
        if args.restore:
            for line in restore_labels(folder):
                print(line)
            new = restore(folder)
            for run in new:
                print(f"{run.folder} is made, without weights: delete it to train the run again")
            if not new:
                print(f"all runs with predictions in {folder} are in {runs_folder()} already")
            return
        for tables in (readme, folder / "README.md"):
            around_table(tables)  # raises before anything is written
        for run in map(Run, args.runs):
            if "sample data" in (run.config["data"].get("mark") or ""):
                raise InputError(f"{run.folder} is of sample data, but {folder} is for real data")
            run.require_finished()
        for run in map(Run, args.runs):
            keep_results(run, folder)
            print(f"{run.name} is kept in {folder}")
            if note := keep_labels(run, folder):
                print(note)
        table = results_table(folder)
        write_table(readme, best_of_each(table))
        write_table(folder / readme, table)
        print(f"the tables in {readme} and {folder / readme} show all results in {folder}")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
