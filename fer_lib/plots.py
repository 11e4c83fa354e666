"""Figures and tables in one style: colour-blind safe, a colour an emotion, caveats on each."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.files import replacing
from fer_lib.labels import EMOTIONS_8, VOTES

EMOTION_COLOURS = dict(zip(EMOTIONS_8, sns.color_palette("colorblind", 8), strict=True))
STYLE = sns.axes_style("whitegrid") | {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.5,
}


class Picture(Figure):
    """A figure that a notebook shows without pyplot, so neither kept open nor shown twice."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def new_figure(width: float, height: float, *, mark: str, **grid: Any) -> tuple[Figure, Any]:
    """A figure of our style and its axes; `mark` is printed in the lower right corner."""
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(width, height), layout="constrained")
        axes = figure.subplots(**grid)
    if mark:
        figure.supxlabel(mark, x=0.995, ha="right", fontsize=8, style="italic", color="0.35")
    return figure, axes


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, all or nothing, in the format that the suffix names."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def table(frame: pd.DataFrame, *, mark: str, percent: Sequence[str] = ()) -> Styler:
    """A table as a notebook shows it: `mark` above, the columns `percent` (0..1) in per cent."""
    shown = frame.style.format(precision=3, thousands=",", na_rep="")
    return shown.format("{:.1%}", subset=list(percent), na_rep="").set_caption(mark)


def learning_curves(
    rows: Sequence[dict[str, Any]], folder: Path | None, *, mark: str, title: str = ""
) -> Figure:
    """Loss and accuracy by epoch; with a folder, also as loss_curve.png and accuracy_curve.png."""
    table = pd.DataFrame(rows)
    both, axes = new_figure(9, 3.2, mark=mark, ncols=2)
    both.suptitle(title, fontsize=11)
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        curve(axis, table, name)
        if folder is not None:
            figure, alone = new_figure(5, 3.4, mark=mark)
            curve(alone, table, name)
            save(figure, Path(folder) / f"{name}_curve.png")
    return both


def curve(axis: Any, table: pd.DataFrame, name: str) -> None:
    for split, style in (("train", "--"), ("valid", "-")):
        label = {"train": "training (augmented)", "valid": "validation"}[split]
        axis.plot(table["epoch"], table[f"{split}_{name}"], style, marker=".", label=label)
    best = table.loc[table["valid_accuracy"].idxmax()]
    axis.axvline(best["epoch"], color="0.6", linewidth=1, zorder=0)
    axis.annotate(
        "kept", (best["epoch"], 1), xycoords=("data", "axes fraction"), ha="center", va="bottom",
        fontsize=8, color="0.4",
    )  # fmt: skip
    axis.set(xlabel="epoch", ylabel=name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if name == "accuracy":
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
    axis.legend(frameon=False, fontsize=8)


def confusion_matrix(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, mark: str, title: str = ""
) -> Figure:
    """Share of each true class (rows) that was given each label (columns), with the counts' sum."""
    counts = np.asarray(confusion)
    support = counts.sum(1, keepdims=True)
    share = counts / np.maximum(support, 1)
    figure, axis = new_figure(5.6, 4.8, mark=mark)
    sns.heatmap(
        share, annot=True, fmt=".0%", cmap="Blues", vmin=0, vmax=1, square=True, cbar=False,
        xticklabels=classes, ax=axis, annot_kws={"fontsize": 9},
        yticklabels=[f"{c} ({n})" for c, n in zip(classes, support.ravel(), strict=True)],
    )  # fmt: skip
    axis.set(xlabel="predicted", ylabel="true (images)", title=title)
    axis.tick_params(axis="x", rotation=40)
    return figure


def class_counts(faces: FaceSet) -> Figure:
    """Images of each class in each split."""
    table = pd.DataFrame(faces.counts())
    figure, axes = new_figure(9, 2.8, mark=faces.mark, ncols=3)
    for axis, split in zip(axes, SPLITS, strict=True):
        colours = [EMOTION_COLOURS[name] for name in table.index]
        axis.barh(table.index, table[split], color=colours)
        axis.bar_label(axis.containers[0], fontsize=8, padding=2)
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set(title=f"{split} ({table[split].sum():,})", xlabel="images")
    return figure


def faces_grid(
    images: np.ndarray, captions: Sequence[str], *, mark: str, columns: int = 7, size: float = 1.3
) -> Figure:
    """Faces (N, C, H, W), uint8 or float in 0..1, with a caption above each."""
    rows = -(-len(images) // columns)
    figure, axes = new_figure(
        columns * size, rows * (size + 0.25), mark=mark, nrows=rows, ncols=columns, squeeze=False
    )
    for axis in axes.ravel():
        axis.axis("off")
    for axis, image, caption in zip(axes.ravel(), images, captions, strict=False):
        top = 255 if image.dtype == np.uint8 else 1
        axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=top)
        axis.set_title(caption, fontsize=8)
    return figure


def agreement(
    counts: Sequence[Sequence[int]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    mark: str,
    xlabel: str = "what most annotators see",
    ylabel: str = "label",
) -> Figure:
    """Share of each row's total in each column, as a heat map."""
    share = np.asarray(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)
    figure, axis = new_figure(6.4, 4.4, mark=mark)
    sns.heatmap(
        share, annot=True, fmt=".0%", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=axis,
        xticklabels=columns, yticklabels=rows, annot_kws={"fontsize": 8},
    )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.tick_params(axis="x", rotation=40)
    axis.tick_params(axis="y", rotation=0)
    return figure


def intervals(table: pd.DataFrame, *, mark: str, xlabel: str = "accuracy") -> Figure:
    """Points with their 95 % intervals: one row a model, one colour a test set.

    Args:
        table: columns `model`, `set`, `value`, `low`, `high`.
    """
    models, sets = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["set"]))
    width = 5.5 + 0.08 * max(map(len, models))  # inches; room for the names
    figure, axis = new_figure(width, 1.2 + 0.5 * len(models), mark=mark)
    palette = sns.color_palette("colorblind", len(sets))
    for shift, (name, colour, marker) in enumerate(zip(sets, palette, "osD^v", strict=False)):
        part = table[table["set"] == name]
        y = part["model"].map(models.index) + 0.18 * (shift - (len(sets) - 1) / 2)
        spread = [part["value"] - part["low"], part["high"] - part["value"]]
        axis.errorbar(
            part["value"], y, xerr=spread, fmt=marker, color=colour, label=name, capsize=3
        )
    axis.set(xlabel=xlabel, yticks=range(len(models)), yticklabels=models)
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=7)
    axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def per_class(scores: dict[str, dict[str, float]], *, mark: str, ylabel: str = "recall") -> Figure:
    """Heat map of a score by model (rows) and class (columns)."""
    table = pd.DataFrame(scores).T
    figure, axis = new_figure(5.5 + 0.08 * max(map(len, scores)), 1 + 0.45 * len(table), mark=mark)
    sns.heatmap(table, annot=True, fmt=".0%", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=axis)
    axis.set(title=ylabel)
    axis.tick_params(axis="y", rotation=0)
    return figure


