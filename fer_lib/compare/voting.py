"""Soft votes of several runs, and the subset that votes best on validation, scored once on test."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fer_lib.compare.answers import Answers
from fer_lib.compare.paired import LEVEL, pair_test
from fer_lib.evaluate import Predictions, evaluate

EXHAUSTIVE = 14
"""Runs up to which every subset is tried: 16,383 of them, in seconds."""


def soft_vote(answers: Answers, names: Sequence[str], split: str = "test") -> np.ndarray:
    """Mean of the probabilities of named runs for "valid" or "test", (N, K) float32.

    Raises:
        InputError: there is no run of a name.
    """
    return getattr(answers, split)[answers.rows(names)].mean(0)


def accuracy_of(answers: Answers, names: Sequence[str]) -> float:
    """Accuracy of the `soft_vote` of named runs for the validation images."""
    return float((soft_vote(answers, names, "valid").argmax(1) == answers.labels("valid")).mean())


def best_subset(answers: Answers) -> tuple[list[str], list[dict[str, Any]]]:
    """The runs whose soft vote is the most accurate on validation, and how they were found.

    Of up to `EXHAUSTIVE` runs every subset is tried, and of equally good ones the smallest is
    taken, of those of one size the likeliest on validation; among more, runs are added one by one
    while the next one helps (forward selection, https://doi.org/10.1145/1015330.1015432, each run
    at most once). The test set has no part in it.

    Returns:
        names, the best single run first where they were added one by one; and for each size that
        was tried a dict of `members` (names of the best subset of this size) and `valid_accuracy`.
    """
    find = _every_subset if len(answers.names) <= EXHAUSTIVE else _forward
    steps = find(answers)
    best = max(steps, key=lambda step: step["valid_accuracy"])  # the first of equals
    return best["members"], steps


def _every_subset(answers: Answers) -> list[dict[str, Any]]:
    """The best subset of each size."""
    sizes = range(1, len(answers.names) + 1)
    return [_best(answers, map(list, combinations(answers.names, size))) for size in sizes]


def _forward(answers: Answers) -> list[dict[str, Any]]:
    """The best run, and what became of it by adding the most helpful one, up to all of them."""
    steps: list[dict[str, Any]] = []
    while len(steps) < len(answers.names):
        so_far = steps[-1]["members"] if steps else []
        rest = [name for name in answers.names if name not in so_far]
        steps.append(_best(answers, ([*so_far, name] for name in rest)))
    return steps


def _best(answers: Answers, subsets: Any) -> dict[str, Any]:
    """The most accurate subset on validation; of equals that of the larger likelihood there.

    Runs come in the order of their test accuracy, so the first of equals would be chosen by that.
    """
    labels = answers.labels("valid")

    def score(names: list[str]) -> tuple[float, float]:
        p = soft_vote(answers, names, "valid")
        own = p[np.arange(len(p)), labels].astype(np.float64)
        return float((p.argmax(1) == labels).mean()), float(np.log(own.clip(1e-12)).mean())

    best = max(subsets, key=score)
    return {"members": best, "valid_accuracy": score(best)[0]}


def ensemble(answers: Answers) -> dict[str, Any]:
    """The best subset, scored once on the test images, against the best single run.

    Both are chosen on validation alone. The single run with the most test images right may be
    another one, and is a harder one to beat.

    Returns:
        `members` and `steps` (see `best_subset`), `every_subset` (whether all were tried or runs
        added one by one), `valid_accuracy`, `results` (of the test images,
        as `evaluate.evaluate` gives them), `single` (name of the best single run), and against it
        what `paired.pair_test` gives (McNemar's exact `p`: a single planned test), and `finding`.
        `highest`: the same (`single`, a test and its `finding`) against the run that has the most
        test images right.
    """
    members, steps = best_subset(answers)
    single = steps[0]["members"][0]
    highest = answers.names[int(answers.correct.mean(axis=1).argmax())]
    valid, test = (soft_vote(answers, members, split) for split in ("valid", "test"))
    right = test.argmax(1) == answers.labels("test")

    def against(name: str) -> dict[str, Any]:
        found = pair_test(right, answers.correct[answers.rows([name])[0]])
        large = abs(found["difference"]) >= found["half_width"]
        return {"single": name, **found, "finding": found["p"] < LEVEL and large}

    return {
        "members": members,
        "steps": steps,
        "every_subset": len(answers.names) <= EXHAUSTIVE,
        "valid_accuracy": accuracy_of(answers, members),
        "results": evaluate(answers.faces, Predictions.of(answers.faces, valid, test), "test"),
        **against(single),
        "highest": against(highest),
    }
