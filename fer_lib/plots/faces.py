"""Figures of faces: their number, what they look like, what people and models see in them."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.labels import VOTES
from fer_lib.plots.style import EMOTION_COLOURS, new_figure


def class_counts(faces: FaceSet) -> Figure:
    """Plot the number of images of each class in each split."""
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


def show_face(axis: Any, image: np.ndarray, caption: str = "") -> None:
    """Draw one face (C, H, W), uint8 or float in 0..1; pixels that are NaN stay empty."""
    top = 255 if image.dtype == np.uint8 else 1
    known = ~np.isnan(image).any(0)
    opacity = None if known.all() else known.astype(float)
    axis.imshow(
        np.nan_to_num(image).transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=top,
        alpha=opacity,
    )  # fmt: skip
    axis.set_title(caption, fontsize=8)


NO_TICKS = {"xticks": [], "yticks": []}
"""Options for axes that are off: computing their ticks would take two thirds of a grid's time."""


SIZE = 1.3  # inches, side of a face in a grid


def faces_grid(
    images: np.ndarray, captions: Sequence[str], *, mark: str, columns: int = 7
) -> Figure:
    """Draw faces (N, C, H, W), uint8 or float in 0..1, with a caption above each."""
    rows = -(-len(images) // columns)
    figure, axes = new_figure(
        columns * SIZE, rows * (SIZE + 0.25), mark=mark, nrows=rows, ncols=columns, squeeze=False,
        subplot_kw=NO_TICKS,
    )  # fmt: skip
    for axis in axes.ravel():
        axis.axis("off")
    for axis, image, caption in zip(axes.ravel(), images, captions, strict=False):
        show_face(axis, image, caption)
    return figure


def faces_with_votes(
    images: np.ndarray, votes: np.ndarray, captions: Sequence[str], *, mark: str
) -> Figure:
    """Draw faces (N, C, H, W), each above a bar chart of its votes (N, 10) by `labels.VOTES`."""
    n = len(images)
    figure, axes = new_figure(
        1.5 * n + 0.8, 3.9, mark=mark, nrows=2, ncols=n, squeeze=False, sharey="row"
    )
    colours = [EMOTION_COLOURS.get(name, "0.6") for name in VOTES]
    for (face, bars), image, counts, caption in zip(axes.T, images, votes, captions, strict=True):
        show_face(face, image, caption)
        face.axis("off")
        bars.barh(VOTES, counts, color=colours)
        bars.set(xlim=(0, max(10, votes.max())), xlabel="votes")
        bars.grid(axis="y", visible=False)
    axes[1, 0].invert_yaxis()
    return figure


def answers(faces: FaceSet, some: pd.DataFrame, *, mark: str) -> Figure:
    """Draw faces with label, answer and confidence above, and votes below if there are any.

    Args:
        some: one or more rows of the table of `evaluate.answers.answers`; seven fit the width of a
            page.
    """
    rows = some["row"].to_numpy()
    captions = [
        f"{row.label}\n→ {row.predicted}, {row.confidence:.0%}" for row in some.itertuples()
    ]
    if faces.votes is None:
        return faces_grid(faces.images[rows], captions, mark=mark)
    return faces_with_votes(faces.images[rows], faces.votes[rows], captions, mark=mark)


def overlays(
    images: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    *,
    mark: str,
    columns: int = 7,
) -> Figure:
    """Draw faces, and below each the same face under a heat map of what a model looks at.

    Every map has its own scale, from its smallest value (dark) to its largest (bright), so two
    faces can be compared by where the map is bright, but not by how bright it is.

    Args:
        images: (N, C, H, W), uint8 or float in 0..1.
        maps: (N, h, w) float, of any size; they are scaled to the size of the images.
        captions: one for each face.
    """
    rows = -(-len(images) // columns)
    figure, axes = new_figure(
        columns * SIZE, rows * (2 * SIZE + 0.3), mark=mark, nrows=2 * rows, ncols=columns,
        squeeze=False, subplot_kw=NO_TICKS,
    )  # fmt: skip
    for axis in axes.ravel():
        axis.axis("off")
    pairs = axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
    height, width = images.shape[2:]
    box = (-0.5, width - 0.5, height - 0.5, -0.5)  # pixels, as imshow places the face
    for (plain, under), image, heat, caption in zip(pairs, images, maps, captions, strict=False):
        show_face(plain, image, caption)
        show_face(under, image)
        under.imshow(heat, cmap="inferno", alpha=0.5, extent=box, interpolation="bilinear")
    return figure


SIDE = 240  # pixels, side of a face on a page


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a face under a heat map as in `overlays`, but as pixels, which a page shows quickly.

    Args:
        image: (C, H, W) uint8.
        heat: (h, w) float, on a scale of its own.

    Returns:
        (SIDE, SIDE, 3) uint8.
    """
    span = max(float(np.ptp(heat)), 1e-12)
    heat, face = (
        Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        for part in (np.float32((heat - heat.min()) / span), image.transpose(1, 2, 0).squeeze())
    )
    colours = 255 * mpl.colormaps["inferno"](np.asarray(heat))[..., :3]
    return ((colours + np.asarray(face.convert("RGB"))) / 2).astype(np.uint8)


def reconstructions(
    images: np.ndarray, masked: np.ndarray, reconstructed: np.ndarray, *, mark: str
) -> Figure:
    """Draw three rows: faces, the patches that an autoencoder saw, and its reconstructions.

    Args:
        images, masked, reconstructed: (N, C, H, W), uint8 or float in 0..1. `masked` is float; its
            hidden pixels are NaN and are drawn in a pale blue that no grey face has.
    """
    names = ("original", "visible patches", "reconstruction")
    n = len(images)
    figure, axes = new_figure(1.2 * n + 0.4, 3.8, mark=mark, nrows=3, ncols=n, squeeze=False)
    for row, name, faces in zip(axes, names, (images, masked, reconstructed), strict=True):
        for axis, image in zip(row, faces, strict=True):
            show_face(axis, image)
            axis.set(xticks=[], yticks=[], facecolor="#b9d7ea")
        row[0].set_ylabel(name, fontsize=8)
    return figure
