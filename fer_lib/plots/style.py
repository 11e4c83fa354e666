"""The style of all figures and tables, with a colour for each emotion and each model."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from fer_lib.files import InputError, replacing
from fer_lib.labels import EMOTIONS_8

EMOTION_COLOURS = dict(zip(EMOTIONS_8, sns.color_palette("colorblind", 8), strict=True))
"""Colour of each emotion in all figures; the palette is colour-blind safe."""


class ModelStyle(NamedTuple):
    """How a model is drawn; marker and dash differ too, because grey hides the colour.

    Attributes:
        colour: hexadecimal code.
        marker, dash: as matplotlib's `marker` and `linestyle` take them.
    """

    colour: str
    marker: str
    dash: Any


MODEL_STYLES = {
    "baseline_cnn": ModelStyle("#88ccee", "o", "-"),
    "attention_cnn": ModelStyle("#332288", "s", (0, (5, 2))),
    "vit_patch": ModelStyle("#ddcc77", "D", (0, (1, 1))),
    "vit_cnn": ModelStyle("#117733", "^", (0, (8, 2, 1, 2))),
    "vit_tiny": ModelStyle("#cc6677", "v", (0, (2, 2))),
    "vit_mae": ModelStyle("#882255", "P", (0, (5, 2, 1, 2, 1, 2, 1, 2))),
    "vit_moe": ModelStyle("#44aa99", "X", (0, (14, 3))),
    "grefel": ModelStyle("#999933", "*", (0, (3, 1, 1, 1))),
}
"""Style of each model, in the order in which models are listed.

The colours are the scheme *muted* of Paul Tol, https://sronpersonalpages.nl/~pault/, with different
lightness within a family of models.
"""

OTHER = ModelStyle("#555555", "h", "-")
"""Style of everything that is not a model, such as an ensemble or a published figure."""

STYLE = sns.axes_style("whitegrid") | {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same bytes on each machine
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.5,
    "svg.fonttype": "path",  # outlines: no font is needed where the figure is shown
    "svg.hashsalt": "fer_lib",  # ids inside the file that do not change from call to call
}

MARKERS = "osD^vP*X"
"""Markers that tell apart lines or points that are not models."""

METADATA = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
"""Formats of `save`, each with the metadata on matplotlib and the time that is left out."""


def model_style(name: str) -> ModelStyle:
    """Return the style of a model, by its name or a run's that begins with it ("vit_cnn ours s0").

    Any other name gets the style `OTHER`.
    """
    return MODEL_STYLES.get(name.partition(" ")[0], OTHER)


class Picture(Figure):
    """A figure that a notebook shows without pyplot, so it is not kept open or shown twice."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def new_figure(width: float, height: float, *, mark: str, **grid: Any) -> tuple[Figure, Any]:
    """Create a figure in our style, and its axes; `mark` is printed in the lower right corner.

    Args:
        width: width in inches.
        height: height in inches.
        mark: text such as "sample data", or "" for none.
        grid: arguments of `Figure.subplots`.
    """
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(width, height), layout="constrained")
        axes = figure.subplots(**grid)
    if mark:
        figure.supxlabel(mark, x=0.995, ha="right", fontsize=8, style="italic", color="0.35")
    return figure, axes


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as png or svg (vectors), by the suffix of `path`, completely or not at all.

    With the same version of matplotlib, the same figure gives the same bytes; no date is written.

    Raises:
        InputError: the suffix is neither .png nor .svg.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in METADATA:
        raise InputError(f"{path} must have one of the suffixes {', '.join(METADATA)}")
    with replacing(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, metadata=METADATA[suffix])


def error_bars(rows: Mapping[str, Any], value: str = "accuracy") -> np.ndarray:
    """Return the lengths of error bars, (2, N), from a value to its `low` and its `high`.

    Args:
        rows: one row, or a table of N rows.
        value: key of the value.
    """
    lengths = [rows[value] - rows["low"], rows["high"] - rows[value]]
    return np.abs(lengths).reshape(2, -1)  # rounding may make a length of 0 negative


def in_lines(names: Sequence[str]) -> list[str]:
    """Break names of more than 40 characters into lines, so that they leave room for the data."""
    return [fill(name, 40) for name in names]


def percent(*sides: Axis, decimals: int = 0) -> None:
    """Label axes, such as `axis.xaxis`, in per cent."""
    for side in sides:
        side.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=decimals))


def heat_map(axis: Axes, shares: pd.DataFrame | np.ndarray, **options: Any) -> None:
    """Draw shares (0..1) as a heat map with a number in each cell.

    Args:
        options: more arguments of seaborn's `heatmap`; `annot` and `fmt` change the numbers.
    """
    plain = {"annot": True, "fmt": ".0%", "cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False}
    sns.heatmap(shares, ax=axis, **plain | options)
    values = np.asarray(shares)
    for text in axis.texts:  # seaborn's own choice is white on blues that are too light for it
        column, row = map(int, text.get_position())
        text.set_color("white" if values[row, column] > 0.67 else "0.15")


def table(frame: pd.DataFrame, *, mark: str, percent: Sequence[str] = ()) -> Styler:
    """Format a table for a notebook: `mark` above, the columns `percent` (0..1) in per cent."""
    shown = frame.style.format(precision=3, thousands=",", na_rep="")
    return shown.format("{:.1%}", subset=list(percent), na_rep="").set_caption(mark)


def interact(show: Callable[..., object], **choices: Any) -> Any:
    """Show menus and sliders for the arguments of `show`, made by ipywidgets from `choices`.

    `show` runs whenever one of them is changed, and not before. The caller shows the first view by
    a plain call, because a notebook executed without a browser may wait for ever for the first
    output of a widget (https://github.com/jupyter/nbclient/issues/312).
    """
    from IPython.display import display
    from ipywidgets import interactive

    menus = interactive(show, {"manual": True}, **choices)
    menus.manual_button.layout.display = "none"
    for widget in menus.kwargs_widgets:
        widget.observe(menus.update, names="value")
    display(menus)
    return menus


def upload(show: Callable[[str, bytes], object]) -> Any:
    """Show a button for uploading pictures; `show` runs for each, with its name and content.

    Its output appears below the button. If it raises InputError, the message is printed instead,
    and the next picture follows.
    """
    from IPython.display import display
    from ipywidgets import FileUpload, Output

    button, below = FileUpload(accept="image/*", multiple=True), Output()

    def changed(change: dict[str, Any]) -> None:
        files = change["new"]
        if isinstance(files, dict):  # ipywidgets 7, which Colab has
            files = [{"name": name, "content": one["content"]} for name, one in files.items()]
        with below:
            below.clear_output(wait=True)
            for file in files:
                try:
                    show(file["name"], bytes(file["content"]))
                except InputError as error:
                    print(error)

    button.observe(changed, names="value")
    display(button, below)
    return button
