"""Rules that turn votes into labels. Each gives a reason for every label that it changes."""

from collections.abc import Sequence

import numpy as np

from fer_lib.data.ferplus import plurality, soft_targets
from fer_lib.data.refined import Refined
from fer_lib.files import InputError
from fer_lib.refine.ballots import Ballots


def published_threshold(voters: int) -> int:
    """Return the votes that the published project requires to change a label.

    These are more than half of four or more voters, and at least half of fewer.
    """
    return voters // 2 + 1 if voters >= 4 else -(-voters // 2)


def majority(ballots: Ballots, labels: np.ndarray, classes: Sequence[str]) -> Refined:
    """Apply the published rule: a class that enough voters name replaces the label.

    The threshold counts all voters that were requested, including those that abstain or are
    missing. If two classes reach it, as when two voters disagree, the label is kept. The soft
    label is the share of each class among the votes, with the label as one more vote.

    Args:
        labels: (N,) int64, the present labels.
        classes: K names.
    """
    need = published_threshold(ballots.named)
    counts = (ballots.votes()[..., None] == np.arange(len(classes))).sum(0)  # (N, K)
    enough = counts >= need
    new = np.where(enough.sum(1) == 1, counts.argmax(1), labels)
    one_hot = np.eye(len(classes))[labels]
    soft = (counts + one_hot) / (counts.sum(1, keepdims=True) + 1)
    said = [
        f"{counts[row, k]} of {ballots.named} voters say {classes[k]}" for row, k in enumerate(new)
    ]
    return _refined("majority", labels, new, soft, said, {"votes": need})


def soft_average(
    ballots: Ballots, labels: np.ndarray, classes: Sequence[str], *, confidence: float = 0.5
) -> Refined:
    """Replace the label with the class of the largest mean probability if that is high enough.

    The soft label is the mean over the voters, with the label as one more voter that is certain.

    Args:
        labels: (N,) int64, the present labels.
        classes: K names.
        confidence: lowest mean probability at which a class replaces the label.
    """
    mean = mean_vote(ballots, labels, len(classes))
    best = mean.argmax(1)
    top = mean.max(1)
    new = np.where(top >= confidence, best, labels)
    said = [f"mean probability {p:.2f} of {classes[k]}" for p, k in zip(top, new, strict=True)]
    soft = _soft(ballots, labels, mean)
    return _refined("soft", labels, new, soft, said, {"confidence": confidence})


MARGIN = 1.6
"""Least ratio of the new label's quotient to the old label's in the rule `relative`.

Chosen on 8,000 drawn faces with 20 % wrong labels, for similar recall and precision.
"""


def relative(ballots: Ballots, labels: np.ndarray, classes: Sequence[str]) -> Refined:
    """Replace the label as `soft_average` does, but with a separate scale for each class.

    Voters are never as sure of a rare class as of a frequent one. So the mean probability of a
    class is divided by its average over the images with that label (the class thresholds of
    confident learning). The class with the largest quotient replaces the label if its quotient is
    at least `MARGIN` times that of the label. With weak voters, this rule gives rare labels to too
    many images: for them, a rare class and mere uncertainty look alike. The soft label is the same
    as in `soft_average`.

    Args:
        labels: (N,) int64, the present labels.
        classes: K names.
    """
    from cleanlab.count import get_confident_thresholds

    mean, rows = mean_vote(ballots, labels, len(classes)), np.arange(len(labels))
    asked = ballots.speak.any(0)
    scaled = mean / get_confident_thresholds(labels[asked], mean[asked])
    best = scaled.argmax(1)
    times = scaled[rows, best] / scaled[rows, labels].clip(1e-6)
    new = np.where(asked & (times >= MARGIN), best, labels)
    said = [
        f"{classes[k]} is {min(t, 99):.1f} times as likely as the label, relative to class averages"
        for t, k in zip(times, new, strict=True)
    ]
    soft = _soft(ballots, labels, mean)
    return _refined("relative", labels, new, soft, said, {"margin": MARGIN})


