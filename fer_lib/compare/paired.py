"""Runs against each other on the same images: paired tests, what they allow one to say, kappa."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from fer_lib.compare.answers import Answers, read_answers
from fer_lib.compare.names import signs
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import DRAWS, holm, mcnemar
from fer_lib.runs import Run

LEVEL = 0.05
"""Largest corrected p value of a difference that counts as a finding."""

MANY_PAIRS = 15
"""Paired tests up to which there is a sentence for each: those of six runs."""

BESIDE = {"clean": "clean", "majority": "ferplus_majority"}
"""Parts of the test images on which the same pairs are tested again, by the prefix of a column."""


MEASURED = ("difference", "low", "high", "half_width", "only_a", "only_b", "p")
"""What `pair_test` measures of a pair."""


def paired_tests(
    runs: Sequence[Run] | Mapping[str, Run], faces: FaceSet, *, against_first: bool = False
) -> pd.DataFrame:
    """Compare each two runs on the same test images, the better one of a pair as `a`.

    Runs may come by names of one's own, which then take the place of the short ones.

    With `against_first` each run is compared with the first alone: fewer tests, planned ahead, are
    corrected for less.

    Columns: `a`, `b` (`short_names`), `difference` (of accuracies, 0 or more), its 95 % interval
    `low`, `high` (bootstrap over the images), `half_width` (of the 95 % interval of an accuracy
    between theirs on so many images), `only_a`, `only_b` (images that only this one has right), `p`
    (McNemar, exact), `p_holm` (corrected for the number of pairs), `finding` (bool: `p_holm` below
    `LEVEL` and `difference` no less than `half_width`). Then `clean_difference`, `clean_p_holm` and
    `majority_difference`, `majority_p_holm`: the same of `a` less `b` on the clean images and
    against the majority of the annotators, each corrected for itself; NaN where there are no such
    images. They do not decide what is a finding, but what it is worth. No rows for fewer than two
    runs.

    Raises:
        InputError: there are no runs, or one was trained on other data.
    """
    return pair_up(read_answers(runs, faces), against_first=against_first)


def pair_up(answers: Answers, *, against_first: bool = False) -> pd.DataFrame:
    """The same from answers that have been read."""
    right = dict(zip(answers.names, answers.correct, strict=True))
    first, *others = right
    pairs = [(first, other) for other in others] if against_first else combinations(right, 2)
    pairs = [sorted(pair, key=lambda name: -right[name].mean()) for pair in pairs]
    table = tested(right, pairs)
    table["finding"] = (table["p_holm"] < LEVEL) & (table["difference"] >= table["half_width"])
    for prefix, part in BESIDE.items():
        beside = tested(dict(zip(answers.names, answers.correct_on(part), strict=True)), pairs)
        for column in ("difference", "p_holm"):
            table[f"{prefix}_{column}"] = beside[column]
    return table


def tested(right: dict[str, np.ndarray], pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A row a pair: `a`, `b`, what `pair_test` gives, and `p_holm`; NaN where nothing is scored."""
    rows = [{"a": a, "b": b, **pair_test(right[a], right[b])} for a, b in pairs]
    table = pd.DataFrame(rows, columns=["a", "b", *MEASURED])
    table["p_holm"] = holm(table["p"])
    return table


def pair_test(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Two rows of right answers, (N,) bool each: `difference` of their means with its 95 %
    interval `low`, `high` (percentile bootstrap over the images), `half_width` of a single
    accuracy's (normal approximation, at the mean of the two), `only_a`, `only_b` and `p`.
    """
    if not len(a):
        return dict.fromkeys(MEASURED, np.nan)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    # Drawing images with replacement draws these two numbers and the rest from a multinomial.
    share = np.array([only_a, only_b, len(a) - only_a - only_b]) / len(a)
    drawn = np.random.default_rng(0).multinomial(len(a), share, DRAWS) / len(a)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
    q = (a.mean() + b.mean()) / 2
    return {
        "difference": float(a.mean() - b.mean()),
        **{"low": float(low), "high": float(high)},
        "half_width": float(1.96 * np.sqrt(q * (1 - q) / len(a))),
        **{"only_a": only_a, "only_b": only_b},
        "p": mcnemar(a, b),
    }


def letters(names: Sequence[str], tests: pd.DataFrame) -> dict[str, str]:
    """Compact letter display: two names share a letter exactly where no finding sets them apart.

    Insert and absorb, https://doi.org/10.1198/1061860043515: from one group of all, each finding
    splits the groups that hold both of its sides, and what lies within another group is dropped.

    Args:
        names: all that were compared, the best first: it has the letter a.
        tests: columns `a`, `b` and `finding`, as of `paired_tests`.
    """
    groups = [frozenset(names)]
    for one, other in tests.loc[tests["finding"].astype(bool), ["a", "b"]].itertuples(index=False):
        split = [
            part
            for group in groups
            for part in ((group - {one}, group - {other}) if {one, other} <= group else (group,))
        ]
        groups = [g for g in dict.fromkeys(split) if not any(g < larger for larger in split)]
    rank = {name: place for place, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    lettered = list(zip(signs(len(groups)), groups, strict=True))
    return {name: "".join(sign for sign, group in lettered if name in group) for name in names}


def agreement(answers: Answers) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cohen's kappa of each two runs' answers to the test images, and the share of equal answers.

    Both square, by name; on the diagonal 1. Kappa takes off the agreement that two runs would have
    by how often they use each class alone: 0 is chance.
    """
    given, classes = answers.predicted, len(answers.faces.classes)
    equal = (given[:, None] == given).mean(2)
    share = np.stack([np.bincount(row, minlength=classes) for row in given]) / given.shape[1]
    chance = share @ share.T
    # Where both give all images one and the same class there is nothing left to agree on: 1.
    kappa = np.divide(equal - chance, 1 - chance, out=np.ones_like(equal), where=chance < 1)
    return tuple(pd.DataFrame(part, answers.names, answers.names) for part in (kappa, equal))


def sentences(tests: pd.DataFrame, best: str | None = None) -> list[str]:
    """What each paired test allows one to say; of over `MANY_PAIRS`, those of the run `best`."""
    if tests.empty:
        return ["There is one run or system only, so nothing to compare it with."]
    shown, rest = tests, tests[:0]
    if best and len(tests) > MANY_PAIRS:
        about = (tests["a"] == best) | (tests["b"] == best)
        shown, rest = tests[about], tests[~about]
    said = []
    for row in shown.itertuples():
        p = f"p = {row.p_holm:.3f}" if row.p_holm >= 0.001 else "p below 0.001"
        numbers = f"{100 * row.difference:.1f} points, {p} after correction"
        if row.finding:
            said.append(f"{row.a} is better than {row.b} ({numbers}): a finding.")
        elif row.p_holm < LEVEL:
            said.append(
                f"{row.a} is better than {row.b} by less than such an accuracy is uncertain by "
                f"({numbers}): no finding."
            )
        else:
            said.append(f"{row.a} and {row.b} cannot be told apart ({numbers}): no finding.")
    if len(rest):
        said.append(
            f"Among the others, {rest['finding'].sum()} of {len(rest)} differences are findings; "
            "the table has them."
        )
    return said
