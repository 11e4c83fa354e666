"""Compare finished runs: scores, paired tests, costs, ensembles, copied images, published claims.

`comparison` computes all of these from kept predictions, and `write_comparison` writes them to
files; `summary` documents the format of `comparison.json`. `python -m fer_lib.compare RUN…` prints
scores and tests.
"""

from fer_lib.compare.answers import finished_runs, read_answers
from fer_lib.compare.claims import known_refinement
from fer_lib.compare.cost import timed
from fer_lib.compare.formatting import tables
from fer_lib.compare.names import marks, short_names
from fer_lib.compare.paired import paired_tests, sentences
from fer_lib.compare.scores import (
    TEST_SETS,
    averaging,
    best_on_validation,
    by_test_set,
    by_validation,
    leaderboard,
    recalls,
)
from fer_lib.compare.summary import comparison, figures, records
from fer_lib.compare.voting import accuracy_of
from fer_lib.compare.writing import ensemble_sentence, write_comparison
