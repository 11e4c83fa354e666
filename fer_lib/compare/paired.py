"""Compare runs in pairs on the same images: paired tests, what they allow one to say, and kappa."""

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
"""A difference counts as a finding only if its corrected p value is below this."""

MANY_PAIRS = 15
"""Number of paired tests (those of six runs) up to which each has a sentence of its own."""

BESIDE = {"clean": "clean", "majority": "ferplus_majority"}
"""Parts of the test images on which the same pairs are tested again, by the prefix of columns."""


MEASURED = ("difference", "low", "high", "half_width", "only_a", "only_b", "p")
"""Keys of what `pair_test` returns."""


def paired_tests(
    runs: Sequence[Run] | Mapping[str, Run], faces: FaceSet, *, against_first: bool = False
) -> pd.DataFrame:
    """Compare every two runs on the same test images.

    Args:
        runs: a sequence, whose runs are named by `short_names`, or a dict of runs by other names.
        faces: the data that the runs were trained on.
        against_first: compare each run only with the first one; a few tests that were planned
            beforehand need less correction.

    Returns:
        One row per pair, none for a single run. Columns:

        * `a`, `b`: names of the runs, the one with the better test accuracy as `a`.
        * `difference`: accuracy of `a` minus that of `b`, 0 or more; `low`, `high`: its 95 %
          interval, by a bootstrap over the images.
        * `half_width`: half the width of the 95 % interval of a single accuracy, midway between the
          two, on the same number of images.
        * `only_a`, `only_b`: number of images that only this run has right.
        * `p`: of McNemar's exact test; `p_holm`: corrected for the number of pairs.
        * `finding`: bool, whether `p_holm` is below `LEVEL` and `difference` is at least
          `half_width`.
        * `clean_difference`, `clean_p_holm`, `majority_difference`, `majority_p_holm`: the same
          for `a` minus `b` on the clean images, and against the majority of the annotators, each
          corrected separately; NaN if there are no such images. They do not decide what is a
          finding, but show what it is worth.

    Raises:
        InputError: as in `read_answers`, for example if a run was trained on other data.
    """
    return pair_up(read_answers(runs, faces), against_first=against_first)


def pair_up(answers: Answers, *, against_first: bool = False) -> pd.DataFrame:
    """Do what `paired_tests` does with answers that have been read already."""
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
    """Test pairs of runs, and correct the p values for the number of pairs.

    Args:
        right: for each run, whether it is right on each image, (N,) bool.
        pairs: names of two runs each.

    Returns:
        One row per pair: `a`, `b`, the columns `MEASURED`, and `p_holm`; NaN if N = 0.
    """
    rows = [{"a": a, "b": b, **pair_test(right[a], right[b])} for a, b in pairs]
    table = pd.DataFrame(rows, columns=["a", "b", *MEASURED])
    table["p_holm"] = holm(table["p"])
    return table


def pair_test(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Compare two models by whether each is right on the same images.

    Args:
        a, b: (N,) bool.

    Returns:
        `difference` (mean of `a` minus that of `b`), its 95 % interval `low`, `high` (percentile
        bootstrap over the images), `half_width` of a single accuracy's 95 % interval (normal
        approximation, at the mean of the two accuracies), `only_a` and `only_b` (number of images
        that one has right and the other wrong), and `p` (McNemar, exact). All NaN if N = 0.
    """
    if not len(a):
        return dict.fromkeys(MEASURED, np.nan)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    # If images are drawn with replacement, these two numbers and the rest follow a multinomial.
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
    """Make a compact letter display: names share a letter exactly if no finding separates them.

    The algorithm is insert and absorb, https://doi.org/10.1198/1061860043515: it begins with one
    group of all names; each finding splits every group that has both of its names, and a group that
    is part of another one is dropped.

    Args:
        names: all names that were compared, the best first, which has the letter a.
        tests: with the columns `a`, `b` and `finding`, as `paired_tests` returns them.

    Returns:
        The letters of each name, such as "ab". Names that a finding separates share none.
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
    """Return how far every two runs agree in their answers to the test images.

    Returns:
        Cohen's kappa and the share of equal answers, two square tables by name, (R, R), with 1 on
        the diagonal. Kappa leaves out the agreement that would come from how often each run uses
        each class: 0 is chance.
    """
    given, classes = answers.predicted, len(answers.faces.classes)
    equal = (given[:, None] == given).mean(2)
    share = np.stack([np.bincount(row, minlength=classes) for row in given]) / given.shape[1]
    chance = share @ share.T
    # If both give every image the same single class, chance is 1 and kappa is undefined: 1.
    kappa = np.divide(equal - chance, 1 - chance, out=np.ones_like(equal), where=chance < 1)
    return tuple(pd.DataFrame(part, answers.names, answers.names) for part in (kappa, equal))


def sentences(tests: pd.DataFrame, best: str | None = None) -> list[str]:
    """Say in a sentence what each paired test allows one to say.

    Args:
        tests: as `paired_tests` returns them.
        best: name of a run. If there are more than `MANY_PAIRS` tests, only those of this run have
            a sentence each, and one sentence counts the findings among the others.
    """
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
