"""Let several runs vote: soft votes, and the subset of runs that votes best on validation."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fer_lib.compare.answers import Answers
from fer_lib.compare.paired import LEVEL, pair_test
from fer_lib.evaluate import Predictions, evaluate

EXHAUSTIVE = 14
"""Number of runs up to which every subset is tried: 16,383 subsets, which takes seconds."""


def soft_vote(answers: Answers, names: Sequence[str], split: str = "test") -> np.ndarray:
    """Return the mean of the probabilities of the named runs, (N, K) float32.

    Args:
        answers: of all runs.
        names: of the runs that vote.
        split: "valid" or "test".

    Raises:
        InputError: a name is not that of a run.
    """
    return getattr(answers, split)[answers.rows(names)].mean(0)


def accuracy_of(answers: Answers, names: Sequence[str]) -> float:
    """Return the accuracy of the `soft_vote` of the named runs on the validation images."""
    return float((soft_vote(answers, names, "valid").argmax(1) == answers.labels("valid")).mean())


def best_subset(answers: Answers) -> tuple[list[str], list[dict[str, Any]]]:
    """Find the runs whose soft vote is the most accurate on validation.

    With up to `EXHAUSTIVE` runs, every subset is tried. With more, runs are added one by one, each
    at most once (forward selection, https://doi.org/10.1145/1015330.1015432), and the best of these
    subsets is taken. Of equally accurate subsets the smallest is taken, and of those of one size
    the one with the larger likelihood on validation. The test set is not used.

    Returns:
        The names of the runs, in the order in which they were added if they were added one by one;
        and for each size from 1 to all runs a dict of `members` (names of the best subset of this
        size) and `valid_accuracy`.
    """
    find = _every_subset if len(answers.names) <= EXHAUSTIVE else _forward
    steps = find(answers)
    best = max(steps, key=lambda step: step["valid_accuracy"])  # of equals the first, the smallest
    return best["members"], steps


def _every_subset(answers: Answers) -> list[dict[str, Any]]:
    """Return the best subset of each size, of all subsets."""
    sizes = range(1, len(answers.names) + 1)
    return [_best(answers, map(list, combinations(answers.names, size))) for size in sizes]


def _forward(answers: Answers) -> list[dict[str, Any]]:
    """Return the best run, then the subsets made by adding the run that helps most, up to all."""
    steps: list[dict[str, Any]] = []
    while len(steps) < len(answers.names):
        so_far = steps[-1]["members"] if steps else []
        rest = [name for name in answers.names if name not in so_far]
        steps.append(_best(answers, ([*so_far, name] for name in rest)))
    return steps


def _best(answers: Answers, subsets: Any) -> dict[str, Any]:
    """Return the most accurate subset on validation; the larger likelihood there decides a tie.

    Runs are in the order of their test accuracy, so the first of equals would be chosen by that.
    """
    labels = answers.labels("valid")

    def score(names: list[str]) -> tuple[float, float]:
        p = soft_vote(answers, names, "valid")
        own = p[np.arange(len(p)), labels].astype(np.float64)
        return float((p.argmax(1) == labels).mean()), float(np.log(own.clip(1e-12)).mean())

    best = max(subsets, key=score)
    return {"members": best, "valid_accuracy": score(best)[0]}


def ensemble(answers: Answers) -> dict[str, Any]:
    """Score the best subset once on the test images, and test it against the best single run.

    Both are chosen only on validation. The run with the most test images right may be another one,
    and is harder to beat, so the subset is tested against it too.

    Returns:
        A dict of

        * `members`, `steps`: see `best_subset`; `every_subset`: whether every subset was tried,
          or else runs were added one by one.
        * `valid_accuracy`; `results`: of the test images, as `evaluate.evaluate` returns them.
        * `single`: name of the best single run, what `paired.pair_test` returns for the subset
          against it (`p` is not corrected: it is one planned test), and `finding`: whether `p`
          is below `LEVEL` and the size of the difference at least `half_width`.
        * `highest`: `single`, the same test and `finding`, against the run that has the most test
          images right (a second test, not corrected either).
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