def confident_learning(ballots: Ballots, labels: np.ndarray, classes: Sequence[str]) -> Refined:
    """Apply confident learning (https://arxiv.org/abs/1911.00068), as cleanlab implements it.

    It estimates how often each class is labelled as each other class, from the images whose mean
    probability of a class is above the average of that class, and rejects that many of the least
    credible labels. They are replaced with the class of the largest mean probability. The soft
    label is the same as in `soft_average`.

    Args:
        labels: (N,) int64, the present labels.
        classes: K names.
    """
    from cleanlab.filter import find_label_issues

    mean = mean_vote(ballots, labels, len(classes))
    asked, issues = ballots.speak.any(0), np.zeros(len(labels), bool)
    issues[asked] = find_label_issues(
        labels[asked], mean[asked], filter_by="prune_by_noise_rate", n_jobs=1
    )
    new = np.where(issues, mean.argmax(1), labels)
    own = mean[np.arange(len(labels)), labels]
    said = [
        f"the label, of probability {p:.2f}, is not credible; {classes[k]} has {mean[row, k]:.2f}"
        for row, (p, k) in enumerate(zip(own, new, strict=True))
    ]
    soft = _soft(ballots, labels, mean)
    return _refined("confident", labels, new, soft, said, {"filter_by": "prune_by_noise_rate"})


def annotators(votes: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Refined:
    """Replace the label with what most of FERPlus's ten annotators see: the oracle.

    The label is kept if most see none of the classes, if nobody sees an emotion, or if nothing
    else has more votes than it. The soft label is the share of each class among the votes for the
    classes; without such votes, it is the label.

    Args:
        votes: (N, 10) counts over `labels.VOTES`, which begins with the classes.
    """
    winner = plurality(votes)
    seen = votes[np.arange(len(votes)), labels] == votes.max(1)
    known = (winner < len(classes)) & (votes.sum(1) > 0) & ~seen
    new = np.where(known, winner, labels)
    shares, voted = soft_targets(votes, classes)
    soft = np.where(voted[:, None], shares, np.eye(len(classes))[labels])
    most, cast = votes.max(1).astype(int), votes.sum(1).astype(int)
    said = [
        f"{m} of {n} annotators see {classes[k]}" for m, n, k in zip(most, cast, new, strict=True)
    ]
    return _refined("annotators", labels, new, soft, said, {"tied": "kept"})


def apply_rules(
    ballots: Ballots,
    labels: np.ndarray,
    classes: Sequence[str],
    votes: np.ndarray | None,
    *,
    confidence: float = 0.5,
) -> dict[str, Refined]:
    """Apply all rules and return their results by name.

    Args:
        labels: (N,) int64, the present labels.
        classes: K names.
        votes: (N, 10) counts over `labels.VOTES`; None to omit the rule `annotators`.
        confidence: see `soft_average`.

    Raises:
        InputError: `confidence` is not in 0..1, there is no voter, or the images that were voted on
            have fewer than two different labels.
    """
    if not 0 <= confidence <= 1:
        raise InputError(f"confidence is a probability, not {confidence}")
    if not ballots.voters:
        raise InputError("there is no voter: name a model or a classifier from Hugging Face")
    asked = ballots.speak.any(0)
    if len(np.unique(labels)) < 2:
        raise InputError("all labels are of one class: there is nothing to refine")
    if len(np.unique(labels[asked])) < 2:
        raise InputError(
            f"the voters ({', '.join(ballots.voters)}) abstain on all images but {asked.sum()}: "
            "name voters that know the classes of the data"
        )
    refined = [
        majority(ballots, labels, classes),
        soft_average(ballots, labels, classes, confidence=confidence),
        relative(ballots, labels, classes),
        confident_learning(ballots, labels, classes),
    ]
    refined += [] if votes is None else [annotators(votes, labels, classes)]
    return {one.rule: one for one in refined}


def mean_vote(ballots: Ballots, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean over the voters, (N, K) float64; if all abstain, the label is certain."""
    mean = ballots.mean().astype(np.float64)
    silent = np.isnan(mean).any(1)
    mean[silent] = np.eye(classes)[labels[silent]]
    return mean / mean.sum(1, keepdims=True)


def _soft(ballots: Ballots, labels: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return `mean_vote` with the label as one more voter that is certain, (N, K) float64."""
    speaking = ballots.speak.sum(0)[:, None]
    return (speaking * mean + np.eye(mean.shape[1])[labels]) / (speaking + 1)


def _refined(
    rule: str,
    labels: np.ndarray,
    new: np.ndarray,
    soft: np.ndarray,
    said: Sequence[str],
    settings: dict,
) -> Refined:
    reasons = np.where(new == labels, "", np.array(said))
    return Refined(rule, new.astype(np.int64), soft.astype(np.float32), reasons, settings)
