"""Results that are kept in the repository, in `report/results/`, and their tables."""

from fer_lib.kept.labels import keep_file, keep_labels, restore_labels
from fer_lib.kept.results import KEPT, keep_results, restore
from fer_lib.kept.tables import best_of_each, on_real_faces, results_table
