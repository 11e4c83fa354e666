"""Format the tables of a comparison as text for readers."""

from typing import Any

import pandas as pd

from fer_lib.compare.claims import NOT_RUN
from fer_lib.compare.summary import machine

OTHER = "on another network"
"""Column of the table of claims; it is left out if it has no entry."""


def tables(compared: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return each table of `writing.TITLES`, with cells of text and its first column as index.

    Args:
        compared: as `summary.comparison` returns it.
    """
    rows = {
        "comparison": [_run(row) for row in compared["runs"]],
        "recalls": [
            {key: value if key == "run" else percent(value) for key, value in row.items()}
            for row in by_name(compared["recall"])
        ],
        "systems": [_system(row) for row in compared["systems"]],
        "tests": [_test(row) for row in compared["tests"]],
        "costs": [_cost(row) for row in compared["costs"]],
        "copies": [_copies(row) for row in compared["inflation"]],
        "claims": [_claim(row) for row in compared["claims"]],
    }
    made = {
        name: pd.DataFrame(some).set_index(next(iter(some[0]))) if some else pd.DataFrame()
        for name, some in rows.items()
    }
    if not made["claims"][OTHER].any():
        made["claims"] = made["claims"].drop(columns=OTHER)
    return made


def by_name(recall: dict[str, dict[str, float | None]]) -> list[dict[str, Any]]:
    """Return the recalls of a comparison as one dict per run: `run`, then a key for each class."""
    return [{"run": name, **row} for name, row in recall.items()]


def percent(value: float | None) -> str:
    """Format a share, as in "62.7%"; "" for None."""
    return "" if value is None else f"{value:.1%}"


def between(value: float, low: float, high: float) -> str:
    """Format a share with its interval, as in "62.7% (61.2 to 64.4)"."""
    return f"{value:.1%} ({100 * low:z.1f} to {100 * high:z.1f})"


def spread(value: float | None, low: float | None, high: float | None) -> str:
    """Format a difference of shares in points, as in "1.3 (0.4 to 2.2)"; "" for None."""
    return "" if value is None else f"{100 * value:z.1f} ({100 * low:z.1f} to {100 * high:z.1f})"


def _run(row: dict[str, Any]) -> dict[str, str]:
    return {
        "run": row["name"],
        "group": row["letters"] or "",
        "test accuracy (95 %)": between(row["accuracy"], row["low"], row["high"]),
        "one view": percent(row["one_view"]),
        "clean test": percent(row["clean_accuracy"]),
        "majority of votes": percent(row["ferplus_majority"]),
        "label, same images": percent(row["label_on_majority"]),
        "macro-F1": f"{row['macro_f1']:.3f}",
        "balanced accuracy": percent(row["balanced_accuracy"]),
        "validation": percent(row["valid_accuracy"]),
        "parameters": f"{row['parameters']:,}",
        "epochs": str(row["epochs"]),
        "training images": f"{row['train_images']:,}",
    }


def _system(row: dict[str, Any]) -> dict[str, str]:
    sd = "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"
    return {
        "system": row["system"],
        "runs": str(row["runs"]),
        "seeds": row["seeds"],
        "test accuracy in %, mean ± sd": f"{100 * row['mean']:.1f}{sd}",
        "95 %": f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        "worst to best": f"{100 * row['worst']:.1f} to {100 * row['best']:.1f}",
        "clean test": percent(row["clean_accuracy"]),
        "macro-F1": f"{row['macro_f1']:.3f}",
        "validation": percent(row["valid_accuracy"]),
    }


def _test(row: dict[str, Any]) -> dict[str, str]:
    return {
        "better": row["a"],
        "other": row["b"],
        "points (95 %)": spread(row["difference"], row["low"], row["high"]),
        "only better right": str(row["only_a"]),
        "only other right": str(row["only_b"]),
        "p": f"{row['p']:.2g}",
        "p (Holm)": f"{row['p_holm']:.2g}",
        "finding": "yes" if row["finding"] else "no",
        "clean: points, p (Holm)": _beside(row, "clean"),
        "majority: points, p (Holm)": _beside(row, "majority"),
    }


def _beside(row: dict[str, Any], part: str) -> str:
    """Format the test of the same pair on another part of the test images; "" if there is none."""
    difference = row[f"{part}_difference"]
    return "" if difference is None else f"{100 * difference:z.1f}, {row[f'{part}_p_holm']:.2g}"


def _cost(row: dict[str, Any]) -> dict[str, str]:
    time = lambda value: "" if value is None else f"{value:.3g}"
    return {
        "run": row["name"],
        "input": row["input"],
        "parameters": f"{row['parameters']:,}",
        "MACs (millions)": f"{row['macs'] / 1e6:,.1f}",
        "passes": str(row["passes"]),
        "ms an image, alone": time(row["ms_1"]),
        "ms an image, of 64": time(row["ms_64"]),
        "measured on": machine(row) or "not measured",
    }


def _copies(row: dict[str, Any]) -> dict[str, str]:
    return {
        "run": row["name"],
        "all": percent(row["accuracy"]),
        "clean": percent(row["clean_accuracy"]),
        "all less clean, points (95 %)": spread(row["inflation"], row["low"], row["high"]),
        f"{row['copied']:,} copied": percent(row["copied_accuracy"]),
        "expected of the copied": percent(row["expected"]),
        f"{row['distinct']:,} others": percent(row["distinct_accuracy"]),
    }


def _claim(row: dict[str, Any]) -> dict[str, str]:
    return {
        "system": row["system"],
        "claimed": row["claimed"],
        "on": row["on"],
        "published recipe, images alike": _reached(row, "published", "alike"),
        "our recipe, test": _reached(row, "ours", "test"),
        OTHER: "; ".join(filter(None, (_other(row, "published"), _other(row)))),
        "fault": row["fault"],
        "here": row["instead"],
    }


def _reached(row: dict[str, Any], recipe: str, column: str) -> str:
    """Format a score of a reproduction, with the number of its runs and what they changed."""
    if row["note"]:  # the claim is not an accuracy
        return row["note"] if recipe == "published" else ""
    if not row[f"{recipe}_runs"]:
        return NOT_RUN
    score = row[f"{recipe}_{column}"]
    if score is None and column == "alike" and row["epoch"]:
        return f"fewer than {row['epoch']:.0f} epochs"
    if score is None:
        return "the claim is no accuracy"
    runs, changed = row[f"{recipe}_runs"], row[f"{recipe}_setting"]
    notes = [f"mean of {runs}"] * (runs > 1) + [changed] * bool(changed)
    if column == "alike" and row["epoch"]:
        notes.insert(0, f"at epoch {row['epoch']:.0f}")
    if column == "alike" and row["difference"] is not None:
        notes.insert(0, f"{100 * row['difference']:+.1f} points")
    return percent(score) + (f" ({', '.join(notes)})" if notes else "")


def _other(row: dict[str, Any], recipe: str = "ours") -> str:
    """Format what the recipe reaches with another network: its test accuracy.

    The accuracy on images like those of the claim follows if it is a different one.
    """
    if not row[f"{recipe}_other_runs"]:
        return ""
    score, runs = row[f"{recipe}_other_test"], row[f"{recipe}_other_runs"]
    notes = [f"mean of {runs}"] * (runs > 1) + [row[f"{recipe}_other_setting"]]
    name = "our recipe" if recipe == "ours" else "published recipe"
    alike = row[f"{recipe}_other_alike"]
    when = f" at epoch {row['epoch']:.0f}" if row["epoch"] else ""
    beside = "" if alike in (None, score) else f", images alike{when}: {percent(alike)}"
    return f"{name}, test: {percent(score)}{beside} ({', '.join(notes)})"
