"""Write a comparison: JSON for the report, tables as Markdown, CSV and LaTeX, and figures."""

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib import plots
from fer_lib.compare.formatting import between, by_name, percent, tables
from fer_lib.compare.summary import FIGURES, figures
from fer_lib.files import replacing, write_json
from fer_lib.markdown import markdown

TITLES = {
    "comparison": "Leaderboard",
    "recalls": "Recall by class",
    "systems": "Seeds gathered",
    "tests": "Paired tests",
    "costs": "Costs",
    "copies": "Copied images",
    "claims": "Claim and reproduction",
}
"""Titles of the tables, by the stem of their files."""


def write_comparison(folder: Path, compared: dict[str, Any]) -> None:
    """Write all files of a comparison, each with the mark, and each whole or not at all.

    They are `comparison.json` (see `summary.comparison`), `comparison.md` (all tables and
    sentences), for each table of `TITLES` that has rows a `.csv` with every column and all digits
    and a `.tex` (booktabs) as a paper would print it, and each figure of `summary.figures` as
    `.png` and `.svg`. Tables and figures that an earlier comparison left in the same folder are
    deleted if this one has none of that name.

    Args:
        folder: where to write.
        compared: as `summary.comparison` returns it.
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
    earlier = {f"{name}.{suffix}" for name in TITLES for suffix in ("csv", "tex")}
    earlier |= {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    for name in earlier - written:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "comparison.json", compared)  # last: if it exists, so does the rest


def raw_tables(compared: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return each table of `TITLES` with all columns and digits, for programs to read."""
    keys = {"comparison": "runs", "copies": "inflation"}
    rows = compared | {"recalls": by_name(compared["recall"])}
    return {name: pd.DataFrame(rows[keys.get(name, name)]) for name in TITLES}


def text(compared: dict[str, Any], printed: dict[str, pd.DataFrame]) -> str:
    """Return the Markdown of all tables and sentences, with the mark below each heading.

    Args:
        compared: as `summary.comparison` returns it.
        printed: its tables, as `formatting.tables` returns them.
    """
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
    """Say who published which system.

    Args:
        claims: `claims` of a comparison.
    """
    by: dict[str, dict[str, None]] = {}
    for row in claims:
        by.setdefault(row["source"], {})[row["system"]] = None
    return "Published by: " + "; ".join(f"{who} ({', '.join(what)})" for who, what in by.items())


NOTES = {
    "comparison": "Of each system the seed that is best on validation is tested: no finding sets "
    "apart those that share a letter (McNemar's exact test on each pair, with Holm's correction, "
    "at 5 %, and a difference of no less than half an accuracy's interval). "
    "*One view* is the accuracy without the mirror image, where the headline has both.",
    "tests": "One run a system, of its seeds the best on validation; they are not tested "
    "against each other.",
    "systems": "The interval is that of the mean over other test images; sd is that over seeds.",
    "costs": "MACs are multiplications with additions for one image of the model's own size, half "
    "of the floating-point operations that torch counts. They and the times are of one pass; a "
    "prediction takes two where the recipe also asks the mirror image, as the figures count.",
    "copies": "Copied are test images that also stand in training or validation, byte for byte. "
    "Expected of them is what the recalls on the others give for their mix of classes.",
}
"""What readers need to know about a table, printed below it."""


def ensemble_sentence(found: dict[str, Any]) -> str:
    """Say what the best subset reaches, and how it compares with the best single run.

    Args:
        found: as `voting.ensemble` returns it.
    """
    full = found["results"]["full"]
    score = between(full["accuracy"], *full["interval"]["accuracy"])
    members = ", ".join(found["members"])
    if len(found["members"]) == 1:
        return f"No subset votes better on validation than {members} alone: {score} on test."
    sides = "better" if found["difference"] >= 0 else "worse"
    verdict = "a finding" if found["finding"] else "no finding"
    return (
        f"Best on validation ({percent(found['valid_accuracy'])}) is the soft vote of {members}: "
        f"{score} on test, {abs(100 * found['difference']):.1f} points {sides} than "
        f"{found['single']}, of single runs the best on validation (p = {found['p']:.2g}: "
        f"{verdict})."
    )


LONG = 60
"""A column of a LaTeX table with a text of more characters than this is broken into lines."""


def latex(table: pd.DataFrame, title: str, mark: str) -> str:
    """Return a table for LaTeX with booktabs rules, and its title and the mark as caption.

    Args:
        table: cells of text, as `formatting.tables` returns them.
        title: of the table; its label is made from it.
        mark: caveat, "" for none.
    """
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
