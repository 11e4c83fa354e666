"""Tables of kept results: the best run of each kind, and all runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.changed import changed_settings, label
from fer_lib.config import TrainConfig
from fer_lib.files import InputError, read_json
from fer_lib.kept.results import KEPT
from fer_lib.provenance import short

KIND = ["model", "data", "recipe"]
"""Columns that define a kind of run; the project's README shows the best run of each kind."""

SHORT = (
    *("model", "data", "test accuracy (95 %)", "one view", "clean test", "macro-F1", "validation"),
    *("recipe", "runs", "epochs"),
)
"""Columns of the table in the project's README; the other table has more, but not `runs`."""


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
    folder = Path(__file__).resolve().parents[2] / "report" / "results"
    if not any(folder.glob(KEPT)):
        return pd.DataFrame(columns=SHORT)
    table = best_of_each(results_table(folder))
    return table[table["model"].str.split().str[0].isin(models)].set_index("model")


def _row(kept: dict[str, Any]) -> dict[str, str]:
    results, config = kept["results"], kept["config"]
    train, stages = config["train"], [config["environment"], *config.get("resumed", [])]
    labels, backbone, seed = train["labels"], train["options"].get("backbone", ""), train["seed"]
    shown = (f"labels={labels}", f"backbone={backbone}")  # they have columns of their own
    changed = [part for part in changed_settings(TrainConfig.from_dict(train)) if part not in shown]
    if start := stages[0].get("pretrained_name"):
        changed = [part for part in changed if not part.startswith("pretrained=")]
        changed = [f"from {start}", *changed]
    learned = () if labels == "original" else (f"{labels} labels",)
    full, clean, people = (
        results["test"].get(part) for part in ("full", "clean", "ferplus_majority")
    )
    low, high = full["interval"]["accuracy"]
    one_view = results["one_view"]["test"] if train["flip_tta"] else full["accuracy"]
    return {
        "model": label(config),
        "data": " ".join(filter(None, (results["dataset"], *learned, results["mark"]))),
        "test accuracy (95 %)": f"{full['accuracy']:.1%} ({low:.1%} to {high:.1%})",
        "one view": f"{one_view:.1%}",
        "clean test": f"{clean['accuracy']:.1%}" if clean else "",
        "majority": f"{people['accuracy']:.1%}" if people else "",
        "macro-F1": f"{full['macro_f1']:.3f}",
        "balanced": f"{full['balanced_accuracy']:.1%}",
        "validation": f"{results['valid']['full']['accuracy']:.1%}",
        "recipe": f"{results['recipe']}{'*' * any(changed)}, {results['preset']}",
        "seed": str(seed),
        "epochs": str(results["epochs"]),
        "on": "; ".join(dict.fromkeys(device(one) for one in stages)),
        "commit": ", ".join(dict.fromkeys(short(one["commit"]) for one in stages)),
        "changed in the recipe": " ".join(changed),
    }


def device(stage: dict[str, Any]) -> str:
    """Name the device of a training, or of a part of it, and its version of PyTorch."""
    return f"{stage['processor']}, torch {stage['torch']}"
