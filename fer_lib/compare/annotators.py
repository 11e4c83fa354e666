"""Compare the labels of the test images with the votes of FERPlus's annotators."""

from typing import Any

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import plurality
from fer_lib.evaluate import labels_by_part
from fer_lib.labels import EMOTIONS_8


def label_agreement(faces: FaceSet) -> dict[str, Any] | None:
    """Count how often the label of a test image is what the annotators say.

    It is what a run would reach against them that knew every label.

    Returns:
        `plurality`: of the test images with a vote for an emotion, their number `images` and the
        share `label_agrees` whose label has the most votes; `majority`: the same for those with a
        majority among the classes (see `ferplus.majority`). A share of nothing is None; None
        without votes.
    """
    if faces.votes is None:
        return None
    agrees, voted = label_is_plurality(faces)
    winner = labels_by_part(faces)["ferplus_majority"]
    same = winner == faces.labels[faces.where("test")]
    return {"plurality": _share(agrees, voted), "majority": _share(same, winner >= 0)}


def label_is_plurality(faces: FaceSet) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the label of each test image has the most votes, and whether there is a vote.

    Returns:
        Two arrays (N,) bool; only votes for an emotion count as a vote. All False without votes.
    """
    rows = faces.where("test")
    if faces.votes is None:
        return np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    votes = faces.votes[rows]
    return plurality(votes) == faces.labels[rows], votes[:, : len(EMOTIONS_8)].sum(1) > 0


def _share(agrees: np.ndarray, among: np.ndarray) -> dict[str, Any]:
    share = float(agrees[among].mean()) if among.any() else None  # JSON has no NaN
    return {"images": int(among.sum()), "label_agrees": share}
