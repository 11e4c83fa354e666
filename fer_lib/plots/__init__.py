"""Figures and tables in one colour-blind safe style, with a colour for each emotion and model.

The argument `mark` of most functions is a short text about the data, such as "sample data", that is
shown with the figure or table; "" shows nothing.
"""

from fer_lib.plots.comparison import alike, claims, copies, cost, subsets
from fer_lib.plots.evaluation import by_agreement, coverage, reliability, robustness, views
from fer_lib.plots.faces import (
    answers,
    class_counts,
    faces_grid,
    faces_with_votes,
    heated,
    overlays,
    reconstructions,
)
from fer_lib.plots.internals import embedding, gates, routing
from fer_lib.plots.scores import (
    class_shares,
    confusion_matrix,
    intervals,
    learning_curve,
    learning_curves,
    per_class,
    recovery,
    row_shares,
)
from fer_lib.plots.style import (
    EMOTION_COLOURS,
    interact,
    model_style,
    new_figure,
    percent,
    save,
    table,
    upload,
)

__all__ = [
    "EMOTION_COLOURS",
    "alike",
    "answers",
    "by_agreement",
    "claims",
    "class_counts",
    "class_shares",
    "confusion_matrix",
    "copies",
    "cost",
    "coverage",
    "embedding",
    "faces_grid",
    "faces_with_votes",
    "gates",
    "heated",
    "interact",
    "intervals",
    "learning_curve",
    "learning_curves",
    "model_style",
    "new_figure",
    "overlays",
    "per_class",
    "percent",
    "reconstructions",
    "recovery",
    "reliability",
    "robustness",
    "routing",
    "row_shares",
    "save",
    "subsets",
    "table",
    "upload",
    "views",
]
