"""Figures and tables in one style: colour-blind safe, a colour an emotion, caveats on each."""

from fer_lib.plots.evaluation import coverage, reliability, robustness, views
from fer_lib.plots.faces import (
    answers,
    class_counts,
    faces_grid,
    faces_with_votes,
    heated,
    overlays,
    reconstructions,
)
from fer_lib.plots.internals import embedding, routing
from fer_lib.plots.scores import (
    agreement,
    class_shares,
    confusion_matrix,
    curve,
    intervals,
    learning_curves,
    per_class,
    recovery,
)
from fer_lib.plots.style import (
    EMOTION_COLOURS,
    STYLE,
    Picture,
    interact,
    new_figure,
    save,
    table,
    upload,
)

__all__ = [
    "EMOTION_COLOURS",
    "STYLE",
    "Picture",
    "agreement",
    "answers",
    "class_counts",
    "class_shares",
    "confusion_matrix",
    "coverage",
    "curve",
    "embedding",
    "faces_grid",
    "faces_with_votes",
    "heated",
    "interact",
    "intervals",
    "learning_curves",
    "new_figure",
    "overlays",
    "per_class",
    "reconstructions",
    "recovery",
    "reliability",
    "robustness",
    "routing",
    "save",
    "table",
    "upload",
    "views",
]
