"""Figures of scores: learning curves, confusion matrices, intervals, scores of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from fer_lib.plots.style import (
    EMOTION_COLOURS,
    MARKERS,
    error_bars,
    heat_map,
    in_lines,
    new_figure,
    percent,
)

Rows = pd.DataFrame | Sequence[dict[str, Any]]
"""Rows of `metrics.csv`, one for each epoch."""


def learning_curves(
    rows: Rows, *, mark: str, title: str = "", guess: float | None = None
) -> Figure:
    """Plot loss and accuracy by epoch, side by side.

    Args:
        guess: accuracy of answering the most frequent class for all images, drawn as a dotted line.
    """
    figure, axes = new_figure(9, 3.2, mark=mark, ncols=2)
    figure.suptitle(title, fontsize=11)
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        _curve(axis, rows, name, guess if name == "accuracy" else None)
    return figure


def learning_curve(rows: Rows, name: str, *, mark: str) -> Figure:
    """Plot one of the `learning_curves` alone; `name` is "loss" or "accuracy"."""
    figure, axis = new_figure(5, 3.4, mark=mark)
    _curve(axis, rows, name)
    return figure


def _curve(axis: Any, rows: Rows, name: str, guess: float | None = None) -> None:
    table = pd.DataFrame(rows)
    for split, style in (("train", "--"), ("valid", "-")):
        label = {"train": "training (augmented)", "valid": "validation"}[split]
        axis.plot(table["epoch"], table[f"{split}_{name}"], style, marker=".", label=label)
    best = table.loc[table["valid_accuracy"].idxmax()]
    axis.axvline(best["epoch"], color="0.6", linewidth=1, zorder=0)
    axis.annotate(
        "kept", (best["epoch"], 1), xycoords=("data", "axes fraction"), ha="center", va="bottom",
        fontsize=8, color="0.4",
    )  # fmt: skip
    if guess is not None:
        line = {"color": "0.4", "linewidth": 1, "linestyle": ":", "zorder": 0}
        axis.axhline(guess, label="most frequent class", **line)
    axis.set(xlabel="epoch", ylabel=name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if name == "accuracy":
        percent(axis.yaxis)
    axis.legend(frameon=False, fontsize=8)


def confusion_matrix(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, mark: str, title: str = ""
) -> Figure:
    """Draw which share of the images of each label (rows) was predicted as each class (columns).

    Args:
        confusion: (K, K) counts of images; each row is shown with its sum.
        classes: names of the K classes.
    """
    counts = np.asarray(confusion)
    support = counts.sum(1, keepdims=True)
    share = counts / np.maximum(support, 1)
    figure, axis = new_figure(5.6, 4.8, mark=mark)
    heat_map(
        axis, share, square=True, annot_kws={"fontsize": 9}, xticklabels=classes,
        yticklabels=[f"{c} ({n})" for c, n in zip(classes, support.ravel(), strict=True)],
    )  # fmt: skip
    axis.set(xlabel="predicted", ylabel="label (images)", title=title)
    axis.tick_params(axis="x", rotation=40)
    return figure


def row_shares(
    counts: Sequence[Sequence[int]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    mark: str,
    xlabel: str = "what the largest number of annotators see",
    ylabel: str = "label",
) -> Figure:
    """Draw the share of each row's total in each column as a heat map."""
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axis = new_figure(6.4, 4.4, mark=mark)
    heat_map(axis, share, xticklabels=columns, yticklabels=rows, annot_kws={"fontsize": 8})
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.tick_params(axis="x", rotation=40)
    axis.tick_params(axis="y", rotation=0)
    return figure


def intervals(table: pd.DataFrame, *, mark: str, xlabel: str = "accuracy") -> Figure:
    """Plot values with their 95 % intervals: a row for each model, a colour for each test set.

    Args:
        table: columns `model`, `set`, `value`, `low`, `high`.
    """
    models, sets = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["set"]))
    figure, axis = new_figure(8, 1.2 + 0.4 * len(models), mark=mark)
    palette = sns.color_palette("colorblind", len(sets))
    for shift, (name, colour, marker) in enumerate(zip(sets, palette, MARKERS, strict=False)):
        part = table[table["set"] == name]
        y = part["model"].map(models.index) + 0.18 * (shift - (len(sets) - 1) / 2)
        axis.errorbar(
            part["value"], y, xerr=error_bars(part, "value"), fmt=marker, color=colour,
            label=name, capsize=3,
        )  # fmt: skip
    axis.set(xlabel=xlabel, yticks=range(len(models)), yticklabels=in_lines(models))
    axis.tick_params(axis="y", labelsize=9)
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=7)
    percent(axis.xaxis)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(sets))
    return figure


def recovery(
    points: dict[str, tuple[float | None, float | None]],
    curve: Sequence[tuple[float, float]],
    *,
    mark: str,
) -> Figure:
    """Plot precision against recall: named points, and a dashed curve of one rule by threshold.

    Args:
        points: recall and precision (0..1) by name. A point without a precision, because nothing
            was changed, is left out.
        curve: recall and precision of the rule `soft` at each of its thresholds.
    """
    figure, axis = new_figure(5.4, 4, mark=mark)
    if len(curve):  # it is empty where no label is wrong
        axis.plot(*np.transpose(curve), "--", color="0.6", label="soft, by its threshold")
    palette = sns.color_palette("colorblind", len(points))
    for (name, point), colour, marker in zip(points.items(), palette, MARKERS, strict=False):
        if None in point:
            continue
        axis.plot(*point, marker, color=colour, markersize=8, label=name)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    percent(axis.xaxis, axis.yaxis)
    return figure


def per_class(scores: dict[str, dict[str, float]], *, mark: str, ylabel: str = "recall") -> Figure:
    """Draw a heat map of a score (0..1) by model (rows) and class (columns)."""
    table = pd.DataFrame(scores).T
    table.index = in_lines(table.index)
    figure, axis = new_figure(8, 1 + 0.38 * len(table), mark=mark)
    heat_map(axis, table)
    axis.set(title=ylabel)
    axis.tick_params(axis="y", rotation=0, labelsize=9)
    return figure


def class_shares(shares: dict[str, float], *, mark: str, xlabel: str) -> Figure:
    """Draw a share (0..1) of each class as a bar in the colour of the class."""
    figure, axis = new_figure(6, 1 + 0.27 * len(shares), mark=mark)
    axis.barh(list(shares), list(shares.values()), color=[EMOTION_COLOURS[name] for name in shares])
    axis.bar_label(axis.containers[0], fmt="{:.0%}", fontsize=8, padding=2)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    percent(axis.xaxis)
    axis.set(xlabel=xlabel)
    return figure
