"""Figures that compare runs: what they cost, how alike they answer, what copied images add."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.plots.style import (
    OTHER,
    error_bars,
    heat_map,
    in_lines,
    model_style,
    new_figure,
    percent,
)


def cost(table: pd.DataFrame, *, mark: str, xlabel: str) -> Figure:
    """Plot accuracy against a cost on a logarithmic axis; points have the numbers of the legend.

    Points are filled for our recipe and open for another. Those that would cover each other are
    drawn apart, to the right; a line leads back to the true cost.

    Args:
        table: names as index; columns `model`, `recipe`, `cost`, `accuracy`, and `low`, `high`, the
            ends of the interval of the accuracy.
    """
    table = table.sort_values("accuracy", ascending=False, kind="stable")
    figure, axis = new_figure(7.4, 4.2 + 0.1 * len(table), mark=mark)
    # What a point covers: a factor of the cost, and a part of the range of the accuracies.
    step, height = 1.17, 0.045 * (table["accuracy"].max() - table["accuracy"].min())
    drawn: list[tuple[float, float]] = []
    names = in_lines(table.index)
    for number, (name, row) in enumerate(zip(names, table.itertuples(), strict=True), 1):
        place = row.cost
        while any(
            1 / step < place / x < step and abs(row.accuracy - y) <= height for x, y in drawn
        ):
            place *= step
        drawn.append((place, row.accuracy))
        colour = model_style(row.model).colour
        face = colour if row.recipe == "ours" else "white"
        axis.errorbar(
            place, row.accuracy, yerr=error_bars(row._asdict()), fmt="o", color=colour,
            markersize=12, capsize=2, elinewidth=1, markerfacecolor=face,
            label=f"{number}  {name}", zorder=2,
        )  # fmt: skip
        axis.plot([row.cost, place], [row.accuracy] * 2, "|-", color=colour, linewidth=1, zorder=1)
        dark = np.dot(mpl.colors.to_rgb(face), (0.299, 0.587, 0.114)) < 0.5
        axis.text(
            place, row.accuracy, str(number), fontsize=8, ha="center", va="center_baseline",
            color="white" if dark else "black", zorder=4,
        )  # fmt: skip
    axis.set(xscale="log", xlabel=xlabel, ylabel="test accuracy")
    axis.margins(x=0.08, y=0.08)
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    large = mpl.ticker.EngFormatter(sep="")
    axis.xaxis.set_major_formatter(lambda x, _: large(x) if x >= 1000 else f"{x:g}")
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    percent(axis.yaxis)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8.5, markerscale=0.6)
    return figure


def alike(table: pd.DataFrame, *, mark: str, title: str) -> Figure:
    """Draw a symmetrical table of values (0..1) for pairs as a heat map, each pair once.

    Rows are labelled with names and numbers, columns with the numbers alone. A cell shows 0.53 as
    .53.
    """
    short = table.map("{:.2f}".format).map(lambda text: text.removeprefix("0"))
    size = 0.8 + 0.29 * len(table)
    figure, axis = new_figure(size + 2.4, size, mark=mark)  # inches; room for the names
    names = [f"{name}  {number}" for number, name in enumerate(in_lines(table.index), 1)]
    heat_map(
        axis, table, mask=np.triu(np.ones(table.shape, bool)), annot=short, fmt="",
        annot_kws={"fontsize": 9}, xticklabels=range(1, len(table) + 1), yticklabels=names,
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
            are `epoch`, after which the published accuracy was reached, and `published_other_alike`
            and `ours_other_alike`, reached on another network and drawn as crosses a little below.
            A row without `accuracy` is left out. A row in which nothing was reached says why: by
            `alike` (missing if the claim is no accuracy), or by `ours_test` and `ours_other_test`,
            which show whether there was a run.
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
    after = table.get("epoch", pd.Series(np.nan, table.index))
    names = [
        f"{row.system}: {row.on}" + ("" if pd.isna(epoch) else f", epoch {epoch:.0f}")
        for row, epoch in zip(table.itertuples(), after, strict=True)
    ]
    axis.set(xlabel="accuracy", yticks=range(len(table)), yticklabels=names)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.margins(x=0.25)  # room for the text beside the last point
    percent(axis.xaxis)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure
