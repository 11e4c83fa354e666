"""Results that are kept in the repository, in `report/results/`, and their tables."""

from fer_lib.kept.labels import keep_file, keep_labels, restore_labels
from fer_lib.kept.results import KEPT, keep_results, restore
from fer_lib.kept.tables import best_of_each, on_real_faces, results_table, train_config

__all__ = [
    "KEPT",
    "best_of_each",
    "keep_file",
    "keep_labels",
    "keep_results",
    "on_real_faces",
    "restore",
    "restore_labels",
    "results_table",
    "train_config",
]
