"""Figures about one run: its calibration, abstention, test-time views and robustness.

They take what `fer_lib.in_depth` writes into `evaluation.json`.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from fer_lib.plots.style import MARKERS, error_bars, in_lines, model_style, new_figure, percent

VIEW_TITLES = {"one": "one view", "mirror": "with its mirror image", "ten_crop": "ten crops"}


def reliability(bins: dict[str, Sequence[dict[str, Any]]], *, mark: str) -> Figure:
    """Plot accuracy against confidence by bins, above the share of the images in each bin.

    On the diagonal, confidence says how often a model is right; below it, the model is too sure.

    Args:
        bins: results of `calibration.reliability` by title; one diagram for each.
    """
    figure, axes = new_figure(
        0.6 + 3.2 * len(bins), 4.4, mark=mark, nrows=2, ncols=len(bins), squeeze=False,
        sharex=True, sharey="row", height_ratios=(3, 1),
    )  # fmt: skip
    blue = sns.color_palette("colorblind")[0]
    for (title, rows), above, below in zip(bins.items(), *axes, strict=True):
        table = pd.DataFrame(rows)
        above.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1, label="accuracy = confidence")
        above.errorbar(
            table["confidence"], table["accuracy"], yerr=error_bars(table), fmt="o-", color=blue,
            markersize=5, capsize=2, linewidth=1.2, clip_on=False,
            label="images of a bin (bars: 95 % interval)",
        )  # fmt: skip
        above.set(title=title, xlim=(0, 1), ylim=(0, 1))
        share = table["n"] / table["n"].sum()
        below.bar(
            table["from"], share, width=table["to"] - table["from"], align="edge",
            edgecolor="white", color="0.6",
        )  # fmt: skip
        below.set(xlabel="confidence")
    axes[0, 0].set(ylabel="accuracy")
    axes[1, 0].set(ylabel="images")
    axes[0, 0].legend(fontsize=9, loc="best")
    for axis in axes.ravel():
        percent(axis.xaxis, axis.yaxis)
    return figure


def coverage(
    curve: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]] = (), *, mark: str
) -> Figure:
    """Plot the accuracy of the surest answers against the share of images answered.

    Args:
        curve: result of `abstention.coverage`.
        targets: `targets` of `abstention.abstention`; those that were reached are drawn as points
            with intervals.
    """
    table = pd.DataFrame(curve)
    figure, axis = new_figure(6, 3.8, mark=mark)
    palette = sns.color_palette("colorblind")
    line = {"color": palette[0], "label": "surest images (band: 95 % interval)"}
    axis.plot(table["coverage"], table["accuracy"], **line)
    axis.fill_between(
        table["coverage"], table["low"], table["high"], color=palette[0], alpha=0.2, linewidth=0
    )
    reached = [row for row in targets if "accuracy" in row]
    for row, marker in zip(reached, MARKERS, strict=False):
        axis.errorbar(
            row["coverage"], row["accuracy"], yerr=error_bars(row), fmt=marker, color=palette[1],
            markeredgecolor="black", markersize=7, capsize=3, zorder=3, clip_on=False,
            label=f"{row['target']:.0%} wanted, {row['coverage']:.0%} answered",
        )  # fmt: skip
        axis.axhline(row["target"], color=palette[1], linewidth=1, linestyle=":")
    axis.set(xlabel="images answered", ylabel="accuracy of the answers", xlim=(0, 1.01))
    axis.set_ylim(min(0.5, table["low"].min() - 0.02), 1.01)
    percent(axis.xaxis, axis.yaxis)
    axis.legend(frameon=False, fontsize=9, loc="best")
    return figure


def by_agreement(groups: Sequence[dict[str, Any]], *, mark: str) -> Figure:
    """Plot accuracy by the share of annotators who agree with the label.

    Args:
        groups: result of `answers.by_agreement`, with at least one group.
    """
    table = pd.DataFrame(groups)
    names = [f"{row['from']:.0%} to {row['to']:.0%}\n{row['n']:,} images" for row in groups]
    figure, axis = new_figure(6.4, 3.4, mark=mark)
    axis.bar(names, table["accuracy"], color="0.75", yerr=error_bars(table), capsize=3)
    axis.set(xlabel="annotators who agree with the label", ylim=(0, 1.02))
    axis.set_ylabel("accuracy (lines: 95 % interval)")
    axis.grid(axis="x", visible=False)
    percent(axis.yaxis)
    return figure


def views(found: dict[str, dict[str, Any]], *, mark: str) -> Figure:
    """Plot accuracy with each set of views of a face, and the time that it takes.

    Args:
        found: result of `robustness.compare_views`.
    """
    names = [VIEW_TITLES.get(name, name) for name in found]
    table = pd.DataFrame(found.values(), index=names)
    figure, (left, right) = new_figure(9, 1.1 + 0.5 * len(table), mark=mark, ncols=2, sharey=True)
    blue = sns.color_palette("colorblind")[0]
    rows = np.arange(len(table))
    left.errorbar(table["accuracy"], rows, xerr=error_bars(table), fmt="o", color=blue, capsize=3)
    left.axvline(table["accuracy"].iloc[0], color="0.6", linewidth=1, linestyle="--")
    left.set(yticks=rows, yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    left.set_xlabel("accuracy (bars: 95 % interval)")
    left.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    percent(left.xaxis)
    bars = right.barh(rows, table["milliseconds"], color="0.6", height=0.55)
    costs = ["1 pass" if n == 1 else f"{n} passes" for n in table["passes"]]
    right.bar_label(bars, costs, fontsize=8, padding=3)
    right.set(xlabel="milliseconds an image, in batches")
    right.margins(x=0.2)
    right.grid(axis="y", visible=False)
    return figure


def robustness(
    found: dict[str, dict[str, Sequence[dict[str, Any]]]], *, mark: str, guess: float | None = None
) -> Figure:
    """Plot accuracy against severity, in a small panel for each kind of damage, on one scale.

    Args:
        found: results by model and then by kind, which `evaluation.json` has under `robustness`. A
            model need not have every kind. The first entry of a kind is the undamaged image; it is
            drawn as a dashed line if there is only one model.
        guess: accuracy of answering the most frequent class for all images, drawn as a dotted line.
    """
    kinds = list(dict.fromkeys(kind for curves in found.values() for kind in curves))
    rows = -(-len(kinds) // 3)
    figure, axes = new_figure(
        7.6, 0.4 + 2.2 * rows, mark=mark, nrows=rows, ncols=3, squeeze=False, sharey=True
    )
    for axis, kind in zip(axes.ravel(), kinds, strict=False):
        tried = {name: curves[kind] for name, curves in found.items() if kind in curves}
        for name, curve in tried.items():
            style = model_style(name)
            table = pd.DataFrame(curve).sort_values("severity")
            axis.errorbar(
                table["severity"], table["accuracy"], yerr=error_bars(table), fmt=style.marker,
                color=style.colour, linestyle=style.dash, markersize=4, capsize=2, linewidth=1.2,
                label=name,
            )  # fmt: skip
            if len(found) == 1:
                clean = curve[0]["accuracy"]
                axis.axhline(clean, color="0.6", linewidth=1, linestyle="--", zorder=0)
        if guess is not None:
            axis.axhline(guess, color="0.4", linewidth=1, linestyle=":", zorder=0)
        axis.set(title=kind, xlabel=curve[0]["unit"])
        percent(axis.yaxis)
        if curve[0]["severity"] > curve[-1]["severity"]:
            axis.set_xscale("log")  # sides in pixels, the small ones close together
            axis.invert_xaxis()  # so that damage grows to the right
            axis.minorticks_off()
        axis.set_xticks(table["severity"], [f"{severity:g}" for severity in table["severity"]])
    for axis in axes[:, 0]:
        axis.set(ylabel="accuracy\n(bars: 95 % interval)", ylim=(0, 1))
    for axis in axes.ravel()[len(kinds) :]:
        axis.axis("off")
    if len(found) > 1:
        shown: dict[str, Artist] = {}
        for axis in axes.ravel():
            handles, labels = axis.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        lines = shown.values(), in_lines(list(shown))
        figure.legend(*lines, frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure
