"""Draw the report's figures from its results, and draw them again if the results have changed."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fer_lib import compare, plots
from fer_lib.changed import label
from fer_lib.files import read_json, sha256, write_json
from fer_lib.provenance import code_digest
from fer_lib.report.results import AUDIT, COMPARISON, INDEX, REFINEMENT, Results

MANIFEST = "manifest.json"
"""File with the `sha256` of each figure, its `sources` (files of results and their SHA-256), and
the digest of the `code` that drew it."""

CODE = ("plots/*", "changed", "compare/summary", "report/figures")
"""Modules that decide what a figure looks like."""


def refresh(results: Results, folder: Path) -> list[str]:
    """Draw the figures that are missing, stale or altered, and delete other SVG files.

    A figure is stale if a file that it was made from, or the code that draws it, has changed since
    by its SHA-256.

    Args:
        results: to draw from.
        folder: of the figures, as SVG, and of their manifest.

    Returns:
        Names of the figures that were drawn.
    """
    path = folder / MANIFEST
    known = read_json(path) if path.exists() else {}
    kept, drawn, code = {}, [], code_digest(CODE)
    for name, draw in FIGURES.items():
        target = folder / f"{name}.svg"
        if name in known and is_current(known[name], target, results, code):
            kept[name] = known[name]
            continue
        results.used = {INDEX}  # whether a file is listed counts too
        figure = draw(results)
        if figure is None:
            continue
        plots.save(figure, target)
        sources = {one: sha256(results.folder / one) for one in sorted(results.used)}
        kept[name] = {"sha256": sha256(target), "sources": sources, "code": code}
        drawn.append(name)
    for stray in set(folder.glob("*.svg")) - {folder / f"{name}.svg" for name in kept}:
        stray.unlink()
    if kept != known:
        write_json(path, kept)
    return drawn


def is_current(entry: dict, target: Path, results: Results, code: str) -> bool:
    """Return whether a figure, the results it was made from and the code are unchanged."""
    return (
        target.exists()
        and sha256(target) == entry["sha256"]
        and entry.get("code") == code
        and all(
            (one in results or one == INDEX) and sha256(results.folder / one) == known
            for one, known in entry["sources"].items()
        )
    )


def leak(results: Results) -> Figure:
    """Draw the share of each class's test images with a copy in training or validation."""
    counts = results.read(AUDIT)["copies"]["test"]["by_class"]
    shares = {name: n["in_train_or_valid"] / max(n["test"], 1) for name, n in counts.items()}
    return plots.class_shares(shares, mark=results.mark, xlabel="test images also elsewhere")


def annotators(results: Results) -> Figure | None:
    """Draw the labels against what most annotators see; None without votes."""
    votes = results.read(AUDIT)["votes"]
    if votes is None:
        return None
    table = votes["confusion"]
    return plots.row_shares(table["counts"], table["rows"], table["columns"], mark=results.mark)


def curves(results: Results) -> Figure:
    """Draw validation accuracy and loss by epoch, with a line for each model's headline run."""
    lines = (len(results.headlines) + 1) // 2  # of the legend
    figure, (left, right) = plots.new_figure(8, 3 + 0.22 * lines, mark=results.mark, ncols=2)
    for run in results.headlines:
        rows = pd.DataFrame(run["metrics"])
        name = label(run["config"])
        style = plots.model_style(name)
        best = rows[rows["epoch"] == run["results"]["best_epoch"]]
        for axis, column in ((left, "valid_accuracy"), (right, "valid_loss")):
            look = {"color": style.colour, "linestyle": style.dash}
            axis.plot(rows["epoch"], rows[column], **look)
            axis.plot(
                best["epoch"], best[column], style.marker, color=style.colour, markersize=8,
                markerfacecolor="white", zorder=3,
            )  # fmt: skip
        look |= {"marker": style.marker, "markerfacecolor": "white", "markersize": 6}
        left.plot([], [], **look, label=name)
    left.set(ylabel="validation accuracy", xlabel="epoch")
    plots.percent(left.yaxis)
    right.set(ylabel="validation loss", xlabel="epoch")
    for axis in (left, right):
        axis.set_xscale("log")  # some trainings have 20 epochs, others 120
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda epoch, _: f"{epoch:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2, handlelength=6)
    return figure


@cache
def compared(results: Results) -> dict[str, Figure]:
    """Draw every figure of the comparison, once for each results object."""
    return compare.figures(results.read(COMPARISON))


def of_comparison(name: str) -> Callable[[Results], Figure | None]:
    """Return a function that draws a figure of the comparison; it gives None if there is none."""

    def draw(results: Results) -> Figure | None:
        results.read(COMPARISON)
        return compared(results).get(name)

    return draw


