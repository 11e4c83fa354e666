"""What changed labels are worth: against the known truth, and against ten annotators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import plurality
from fer_lib.data.refined import Refined
from fer_lib.evaluate import aligned, load_predictions
from fer_lib.labels import EMOTIONS_8
from fer_lib.refine.ballots import Ballots
from fer_lib.refine.rules import mean_vote
from fer_lib.runs import Run


def changes(
    labels: np.ndarray, split: np.ndarray, refined: Refined, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What a rule changed, by split.

    Args:
        labels: (N,) int64, the labels before.
        split: (N,) str.

    Returns:
        For each split that occurs: `images`, `changed`, `by_class` (changed, by the old label) and
        `directions` (K lists of K counts: images by old label, rows, and new label, columns).
    """
    found = {}
    for name in dict.fromkeys(split.tolist()):
        rows = split == name
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, (labels[rows], refined.labels[rows]), 1)
        moved = counts.sum(1) - counts.diagonal()
        found[name] = {
            "images": int(rows.sum()),
            "changed": int(moved.sum()),
            "by_class": dict(zip(classes, moved.tolist(), strict=True)),
            "directions": counts.tolist(),
        }
    return found


def against_truth(labels: np.ndarray, refined: Refined, truth: np.ndarray) -> dict[str, Any]:
    """How well a rule finds labels that are known to be wrong.

    Args:
        labels, truth: (N,) int64, the labels given and the right ones.

    Returns:
        `wrong`: labels that are wrong; `changed`; `recall`: share of the wrong ones that become
        right; `precision`: share of the changed ones that become right; `right_before`,
        `right_after`: share of right labels. None for a share of nothing.
    """
    wrong, changed = labels != truth, refined.changed
    mended = changed & (refined.labels == truth)
    return {
        "wrong": int(wrong.sum()),
        "changed": int(changed.sum()),
        "recall": _share(mended, wrong),
        "precision": _share(mended, changed),
        "right_before": float((labels == truth).mean()),
        "right_after": float((refined.labels == truth).mean()),
    }


def against_annotators(
    labels: np.ndarray, refined: Refined, votes: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Whether a rule moves labels towards what most of FERPlus's ten annotators see.

    A change goes *towards* them where the new label has the most of the ten votes, *away* where the
    old one has, and is *neither* where a third thing has; it is *tied* where two things share the
    first place. Images without a vote for any emotion are left out.

    Args:
        votes: (N, 10) counts over `labels.VOTES`, which begins with the classes.

    Returns:
        `images`, `agree_before`, `agree_after` (share of labels that are the plurality, as in the
        audit), and of the changed labels `changed`, `towards`, `away`, `neither`, `tied` (shares),
        `votes_old`, `votes_new` (mean share of the votes for the old and for the new label);
        `by_class`: changed, towards and away of each old label.
    """
    voted = votes[:, : len(EMOTIONS_8)].sum(1) > 0
    old, new, votes = labels[voted], refined.labels[voted], votes[voted]
    winner, changed = plurality(votes), refined.changed[voted]
    tied = changed & ((votes == votes.max(1, keepdims=True)).sum(1) > 1)
    towards = changed & ~tied & (new == winner)
    away = changed & ~tied & (old == winner)
    share = votes / votes.sum(1, keepdims=True)
    seen = {  # mean share of the votes, for the old and for the new label
        name: float(share[changed, k[changed]].mean()) if changed.any() else None
        for name, k in (("votes_old", old), ("votes_new", new))
    }
    return {
        "images": len(old),
        "agree_before": float((old == winner).mean()),
        "agree_after": float((new == winner).mean()),
        "changed": int(changed.sum()),
        "towards": _share(towards, changed),
        "away": _share(away, changed),
        "neither": _share(changed & ~towards & ~away & ~tied, changed),
        "tied": _share(tied, changed),
        **seen,
        "by_class": {
            name: {
                "changed": int((changed & (old == k)).sum()),
                "towards": _share(towards, changed & (old == k)),
                "away": _share(away, changed & (old == k)),
            }
            for k, name in enumerate(classes)
        },
    }


def recovery_curve(
    ballots: Ballots, labels: np.ndarray, classes: Sequence[str], truth: np.ndarray
) -> list[tuple[float, float]]:
    """Recall and precision of the rule `soft`, as in `against_truth`, by rising confidence."""
    mean, wrong, curve = mean_vote(ballots, labels, len(classes)), labels != truth, []
    best, top = mean.argmax(1), mean.max(1)
    for confidence in np.linspace(0.2, 0.98, 40):
        changed = (top >= confidence) & (best != labels)
        mended = changed & (best == truth)
        if changed.any() and wrong.any():
            curve.append((_share(mended, wrong), _share(mended, changed)))
    return curve


def agreement(run: Run, faces: FaceSet, rows: np.ndarray, refined: Refined) -> dict[str, float]:
    """What the published project reported as accuracy, beside the accuracy of the same answers.

    `agreement` is the share of the run's answers on test images that are the label which the
    voters gave. It says how well a model repeats its teachers, not how often it is right.

    Args:
        rows: the rows that `refined` is of, in rising order, all test images among them.
    """
    answers = aligned(faces, load_predictions(run.folder / "predictions.npz"), "test").argmax(1)
    test = faces.split[rows] == "test"
    return {
        "accuracy": float((answers == faces.labels[rows[test]]).mean()),
        "agreement": float((answers == refined.labels[test]).mean()),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """Share of `whole` that is in `part`; None where there is nothing, as JSON has no NaN."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


def fleiss_kappa(votes: np.ndarray, classes: int) -> float | None:
    """Agreement of the voters beyond chance, on the images where none abstains; 1: complete.

    Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76, 1971.

    Args:
        votes: (V, N) int64; -1 where a voter abstains.
        classes: their number.

    Returns:
        None where it is not defined: fewer than two voters, no such image, or one class alone.
    """
    complete = votes[:, (votes >= 0).all(0)]
    voters, images = complete.shape
    counts = (complete[..., None] == np.arange(classes)).sum(0)  # (N, K)
    shares = counts.sum(0) / max(counts.sum(), 1)
    chance = (shares**2).sum()
    if voters < 2 or not images or chance == 1:
        return None
    agreement = ((counts**2).sum(1) - voters) / (voters * (voters - 1))
    return float((agreement.mean() - chance) / (1 - chance))


def voters_table(ballots: Ballots, labels: np.ndarray, votes: np.ndarray | None) -> pd.DataFrame:
    """One row a voter: `votes` it cast, `abstains`, and how often it names the `label` and, where
    there are any, the plurality of the `annotators` (shares of the votes it cast)."""
    rows = {}
    winner = None if votes is None else plurality(votes)
    for name, said in zip(ballots.voters, ballots.votes(), strict=True):
        cast = said >= 0
        rows[name] = {"votes": int(cast.sum()), "abstains": int((~cast).sum())}
        rows[name]["label"] = _share(said == labels, cast)
        if votes is not None:
            seen = cast & (votes[:, : len(EMOTIONS_8)].sum(1) > 0)
            rows[name]["annotators"] = _share(said == winner, seen)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("voter")


def worth_a_look(ballots: Ballots, labels: np.ndarray, refined: Refined) -> np.ndarray:
    """Changed images, int64 positions, the surest changes first.

    Sure is where the mean probability of the new label is far above that of the old one.
    """
    rows = np.flatnonzero(refined.changed)
    mean = np.nan_to_num(ballots.mean())
    gain = mean[rows, refined.labels[rows]] - mean[rows, labels[rows]]
    return rows[np.argsort(-gain, kind="stable")]
