"""A comparison on disk: JSON for the report, tables as Markdown, CSV and LaTeX, and its figures."""

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib import plots
from fer_lib.compare.claims import NOT_RUN
from fer_lib.compare.summary import figures, machine
from fer_lib.files import replacing, write_json
from fer_lib.kept import markdown

TITLES = {
    "comparison": "Leaderboard",
    "systems": "Seeds gathered",
    "tests": "Paired tests",
    "costs": "Costs",
    "copies": "Copied images",
    "claims": "Claim and reproduction",
}
"""Tables by the stem of their files."""


def write_comparison(folder: Path, compared: dict[str, Any]) -> None:
    """Write all of a comparison, each file all or nothing and with the mark.

    `comparison.json` (see `summary.comparison`), `comparison.md` (all tables and sentences), for
    each of `TITLES` that has rows a `.csv` with every column and all digits and a `.tex` (booktabs)
    as a paper would print it, and each of `summary.figures` as `.png` and `.svg`. Such files of an
    earlier comparison in the same folder go.
    """
    mark, printed, written = compared["mark"], tables(compared), set()
    for name, raw in raw_tables(compared).items():
        if len(raw):
            written |= {f"{name}.csv", f"{name}.tex"}
            with replacing(folder / f"{name}.csv") as temporary:
                raw.assign(mark=mark).to_csv(temporary, index=False)
            with replacing(folder / f"{name}.tex") as temporary:
                temporary.write_text(latex(printed[name], TITLES[name], mark), encoding="utf-8")
    with replacing(folder / "comparison.md") as temporary:
        temporary.write_text(text(compared, printed), encoding="utf-8")
    for name, figure in figures(compared).items():
        for suffix in ("png", "svg"):
            written.add(f"{name}.{suffix}")
            plots.save(figure, folder / f"{name}.{suffix}")
    for path in folder.iterdir():
        if path.suffix in (".csv", ".tex", ".png", ".svg") and path.name not in written:
            path.unlink()
    write_json(folder / "comparison.json", compared)  # last: who finds it finds the rest