def confusion(results: Results) -> Figure:
    """Draw the confusion matrix of the best run (see `Results.best`) on the test images."""
    best = results.best["results"]
    return plots.confusion_matrix(
        best["test"]["full"]["confusion"], best["classes"], mark=results.mark
    )


def refinement(results: Results) -> Figure | None:
    """Draw how many of the labels that each rule changes move towards the annotators, or away.

    None without a refinement, or if no rule changes a label.
    """
    if REFINEMENT not in results:
        return None
    judged = results.read(REFINEMENT)["against_annotators"]
    shares = {rule: one for rule, one in judged.items() if one["changed"]}
    if not shares:
        return None
    looks = {
        "towards": ("#117733", "white"),
        "away": ("#882255", "white"),
        "neither": ("#bbbbbb", "black"),
        "tied": ("#e4e4e4", "black"),
    }  # colours of bar and text
    table = pd.DataFrame(shares).T[list(looks)].astype(float)
    figure, axis = plots.new_figure(7, 0.9 + 0.38 * len(table), mark=results.mark)
    left = pd.Series(0.0, index=table.index)
    for column, (colour, ink) in looks.items():
        bars = axis.barh(table.index, table[column], left=left, color=colour, label=column)
        texts = [f"{value:.0%}" if value > 0.06 else "" for value in table[column]]
        axis.bar_label(bars, texts, label_type="center", fontsize=8, color=ink)
        left += table[column]
    axis.set(xlabel="share of the changed labels", xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    plots.percent(axis.xaxis)
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def students(results: Results) -> Figure | None:
    """Draw the accuracy of students of original and of refined labels on each set of test labels.

    None without a refinement.
    """
    if REFINEMENT not in results:
        return None
    scores = pd.DataFrame(results.read(REFINEMENT)["students"])
    return plots.intervals(scores, mark=results.mark)


def evaluated(results: Results) -> list[dict]:
    """Return the headline run of each model, if it was evaluated in depth."""
    return [run for run in results.headlines if "evaluation" in run]


def of_evaluation(draw: Callable[..., Figure]) -> Callable[[Results], Figure | None]:
    """Return a function that draws a figure of the best run, or else of the first evaluated one.

    The chapter on calibration uses the same run.

    Args:
        draw: takes the run's `evaluation` and the keyword `mark`.

    Returns:
        A function of the results; it gives None if no run was evaluated in depth.
    """

    def of_best(results: Results) -> Figure | None:
        one = next((run for run in [results.best, *evaluated(results)] if "evaluation" in run), {})
        return draw(one["evaluation"], mark=results.mark) if one else None

    return of_best


def reliability(found: dict, *, mark: str) -> Figure:
    """Draw reliability diagrams before and after temperature scaling."""
    parts = {"before": found["calibration"]["bins"], "after": found["calibration"]["bins_after"]}
    return plots.reliability(parts, mark=mark)


def coverage(found: dict, *, mark: str) -> Figure:
    """Draw accuracy against coverage."""
    return plots.coverage(found["coverage"], found["abstention"]["targets"], mark=mark)


def agreement_steps(results: Results) -> Figure | None:
    """Draw the best run's accuracy by the share of annotators who agree with the label.

    None if the run has no such scores.
    """
    groups = results.best.get("evaluation", {}).get("accuracy_by_agreement")
    return plots.by_agreement(groups, mark=results.mark) if groups else None


def robustness(results: Results) -> Figure | None:
    """Draw accuracy under each kind of damage, with a line for each headline run that was tried.

    None if none was.
    """
    found = {
        label(run["config"]): run["evaluation"]["robustness"]
        for run in evaluated(results)
        if run["evaluation"].get("robustness")
    }
    if not found:
        return None
    sizes = [
        part["support"] for part in results.best["results"]["test"]["full"]["per_class"].values()
    ]
    return plots.robustness(found, mark=results.mark, guess=max(sizes) / sum(sizes))


def gates(results: Results) -> Figure | None:
    """Draw what the spatial gates of the first network that has them pass, on average.

    None if no headline run has their maps.
    """
    found = (run["evaluation"].get("gates") for run in evaluated(results))
    maps = next((one["maps"] for one in found if one), None)
    return plots.gates([np.array(gate) for gate in maps], mark=results.mark) if maps else None


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    **{
        draw.__name__: draw
        for draw in (leak, annotators, curves, confusion, agreement_steps, robustness, gates)
    },
    **{
        name: of_comparison(name)
        for name in ("accuracies", "recalls", "cost_parameters", "agreement", "claims", "copies")
    },
    "reliability": of_evaluation(reliability),
    "coverage": of_evaluation(coverage),
    "refinement": refinement,
    "students": students,
}
"""Functions that draw the report's figures, by the name of the file; they give None if there is
nothing to draw."""
