"""Figures and tables in one style: colour-blind safe, a colour an emotion, caveats on each."""

from fer_lib.plots.faces import (
    class_counts,
    faces_grid,
    faces_with_votes,
    heated,
    overlays,
    reconstructions,
)
from fer_lib.plots.internals import embedding, routing
from fer_lib.plots.scores import (
    accuracy_by_confidence,
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
)

__all__ = [
    "EMOTION_COLOURS",
    "STYLE",
    "Picture",
    "accuracy_by_confidence",
    "agreement",
    "class_counts",
    "class_shares",
    "confusion_matrix",
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
    "routing",
    "save",
    "table",
]
