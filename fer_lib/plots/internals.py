"""Figures of what happens inside a model: load of experts, spatial gates, embeddings, anchors."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.figure import Figure

from fer_lib.plots.style import EMOTION_COLOURS, MARKERS, new_figure, percent


def routing(metrics: pd.DataFrame, *, mark: str, title: str = "") -> Figure:
    """Plot the load of each expert and the entropies of the router by epoch.

    Args:
        metrics: `metrics.csv`, with the columns `epoch`; `load_0` to `load_<E - 1>` (shares of the
            routes, sum 1); `routing_entropy` and `routing_entropy_image` (nats, at most log E), the
            entropy of the router's average probabilities and that of the probabilities of one
            image.
    """
    loads = [name for name in metrics if re.fullmatch(r"load_\d+", name)]
    figure, (left, right) = new_figure(9, 3.2, mark=mark, ncols=2)
    figure.suptitle(title, fontsize=11)
    palette = sns.color_palette("colorblind", len(loads))
    for number, (name, colour) in enumerate(zip(loads, palette, strict=True)):
        left.plot(
            metrics["epoch"], metrics[name], color=colour, marker=MARKERS[number % len(MARKERS)],
            markersize=4, label=f"expert {number}",
        )  # fmt: skip
    left.axhline(1 / len(loads), color="0.6", linewidth=1, linestyle="--", label="equal")
    left.set(ylabel="share of the routes", ylim=(0, None))
    percent(left.yaxis)
    left.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    right.plot(metrics["epoch"], metrics["routing_entropy"], marker="o", label="of the average")
    right.plot(metrics["epoch"], metrics["routing_entropy_image"], marker="s", label="of one image")
    right.axhline(np.log(len(loads)), color="0.6", linewidth=1, linestyle="--", label="equal")
    right.set(ylabel="entropy (nats)", ylim=(0, None))
    right.legend(frameon=False, fontsize=8, loc="lower left")
    for axis in (left, right):
        axis.set(xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def gates(maps: Sequence[np.ndarray], *, mark: str) -> Figure:
    """Draw what spatial gates let through, in a panel for each, all on one scale from 0 to 1.

    Args:
        maps: one (h, w) map for each gate, in the order of the stages.
    """
    figure, axes = new_figure(2.4 * len(maps) + 0.9, 2.6, mark=mark, ncols=len(maps), squeeze=False)
    for number, (axis, gate) in enumerate(zip(axes[0], maps, strict=True), 1):
        shown = axis.imshow(gate, cmap="viridis", vmin=0, vmax=1)
        axis.set(title=f"stage {number}", xticks=[], yticks=[])
        axis.grid(visible=False)
    figure.colorbar(shown, ax=axes, label="passed", shrink=0.8)
    return figure


def embedding(
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    anchors: np.ndarray,
    *,
    mark: str,
) -> Figure:
    """Plot images as points in the colours of their classes, with the anchors of the classes.

    The name of each class is also written in the middle of its points.

    Args:
        points: (N, 2) float, embeddings projected to two dimensions.
        labels: (N,) int, numbers of the classes.
        classes: names of the K classes.
        anchors: (K, A, 2) float, A anchors of each class in the same projection.
    """
    figure, axis = new_figure(6.4, 5, mark=mark)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for number, name in enumerate(classes):
        colour, some = EMOTION_COLOURS[name], points[labels == number]
        axis.scatter(*some.T, s=9, color=colour, alpha=0.55, linewidths=0, label=name)
        axis.scatter(*anchors[number].T, s=70, marker="D", color=colour, edgecolors="black")
        if len(some):
            axis.annotate(
                name, np.median(some, axis=0), ha="center", va="center", fontsize=9,
                path_effects=halo, zorder=4,
            )  # fmt: skip
    axis.scatter([], [], s=70, marker="D", color="white", edgecolors="black", label="anchors")
    axis.set(xticks=[], yticks=[])
    legend = axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for handle in legend.legend_handles:
        handle.set(sizes=[40], alpha=1)
    return figure
