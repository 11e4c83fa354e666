"""Results that are kept in the repository: a file a run, and tables of the best and of all.

    python -m fer_lib.kept runs/20260101-000000_baseline_cnn_fer2013_s0
    python -m fer_lib.kept
    python -m fer_lib.kept --restore

The first keeps what a finished run has found in `report/results/`; the first two make the tables of
what is kept there: the best of each kind in the README, and all, with every setting, in
`report/results/README.md`. The report takes new ones up by `python -m fer_lib.report --collect`.
The last makes run folders, but no weights, of what is kept, so that everything that comes from
predictions can be computed anew.
"""

import argparse
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.config import TrainConfig
from fer_lib.evaluate import load_predictions, save_predictions
from fer_lib.files import InputError, read_json, write_json
from fer_lib.markdown import around_table, write_table
from fer_lib.models.weights import FILES
from fer_lib.networks import label
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.provenance import public_command, public_path, short
from fer_lib.recipes import changed_settings
from fer_lib.runs import Run, runs_folder, write_metrics

KIND = ["model", "data", "recipe"]
"""What tells the rows of the project's README apart; the best run of a kind stands for it."""

SHORT = (
    *("model", "data", "test accuracy (95 %)", "one view", "clean test", "macro-F1", "validation"),
    *("recipe", "runs", "epochs", "on"),
)
"""Columns of the table in the project's README; the other has all but `runs`."""

KEPT = "[0-9]*_*_s[0-9]*.json"
"""Pattern of the names of kept runs, which have other results beside them."""


def keep_results(run: Run, folder: Path) -> None:
    """Write what a finished run has found into one file of `folder`.

    Its parts are `config`, `results`, `metrics` (a list of rows, one an epoch) and, where the
    notebooks have written them, `evaluation` and `inference`. In `config` stands too where a
    pretraining of one's own that it started from comes from. Where the data lay, and every other
    folder of the user's, is left out. The predictions lie beside it, in half precision.

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
    if isinstance(train["pretrained"], str):  # files of runs have the same names: say which run
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
    write_json(folder / f"{run.name}.json", parts)  # last: it makes the run a kept one


def restore(folder: Path, runs: str | Path | None = None) -> list[Run]:
    """Make run folders of the runs whose predictions are kept in `folder`, as far as it has them.

    They have all that a comparison and a report need, but no weights. A run that is there already
    stays as it is. One whose settings this version does not know any more is left out, and named.

    Returns:
        The runs that are new.

    Raises:
        InputError: `folder` has no predictions, or a file of them is damaged.
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
            Run(temporary)  # refuses settings that are no more
            temporary.rename(target)
        except InputError as error:
            print(f"left out: {path} ({error})")
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        new.append(Run(target))
    return new


def results_table(folder: Path) -> pd.DataFrame:
    """A row of text for each kept run, of each dataset the best on validation first.

    Raises:
        InputError: none is kept in `folder`.
    """
    files = sorted(folder.glob(KEPT))
    if not files:
        raise InputError(
            f"{folder} holds no kept results: keep a finished run first, with "
            "python -m fer_lib.kept runs/RUN"
        )
    every = [read_json(path) for path in files]
    score = lambda results: (results["dataset"], -results["valid"]["full"]["accuracy"])
    every.sort(key=lambda kept: score(kept["results"]))
    return pd.DataFrame(map(_row, every))


def best_of_each(table: pd.DataFrame) -> pd.DataFrame:
    """The row of each kind that is best on validation, and of how many runs it is the best.

    Args:
        table: as `results_table` gives it, best first.
    """
    runs = table.groupby(KIND)["model"].transform("size").astype(str)
    return table.assign(runs=runs).drop_duplicates(KIND)[list(SHORT)]


def _row(kept: dict[str, Any]) -> dict[str, str]:
    results, environment = kept["results"], kept["config"]["environment"]
    train = kept["config"]["train"]
    labels, backbone, seed = train["labels"], train["options"].get("backbone", ""), train["seed"]
    shown = (f"labels={labels}", f"backbone={backbone}")  # in columns of their own
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
    """The settings of a kept run, without those that are no more."""
    known = {field.name for field in fields(TrainConfig)}
    return TrainConfig.from_dict({key: value for key, value in train.items() if key in known})


def _setting(train: dict[str, Any]) -> list[str]:
    """What a kept run changed in its recipe; settings that are no more count as changed."""
    now = train_config(train)
    gone = [f"{key}={value}" for key, value in train.items() if key not in now.to_dict() and value]
    return changed_settings(now) + gone


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the README's table; run from the root of the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.kept", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--restore", action="store_true", help="make runs/ of what is kept")
    args = parser.parse_args(arguments)
    folder, readme = Path("report/results"), Path("README.md")
    try:
        if args.restore:
            new = restore(folder)
            for run in new:
                print(f"{run.folder} is made, without weights: delete it to train the run again")
            if not new:
                print(f"all runs with predictions in {folder} are in {runs_folder()} already")
            return
        for tables in (readme, folder / "README.md"):
            around_table(tables)  # refused before anything is written
        for run in map(Run, args.runs):
            if "sample data" in (run.config["data"].get("mark") or ""):
                raise InputError(f"{run.folder} is of sample data, and {folder} is for real ones")
        for path in args.runs:
            keep_results(Run(path), folder)
            print(f"{path.name} is kept in {folder}")
        table = results_table(folder)
        write_table(readme, best_of_each(table))
        write_table(folder / readme, table)
        print(f"the tables of {readme} and {folder / readme} are of all that {folder} holds")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