def class_shares(shares: dict[str, float], *, mark: str, xlabel: str) -> Figure:
    """A share (0..1) of each class as a bar in the colour of the class."""
    figure, axis = new_figure(6, 1 + 0.27 * len(shares), mark=mark)
    axis.barh(list(shares), list(shares.values()), color=[EMOTION_COLOURS[name] for name in shares])
    axis.bar_label(axis.containers[0], fmt="{:.0%}", fontsize=8, padding=2)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
    axis.set(xlabel=xlabel)
    return figure


def faces_with_votes(
    images: np.ndarray, votes: np.ndarray, captions: Sequence[str], *, mark: str
) -> Figure:
    """Faces (N, C, H, W), each above its votes (N, 10), over `labels.VOTES`, as bars."""
    n = len(images)
    figure, axes = new_figure(
        1.5 * n + 0.8, 3.9, mark=mark, nrows=2, ncols=n, squeeze=False, sharey="row"
    )
    colours = [EMOTION_COLOURS.get(name, "0.6") for name in VOTES]
    for (face, bars), image, counts, caption in zip(axes.T, images, votes, captions, strict=True):
        face.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
        face.set_title(caption, fontsize=8)
        face.axis("off")
        bars.barh(VOTES, counts, color=colours)
        bars.set(xlim=(0, max(10, votes.max())), xlabel="votes")
        bars.grid(axis="y", visible=False)
    axes[1, 0].invert_yaxis()
    return figure


def interact(show: Callable[..., object], **choices: Any) -> Any:
    """Menus and sliders for the arguments of `show`, as ipywidgets makes them from `choices`.

    `show` runs whenever one is changed, and not before: its plain call has shown the first view,
    and a notebook executed without a browser may wait for ever on the first output of a widget
    (https://github.com/jupyter/nbclient/issues/312).
    """
    from IPython.display import display
    from ipywidgets import interactive

    menus = interactive(show, {"manual": True}, **choices)
    menus.manual_button.layout.display = "none"
    for widget in menus.kwargs_widgets:
        widget.observe(menus.update, names="value")
    display(menus)
    return menus