def raw_tables(compared: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """All columns of each of `TITLES`, as a program reads them."""
    keys = {"comparison": "runs", "copies": "inflation"}
    return {name: pd.DataFrame(compared[keys.get(name, name)]) for name in TITLES}


def tables(compared: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Each of `TITLES` as text, as a reader wants it, by the name in its first column."""
    rows = {
        "comparison": [_run(row) for row in compared["runs"]],
        "systems": [_system(row) for row in compared["systems"]],
        "tests": [_test(row) for row in compared["tests"]],
        "costs": [_cost(row) for row in compared["costs"]],
        "copies": [_copies(row) for row in compared["inflation"]],
        "claims": [_claim(row) for row in compared["claims"]],
    }
    return {
        name: pd.DataFrame(made).set_index(next(iter(made[0]))) if made else pd.DataFrame()
        for name, made in rows.items()
    }


def percent(value: float | None) -> str:
    """A share as text, as in "62.7%"; "" for none."""
    return "" if value is None else f"{value:.1%}"


def between(value: float | None, low: float | None, high: float | None) -> str:
    """A share with its interval, as in "62.7% (61.2 to 64.4)"; "" for none."""
    return "" if value is None else f"{value:.1%} ({100 * low:z.1f} to {100 * high:z.1f})"


def _run(row: dict[str, Any]) -> dict[str, str]:
    return {
        "run": row["name"],
        "group": row["letters"],
        "test accuracy (95 %)": between(row["accuracy"], row["low"], row["high"]),
        "clean test": percent(row["clean_accuracy"]),
        "FERPlus majority": percent(row["ferplus_majority"]),
        "macro-F1": f"{row['macro_f1']:.3f}",
        "mean class": percent(row["balanced_accuracy"]),
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
        "difference (points)": f"{100 * row['difference']:z.1f}",
        "only better right": str(row["only_a"]),
        "only other right": str(row["only_b"]),
        "p": f"{row['p']:.2g}",
        "p (Holm)": f"{row['p_holm']:.2g}",
        "finding": "yes" if row["finding"] else "no",
    }


def _cost(row: dict[str, Any]) -> dict[str, str]:
    time = lambda value: "" if value is None else f"{value:.3g}"  # noqa: E731
    return {
        "run": row["name"],
        "input": row["input"],
        "parameters": f"{row['parameters']:,}",
        "MACs (millions)": f"{row['macs'] / 1e6:,.1f}",
        "ms an image, alone": time(row["ms_1"]),
        "ms an image, of 64": time(row["ms_64"]),
        "measured on": machine(row) or "not measured",
    }


def _copies(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["low"], row["high"]
    spread = "" if low is None else f" ({100 * low:z.1f} to {100 * high:z.1f})"
    gain = "" if row["inflation"] is None else f"{100 * row['inflation']:z.1f}{spread}"
    return {
        "run": row["name"],
        "all": percent(row["accuracy"]),
        "clean": percent(row["clean_accuracy"]),
        "all less clean, points (95 %)": gain,
        f"{row['copied']:,} copied": percent(row["copied_accuracy"]),
        f"{row['distinct']:,} others": percent(row["distinct_accuracy"]),
    }


def _claim(row: dict[str, Any]) -> dict[str, str]:
    return {
        "system": row["system"],
        "claimed": row["claimed"],
        "on": row["on"],
        "published recipe, images alike": _reached(row, "published", "alike"),
        "our recipe, test": _reached(row, "ours", "test"),
        "fault": row["fault"],
        "here": row["instead"],
    }


def _reached(row: dict[str, Any], recipe: str, column: str) -> str:
    """A score of a reproduction, with what its runs changed and how many they are."""
    if row["note"]:  # no accuracy
        return row["note"] if recipe == "published" else ""
    if not row[f"{recipe}_runs"]:
        return NOT_RUN
    score = row[f"{recipe}_{column}"]
    if score is None:
        return "no such images here"
    runs, changed = row[f"{recipe}_runs"], row[f"{recipe}_setting"]
    notes = [f"mean of {runs}"] * (runs > 1) + [changed] * bool(changed)
    if column == "alike" and row["difference"] is not None:
        notes.insert(0, f"{100 * row['difference']:+.1f} points")
    return percent(score) + (f" ({', '.join(notes)})" if notes else "")


def text(compared: dict[str, Any], printed: dict[str, pd.DataFrame]) -> str:
    """The Markdown of all tables and sentences, with the mark below each heading."""
    mark = compared["mark"]
    note = f"**{mark[:1].upper()}{mark[1:]}**" if mark else ""
    parts = ["# Comparison", note]
    for name, title in TITLES.items():
        made = printed[name]
        parts += [f"## {title}", note, markdown(made) if len(made) else "", NOTES.get(name, "")]
        if name == "claims":
            parts.append(sources(compared["claims"]))
        if name == "tests":
            parts.append("\n".join(f"- {sentence}" for sentence in compared["sentences"]))
    if compared["ensemble"]:
        parts += ["## Ensemble", note, ensemble_sentence(compared["ensemble"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def sources(claims: list[dict[str, Any]]) -> str:
    """Who published which of the systems."""
    by: dict[str, dict[str, None]] = {}
    for row in claims:
        by.setdefault(row["source"], {})[row["system"]] = None
    return "Published by: " + "; ".join(f"{who} ({', '.join(what)})" for who, what in by.items())


NOTES = {
    "comparison": "Runs that share a letter cannot be told apart (McNemar's exact test on each "
    "pair, with Holm's correction, at 5 %).",
    "systems": "The interval is that of the mean over other test images; sd is that over seeds.",
    "costs": "MACs are multiplications with additions for one image of the model's own size, half "
    "of the floating-point operations that torch counts; the mirror image, where a recipe also "
    "asks it, is not counted.",
    "copies": "Copied are test images that also stand in training or validation, byte for byte.",
}
"""What a reader of a table must know, below it."""


def ensemble_sentence(found: dict[str, Any]) -> str:
    """What the best subset reaches, and against which run."""
    full = found["results"]["full"]
    score = between(full["accuracy"], *full["interval"]["accuracy"])
    members = ", ".join(found["members"])
    if len(found["members"]) == 1:
        return f"No subset votes better on validation than {members} alone: {score} on test."
    sides = "better" if found["difference"] >= 0 else "worse"
    verdict = "a finding" if found["finding"] else "no finding"
    return (
        f"Best on validation ({percent(found['valid_accuracy'])}) is the soft vote of {members}: "
        f"{score} on test, {abs(100 * found['difference']):.1f} points {sides} than the best "
        f"single run {found['single']} (p = {found['p']:.2g}: {verdict})."
    )


LONG = 60
"""Characters from which on a column of LaTeX is broken into lines."""


def latex(table: pd.DataFrame, title: str, mark: str) -> str:
    """A table for LaTeX with the rules of booktabs, its title and the mark as caption."""
    caption = f"{title} ({mark})" if mark else title
    label = "tab:" + title.lower().replace(" ", "-")
    escaped = caption.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")
    flat = table.reset_index()
    long = {name for name in flat if flat[name].str.len().max() > LONG}
    columns = "".join(r"p{0.2\linewidth}" if name in long else "l" for name in flat)
    return flat.to_latex(
        index=False, escape=True, caption=escaped, label=label, position="htbp",
        column_format=columns,
    )  # fmt: skip
