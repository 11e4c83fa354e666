"""Finished runs side by side: scores, paired tests, costs, ensembles, copies, and claims.

`comparison` computes all of it from kept predictions, and `write_comparison` writes it; `summary`
documents the format of `comparison.json`. `python -m fer_lib.compare RUN…` prints scores and tests.
"""

from fer_lib.compare.answers import Answers, read_answers, require_runs
from fer_lib.compare.claims import CLAIMS, claims_table, known_refinement
from fer_lib.compare.copies import inflation
from fer_lib.compare.cost import costs, timed
from fer_lib.compare.names import marks, short_names, system_names
from fer_lib.compare.paired import agreement, letters, paired_tests, sentences
from fer_lib.compare.scores import (
    TEST_SETS,
    best_on_validation,
    by_test_set,
    leaderboard,
    recalls,
    systems,
)
from fer_lib.compare.summary import comparison, cost_table, figures, records
from fer_lib.compare.tables import tables
from fer_lib.compare.voting import accuracy_of, best_subset, ensemble, soft_vote
from fer_lib.compare.writing import ensemble_sentence, write_comparison

__all__ = [
    "CLAIMS",
    "TEST_SETS",
    "Answers",
    "accuracy_of",
    "agreement",
    "best_on_validation",
    "best_subset",
    "by_test_set",
    "claims_table",
    "comparison",
    "cost_table",
    "costs",
    "ensemble",
    "ensemble_sentence",
    "figures",
    "inflation",
    "known_refinement",
    "leaderboard",
    "letters",
    "marks",
    "paired_tests",
    "read_answers",
    "recalls",
    "records",
    "require_runs",
    "sentences",
    "short_names",
    "soft_vote",
    "system_names",
    "systems",
    "tables",
    "timed",
    "write_comparison",
]
