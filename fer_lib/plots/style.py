"""The style of all figures and tables: colour-blind safe, a colour an emotion, a mark on each."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from fer_lib.files import replacing
from fer_lib.labels import EMOTIONS_8

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
    """A button that takes pictures; `show` runs below it for each, with its name and content."""
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
                show(file["name"], bytes(file["content"]))

    button.observe(changed, names="value")
    display(button, below)
    return button
