"""The answers of a model as a table with one row per image, to filter and to look at."""

from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions, aligned
from fer_lib.evaluate.calibration import accuracy, bin_of, exact
from fer_lib.files import InputError

ANY = "any"
ORDERS = {
    "surest first": ("confidence", False),
    "least sure first": ("confidence", True),
    "closest call first": ("margin", True),
    "least agreed first": ("agreement", True),
}
"""Sort orders by name: the column, and whether it ascends."""

STEPS = 5
"""Number of groups of equal width, by the share of annotators who agree."""


def answers(faces: FaceSet, predictions: Predictions) -> pd.DataFrame:
    """Tabulate the answers to the test images, in the order of `faces.where("test")`.

    Returns:
        One row per image, with the columns `row` (of `faces`), `id`, `label`, `predicted` (class
        names), `right` (bool), `confidence` (largest probability), `margin` (over the second
        largest) and `agreement` (share of the annotators' votes that are for the label; NaN without
        votes).

    Raises:
        InputError: the predictions do not belong to these faces.
    """
    rows, names = faces.where("test"), np.array(faces.classes)
    p = exact(aligned(faces, predictions, "test"))
    second, first = np.sort(p, axis=1)[:, -2:].T
    agreement = np.full(len(rows), np.nan)
    if faces.votes is not None:
        votes = faces.votes[rows].astype(float)
        own = votes[np.arange(len(rows)), faces.labels[rows]]
        np.divide(own, votes.sum(1), out=agreement, where=votes.sum(1) > 0)
    return pd.DataFrame(
        {
            "row": rows,
            "id": faces.ids[rows],
            "label": names[faces.labels[rows]],
            "predicted": names[p.argmax(1)],
            "right": p.argmax(1) == faces.labels[rows],
            "confidence": first,
            "margin": first - second,
            "agreement": agreement,
        }
    )


def choose(
    table: pd.DataFrame,
    *,
    label: str = ANY,
    predicted: str = ANY,
    right: bool | str = ANY,
    confidence: tuple[float, float] = (0.0, 1.0),
    agreement: tuple[float, float] = (0.0, 1.0),
    order: str = "surest first",
) -> pd.DataFrame:
    """Return the rows of `answers` that pass every filter, sorted.

    Args:
        label, predicted: a class name, or "any".
        right: True, False, or "any".
        confidence, agreement: lowest and highest value, both included. An image without votes
            passes only an agreement of 0 to 1.
        order: a key of `ORDERS`.

    Raises:
        InputError: `order` is unknown.
    """
    if order not in ORDERS:
        raise InputError(f"order {order!r} is unknown: use one of {', '.join(ORDERS)}")
    keep = np.ones(len(table), bool)
    for column, wanted in (("label", label), ("predicted", predicted), ("right", right)):
        if wanted != ANY:
            keep &= table[column] == wanted
    for column, (low, high) in (("confidence", confidence), ("agreement", agreement)):
        if (low, high) != (0, 1):
            keep &= table[column].between(low, high)
    column, ascends = ORDERS[order]
    return table[keep].sort_values(column, ascending=ascends, kind="stable")


def by_agreement(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute accuracy by the share of annotators who agree with the label; [] without votes.

    Returns:
        For each of `STEPS` groups that has images: `from`, `to` (a group includes its upper edge,
        the first also 0), and `n`, `accuracy`, `low`, `high` from `calibration.accuracy`.
    """
    known = table[table["agreement"].notna()]
    inside = bin_of(known["agreement"].to_numpy(), STEPS)
    return [
        {"from": number / STEPS, "to": (number + 1) / STEPS}
        | accuracy(known["right"].to_numpy()[inside == number])
        for number in np.unique(inside).tolist()
    ]
