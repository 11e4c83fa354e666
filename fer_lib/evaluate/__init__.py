"""Evaluate a run's answers: kept predictions, scores, calibration, abstention and robustness.

Only the modules `robustness` and `corruptions` need torch.
"""

from fer_lib.evaluate.predictions import (
    Predictions,
    aligned,
    halved,
    in_order,
    load_predictions,
    save_predictions,
)
from fer_lib.evaluate.scores import DRAWS, evaluate, holm, labels_by_part, mcnemar, resamples
