"""Figures that compare runs: what they cost, how alike they answer, what copied images add."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from fer_lib.plots.style import OTHER, error_bars, in_lines, model_style, new_figure, percent

AROUND = [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (8, 16, 26, 38, 52, 68)
    for angle in np.radians([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200])
]
"""Possible offsets of a label from its data point, in typographic points, best first."""


def cost(table: pd.DataFrame, *, mark: str, xlabel: str) -> Figure:
    """Plot accuracy against a cost on a logarithmic axis, with the name of each point beside it.

    Markers are filled for our recipe and open for another. Points of the same cost are drawn a
    little apart.

    Args:
        table: names as index; columns `model`, `recipe`, `cost`, `accuracy`, and `low`, `high`, the
            ends of the interval of the accuracy.
    """
    figure, axis = new_figure(6.4, 4.6, mark=mark)
    table = table.sort_values("accuracy", ascending=False, kind="stable")
    same = table.groupby("cost")["cost"]
    table["cost"] *= 1.08 ** (same.cumcount() - (same.transform("size") - 1) / 2)
    for row in table.itertuples():
        colour, marker, _ = model_style(row.model)
        axis.errorbar(
            row.cost, row.accuracy, yerr=error_bars(row._asdict()), fmt=marker, color=colour,
            markersize=6, capsize=2, elinewidth=1,
            markerfacecolor=colour if row.recipe == "ours" else "white",
        )  # fmt: skip
    axis.set(xscale="log", xlabel=xlabel, ylabel="test accuracy")
    axis.margins(x=0.22, y=0.14)
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    large = mpl.ticker.EngFormatter(sep="")
    axis.xaxis.set_major_formatter(lambda x, _: large(x) if x >= 1000 else f"{x:g}")
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    percent(axis.yaxis)
    bars = [((row.cost, row.low), (row.cost, row.high)) for row in table.itertuples()]
    label_points(axis, table[["cost", "accuracy"]].to_numpy(), list(table.index), bars)
    return figure


def label_points(
    axis: Any,
    points: np.ndarray,
    names: Sequence[str],
    bars: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> None:
    """Write the name of each point beside it, so that it covers no other label, point or bar.

    If all places of `AROUND` are taken, the one that covers least is used. A place also counts as
    taken if another point or bar is between it and the point of the label. A label that is not in
    one of the nearest places is joined to its point by a thin line. Long names take several lines.

    Args:
        points: (N, 2) in the units of the axes, whose limits must not change afterwards.
        bars: ends of vertical bars to keep clear of, one bar for each point, or none.
    """
    figure = axis.figure
    figure.draw_without_rendering()  # so that everything drawn has its position
    dots = figure.dpi / 72  # pixels in a typographic point
    place, inside = axis.transData.transform, axis.get_window_extent().get_points()
    marks = [[xy - 4 * dots, xy + 4 * dots] for xy in place(points)]
    marks += [[start - dots, end + dots] for start, end in map(place, bars)]
    marks, taken, around = np.array(marks), np.array([inside, *marks]), np.array(AROUND)
    sides = np.where(abs(around) > 1, np.sign(around), 0)  # direction of the label from its place
    for number, (point, name) in enumerate(zip(points, names, strict=True)):
        text = axis.text(*point, fill(name, 27), fontsize=8, zorder=4, linespacing=0.9)
        text.set_in_layout(False)
        size = text.get_window_extent().size
        middles = place(point) + dots * around + sides * size / 2
        boxes = np.stack([middles - size / 2 - dots, middles + size / 2 + dots], 1)
        areas = _overlaps(boxes[:, None], taken)
        lines = place(point) + dots * around[:, None] * np.linspace(0, 1, 40)[:, None]
        others = marks[np.arange(len(marks)) % len(points) != number]
        crossed = _overlaps(np.stack([lines, lines + 1], 2)[:, :, None], others).any((1, 2))
        area = (size + 2 * dots).prod()
        costs = area - areas[:, 0] + areas[:, 1:].sum(1) + area * crossed
        best = int(costs.round().argmin())  # the first of equally good places
        taken = np.concatenate([taken, boxes[best : best + 1]])
        (x, y), (left, up) = AROUND[best], sides[best]
        text.set_transform(offset_copy(axis.transData, figure, x, y, units="points"))
        text.set_horizontalalignment({1: "left", 0: "center", -1: "right"}[left])
        text.set_verticalalignment({1: "bottom", 0: "center", -1: "top"}[up])
        if np.hypot(x, y) > np.hypot(*AROUND[0]) + 1:
            line = axis.annotate(
                "", point, (x, y), textcoords="offset points", zorder=1,
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0},
            )  # fmt: skip
            line.set_in_layout(False)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the common areas (...) of boxes and others, both (..., 2, 2): low and high corner."""
    least = np.maximum(boxes[..., 0, :], others[..., 0, :])
    return (np.minimum(boxes[..., 1, :], others[..., 1, :]) - least).clip(0).prod(-1)


def alike(table: pd.DataFrame, *, mark: str, title: str) -> Figure:
    """Draw a symmetrical table of values (0..1) for pairs as a heat map, each pair once.

    Rows are labelled with names and numbers, columns with the numbers alone. A cell shows 0.53 as
    .53.
    """
    short = table.map("{:.2f}".format).map(lambda text: text.removeprefix("0"))
    size = 0.8 + 0.34 * len(table)
    figure, axis = new_figure(size + 2.4, size, mark=mark)  # inches; room for the names
    names = [f"{name}  {number}" for number, name in enumerate(in_lines(table.index), 1)]
    sns.heatmap(
        table, mask=np.triu(np.ones(table.shape, bool)), annot=short, fmt="", cmap="Blues",
        vmin=0, vmax=1, cbar=False, ax=axis, annot_kws={"fontsize": 9},
        xticklabels=range(1, len(table) + 1), yticklabels=names,
    )  # fmt: skip
    axis.grid(visible=False)
    figure.suptitle(title, fontsize=11)
    axis.tick_params(axis="y", rotation=0, labelsize=9)
    return figure


