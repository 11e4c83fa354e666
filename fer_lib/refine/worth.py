"""Measure how good changed labels are, against the known truth and against ten annotators."""

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
    """Count the labels that a rule changed, by split.

    Args:
        labels: (N,) int64, the old labels.
        split: (N,) str.

    Returns:
        For each split that occurs: `images`, `changed`, `by_class` (changed, by old label) and
        `directions` (K lists of K counts of images; rows: old label, columns: new label).
    """
    from sklearn.metrics import confusion_matrix  # slow to import

    found, every = {}, range(len(classes))
    for name in dict.fromkeys(split.tolist()):
        rows = split == name
        counts = confusion_matrix(labels[rows], refined.labels[rows], labels=every)
        moved = counts.sum(1) - counts.diagonal()
        found[name] = {
            "images": int(rows.sum()),
            "changed": int(moved.sum()),
            "by_class": dict(zip(classes, moved.tolist(), strict=True)),
            "directions": counts.tolist(),
        }
    return found


def against_truth(labels: np.ndarray, refined: Refined, truth: np.ndarray) -> dict[str, Any]:
    """Measure how well a rule finds labels that are known to be wrong.

    Args:
        labels, truth: (N,) int64, the given labels and the right ones.

    Returns:
        `wrong`, `changed`: number of wrong and of changed labels; `recall`: share of the wrong
        labels that become right; `precision`: share of the changed labels that become right;
        `right_before`, `right_after`: share of right labels. A share of nothing is None.
    """
    wrong, changed = labels != truth, refined.changed
    corrected = changed & (refined.labels == truth)
    return {
        "wrong": int(wrong.sum()),
        "changed": int(changed.sum()),
        "recall": _share(corrected, wrong),
        "precision": _share(corrected, changed),
        "right_before": float((labels == truth).mean()),
        "right_after": float((refined.labels == truth).mean()),
    }


def against_annotators(
    labels: np.ndarray, refined: Refined, votes: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Measure whether a rule moves labels towards what most of FERPlus's ten annotators see.

    A change goes *towards* them if the new label has the most votes, *away* if the old label has
    the most, and *neither* if something else has; it is *tied* if the first place is shared. Images
    without a vote for any emotion are left out.

    Args:
        votes: (N, 10) counts over `labels.VOTES`, which begins with the classes.

    Returns:
        `images` (number); `agree_before`, `agree_after` (share of labels that are the plurality, as
        in the audit); `changed` (number); `towards`, `away`, `neither`, `tied` (shares of the
        changed labels); `votes_old`, `votes_new` (mean share of the votes for the old and for the
        new label of changed images); `by_class`: `changed`, `towards` and `away` for each old
        label. Shares of nothing are None.
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
        "agree_before": _share(old == winner, np.ones_like(changed)),
        "agree_after": _share(new == winner, np.ones_like(changed)),
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
    """Compute recall and precision of the rule `soft`, as in `against_truth`, by confidence.

    Args:
        labels, truth: (N,) int64, the given labels and the right ones.

    Returns:
        A pair (recall, precision) for each of 40 values of `confidence`, rising from 0.2 to 0.98,
        except those at which no label changes; empty if no label is wrong.
    """
    mean, wrong, curve = mean_vote(ballots, labels, len(classes)), labels != truth, []
    best, top = mean.argmax(1), mean.max(1)
    for confidence in np.linspace(0.2, 0.98, 40):
        changed = (top >= confidence) & (best != labels)
        corrected = changed & (best == truth)
        if changed.any() and wrong.any():
            curve.append((_share(corrected, wrong), _share(corrected, changed)))
    return curve


def agreement(run: Run, faces: FaceSet, rows: np.ndarray, refined: Refined) -> dict[str, float]:
    """Return what the published project reported as accuracy, and the accuracy of the same answers.

    `agreement` is the share of the run's answers on test images that equal the label given by the
    voters. It says how well a model repeats its teachers, not how often it is right.

    Args:
        rows: row numbers of the images in `refined`, in rising order, including all test images.

    Returns:
        `accuracy` and `agreement`, 0..1.
    """
    answers = aligned(faces, load_predictions(run.folder / "predictions.npz"), "test").argmax(1)
    test = faces.split[rows] == "test"
    return {
        "accuracy": float((answers == faces.labels[rows[test]]).mean()),
        "agreement": float((answers == refined.labels[test]).mean()),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """Return the share of `whole` that is in `part`; None if `whole` is empty: JSON has no NaN."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


def fleiss_kappa(votes: np.ndarray, classes: int) -> float | None:
    """Compute Fleiss' kappa: the voters' agreement beyond chance on images where none abstains.

    Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76, 1971.

    Args:
        votes: (V, N) int64; -1 where a voter abstains.
        classes: number of classes.

    Returns:
        1 for complete agreement, 0 for no more than by chance; None if kappa is not defined, with
        fewer than two voters, no such image, or votes for one class only.
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
    """Summarise each voter in one row.

    Returns:
        Index `voter`; columns `votes` and `abstains` (number of images), `label` (share of its
        votes that name the label), and with `votes` of people `annotators` (share that name their
        plurality, on images with a vote for an emotion).
    """
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
    """Return the positions of the changed images, int64, the surest changes first.

    The surest change has the largest difference between the mean probabilities of the new label
    and of the old one.
    """
    rows = np.flatnonzero(refined.changed)
    mean = np.nan_to_num(ballots.mean())
    gain = mean[rows, refined.labels[rows]] - mean[rows, labels[rows]]
    return rows[np.argsort(-gain, kind="stable")]
