"""Tests of the table of answers and its filters."""

from dataclasses import replace

import numpy as np
import pytest

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions
from fer_lib.evaluate.answers import ANY, answers, by_agreement, choose
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, VOTES


@pytest.fixture
def faces() -> FaceSet:
    """100 noise images; the odd rows are the test split.

    There are votes for all but the last, some of them for unknown.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 100)
    votes = np.zeros((100, 10), np.float32)
    agreed = rng.integers(0, 11, 100)
    votes[np.arange(100), labels] = agreed
    other = np.where(np.arange(100) % 3, (labels + 1) % 7, VOTES.index("unknown"))
    votes[np.arange(100), other] = 10 - agreed
    votes[99] = 0
    return FaceSet(
        "noise",
        rng.integers(0, 256, (100, 1, 4, 4), dtype=np.uint8),
        labels,
        np.where(np.arange(100) % 2, "test", "valid"),
        np.array([f"face{row:03d}" for row in range(100)]),
        votes=votes,
    )


@pytest.fixture
def p() -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(7), 100).astype(np.float32)


@pytest.fixture
def table(faces, p):
    return answers(faces, Predictions.of(faces, p[::2], p[1::2]))


def test_each_row_describes_one_answer(faces, p, table):
    assert len(table) == 50
    for row in table.itertuples():
        own = p[row.row]
        assert row.id == faces.ids[row.row]
        assert row.label == EMOTIONS[faces.labels[row.row]]
        assert row.predicted == EMOTIONS[own.argmax()]
        assert row.right == (row.label == row.predicted)
        assert row.confidence == pytest.approx(own.max())
        assert row.margin == pytest.approx(own.max() - sorted(own)[-2])
        votes = faces.votes[row.row]
        agreed = votes[faces.labels[row.row]] / votes.sum() if votes.sum() else np.nan
        assert row.agreement == pytest.approx(agreed, nan_ok=True)
    assert table["agreement"].isna().sum() == 1


def test_without_votes_agreement_is_unknown(faces, p):
    mute = replace(faces, votes=None, manifest={})
    table = answers(mute, Predictions.of(mute, p[::2], p[1::2]))
    assert table["agreement"].isna().all()
    assert by_agreement(table) == []
    assert len(choose(table)) == 50
    assert len(choose(table, agreement=(0.0, 0.9))) == 0


def test_each_filter_keeps_exactly_the_rows_that_match(table):
    filters = {
        "label": ("sad", table["label"] == "sad"),
        "predicted": ("happy", table["predicted"] == "happy"),
        "right": (False, ~table["right"]),
        "confidence": ((0.3, 0.5), table["confidence"].between(0.3, 0.5)),
        "agreement": ((0.2, 0.6), table["agreement"].between(0.2, 0.6)),
    }
    for name, (value, expected) in filters.items():
        kept = choose(table, **{name: value})
        assert set(kept.index) == set(table.index[expected])
        assert 0 < len(kept) < len(table)
    both = choose(table, right=False, confidence=(0.3, 0.5))
    assert set(both.index) == set(table.index[~table["right"] & filters["confidence"][1]])
    assert len(choose(table, label=ANY, predicted=ANY, right=ANY)) == len(table)


@pytest.mark.parametrize(
    ("order", "column", "ascends"),
    [
        ("surest first", "confidence", False),
        ("least sure first", "confidence", True),
        ("closest call first", "margin", True),
        ("least agreed first", "agreement", True),
    ],
)
def test_each_order_sorts_by_its_column(table, order, column, ascends):
    values = choose(table, order=order)[column].dropna()
    assert values.is_monotonic_increasing if ascends else values.is_monotonic_decreasing
    with pytest.raises(InputError, match="surest first"):
        choose(table, order="best")


def test_groups_of_agreement_include_their_upper_edge(table):
    groups = by_agreement(table)
    known = table[table["agreement"].notna()]
    assert sum(group["n"] for group in groups) == len(known) == 49
    for group in groups:
        low, high = group["from"] * 10, group["to"] * 10
        tenths = (known["agreement"] * 10).round()
        inside = (tenths <= high) & ((tenths > low) | (low == 0))
        assert group["n"] == inside.sum()
        assert group["accuracy"] == known["right"][inside].mean()