def copies(table: pd.DataFrame, *, mark: str) -> Figure:
    """Plot accuracy on copied and on other test images, and what the copies add to the accuracy.

    Args:
        table: names as index; columns `copied_accuracy`, `distinct_accuracy`, `inflation`, `low`,
            `high` (see `fer_lib.compare.copies.inflation`).
    """
    figure, (left, right) = new_figure(8, 1.3 + 0.3 * len(table), mark=mark, ncols=2, sharey=True)
    y = np.arange(len(table))
    left.hlines(y, table["distinct_accuracy"], table["copied_accuracy"], color="0.7", zorder=1)
    for column, marker, label in (
        ("distinct_accuracy", "o", "without a copy"),
        ("copied_accuracy", "s", "copied from training or validation"),
    ):
        for row, name in enumerate(table.index):
            colour = model_style(name).colour
            face = colour if marker == "s" else "white"
            left.plot(table[column].iloc[row], row, marker, color=colour, markerfacecolor=face)
        left.plot(
            [], [], marker, color="0.3", markerfacecolor="0.3" if marker == "s" else "white",
            label=label,
        )  # fmt: skip
    percent(left.xaxis)
    left.set(xlabel="accuracy on the images", yticks=y, yticklabels=in_lines(table.index))
    left.tick_params(axis="y", labelsize=9)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    points = 100 * table[["inflation", "low", "high"]]
    for place, (name, row) in enumerate(points.iterrows()):
        style = model_style(name)
        right.errorbar(
            row["inflation"], place, xerr=error_bars(row, "inflation"), fmt=style.marker,
            color=style.colour, capsize=3,
        )  # fmt: skip
    right.axvline(0, color="0.5", linewidth=1, zorder=0)
    right.set(xlabel="all less clean, in points")
    left.set_ylim(len(table) - 0.5, -0.5)
    return figure


def subsets(steps: Sequence[dict[str, Any]], *, mark: str) -> Figure:
    """Plot the validation accuracy of the best subset of each size, with a ring around the best.

    Args:
        steps: one dict for each subset, in the order of size, with `members` (names) and
            `valid_accuracy`.
    """
    sizes = [len(step["members"]) for step in steps]
    scores = [step["valid_accuracy"] for step in steps]
    figure, axis = new_figure(5, 3, mark=mark)
    axis.plot(sizes, scores, OTHER.dash, marker=OTHER.marker, color=OTHER.colour)
    best = int(np.argmax(scores))
    axis.plot(sizes[best], scores[best], "o", markersize=15, markerfacecolor="none", color="black")
    axis.set(xlabel="runs that vote", ylabel="validation accuracy")
    axis.margins(0.12, 0.15)
    axis.xaxis.get_major_locator().set_params(integer=True)
    percent(axis.yaxis, decimals=1)
    return figure


def claims(table: pd.DataFrame, *, mark: str) -> Figure:
    """Plot published accuracies beside those reached here on images of the same kind.

    Args:
        table: columns `system`, `on`, `accuracy` (published), and `published_alike` and
            `ours_alike` (reached here with the published and with our recipe). Optional columns
            are `published_other_alike` and `ours_other_alike`, reached on another network and drawn
            as crosses a little below. A row without `accuracy` is left out. A row in which nothing
            was reached says why: by `alike` (missing if the claim is no accuracy), or by
            `ours_test` and `ours_other_test`, which show whether there was a run.
    """
    table = table[table["accuracy"].notna()].reset_index(drop=True)
    figure, axis = new_figure(7.4, 1.2 + 0.42 * len(table), mark=mark)
    for row in table.itertuples():
        style = model_style(row.system)
        axis.plot(row.accuracy, row.Index, "|", color="black", markersize=14, markeredgewidth=2)
        axis.plot(
            row.published_alike, row.Index, "o", color=style.colour, markerfacecolor="white",
            markersize=8,
        )  # fmt: skip
        axis.plot(row.ours_alike, row.Index, "o", color=style.colour, markersize=8)
        others = [getattr(row, f"{name}_other_alike", np.nan) for name in ("ours", "published")]
        place = [row.Index + 0.33] * len(others)  # below, as they may lie on the bar
        axis.plot(others, place, "x", color=style.colour, markersize=6, markeredgewidth=1.5)
        if pd.isna([row.published_alike, row.ours_alike, *others]).all():
            kinds = ("ours_", "ours_other_", "published_", "published_other_")
            tests = [getattr(row, f"{kind}test", np.nan) for kind in kinds]
            why = "not run yet" if pd.isna(tests).all() else "fewer epochs here"
            if pd.isna(getattr(row, "alike", "")):  # no score of ours is of its kind
                why = "not an accuracy"
            axis.annotate(
                why, (row.accuracy, row.Index), xytext=(8, 0), va="center",
                textcoords="offset points", fontsize=9, color="0.4",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
    for label, marker, face, size in (
        ("published", "|", "black", 9),
        ("published recipe, run here", "o", "white", 9),
        ("our recipe", "o", "0.3", 9),
        ("on another network", "x", "0.3", 6),
    ):
        colour = "black" if marker == "|" else "0.3"
        axis.plot([], [], marker, color=colour, markerfacecolor=face, markersize=size, label=label)
    names = [f"{row.system}: {row.on}" for row in table.itertuples()]
    axis.set(xlabel="accuracy", yticks=range(len(table)), yticklabels=names)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.margins(x=0.25)  # room for the text beside the last point
    percent(axis.xaxis)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure
