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
