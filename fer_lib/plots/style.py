"""The style of all figures and tables: colour-blind safe, a colour an emotion and a model."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from fer_lib.files import InputError, replacing
from fer_lib.labels import EMOTIONS_8

EMOTION_COLOURS = dict(zip(EMOTIONS_8, sns.color_palette("colorblind", 8), strict=True))
"""Colour of each emotion, everywhere."""


class ModelStyle(NamedTuple):
    """How a model is drawn: the colour alone is not enough in grey, so one marker and dash too.

    Attributes:
        colour: a hexadecimal one.
        marker, dash: as matplotlib's `marker` and `linestyle` take them.
    """

    colour: str
    marker: str
    dash: Any


MODEL_STYLES = {
    "baseline_cnn": ModelStyle("#88ccee", "o", "-"),
    "attention_cnn": ModelStyle("#332288", "s", (0, (6, 2))),
    "vit_patch": ModelStyle("#ddcc77", "D", (0, (1, 1.5))),
    "vit_cnn": ModelStyle("#117733", "^", (0, (6, 2, 1, 2))),
    "vit_tiny": ModelStyle("#cc6677", "v", (0, (3, 1.5))),
    "vit_mae": ModelStyle("#882255", "P", (0, (6, 2, 1, 2, 1, 2))),
    "vit_moe": ModelStyle("#44aa99", "X", (0, (9, 2))),
    "grefel": ModelStyle("#999933", "*", (0, (3, 1.5, 1, 1.5))),
}
"""Style of each model, in the order in which models are listed; the colours are the scheme *muted*
of Paul Tol, https://sronpersonalpages.nl/~pault/, of unlike lightness within a family."""

OTHER = ModelStyle("#555555", "h", "-")
"""Style of what is no model, such as an ensemble or a published figure."""

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

METADATA = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
"""What matplotlib would write about itself and the time, left out; the formats that `save` has."""


def model_style(name: str) -> ModelStyle:
    """Style of a model, also by the name of a run that begins with it ("vit_cnn ours s0")."""
    return MODEL_STYLES.get(name.partition(" ")[0], OTHER)


class Picture(Figure):
    """A figure that a notebook shows without pyplot, so neither kept open nor shown twice."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
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
    """Write a figure as png, or as svg (vectors), as the suffix says, all or nothing.

    The same figure gives the same bytes, without a date, with the same version of matplotlib.

    Raises:
        InputError: another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in METADATA:
        raise InputError(f"{path} is a figure: let its name end in {', '.join(METADATA)}")
    with replacing(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, metadata=METADATA[suffix])


def table(frame: pd.DataFrame, *, mark: str, percent: Sequence[str] = ()) -> Styler:
    """A table as a notebook shows it: `mark` above, the columns `percent` (0..1) in per cent."""
    shown = frame.style.format(precision=3, thousands=",", na_rep="")
    return shown.format("{:.1%}", subset=list(percent), na_rep="").set_caption(mark)


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


def upload(show: Callable[[str, bytes], object]) -> Any:
    """A button that takes pictures; `show` runs below it for each, with its name and content.

    Where it raises InputError, the sentence stands in its place, and the next picture follows.
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
