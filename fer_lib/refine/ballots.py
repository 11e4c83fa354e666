"""The votes of several voters on images, over one set of classes; a voter may abstain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS_8, canonical


@dataclass(frozen=True)
class Ballots:
    """Class probabilities of V voters for N images.

    Attributes:
        voters: V names.
        probabilities: (V, N, K) float32 over the K classes of the data. A row sums to 1, or is all
            NaN if the voter abstains on the image.
        missing: names of voters that were requested but not available; the threshold of the rule
            `majority` counts them.
    """

    voters: tuple[str, ...]
    probabilities: np.ndarray
    missing: tuple[str, ...] = ()

    @property
    def named(self) -> int:
        """Number of voters that were requested, including the missing ones."""
        return len(self.voters) + len(self.missing)

    @property
    def speak(self) -> np.ndarray:
        """Whether each voter votes on each image, (V, N) bool."""
        return ~np.isnan(self.probabilities).any(2)

    def votes(self) -> np.ndarray:
        """Return the class that each voter names, (V, N) int64; -1 where it abstains."""
        return np.where(self.speak, np.nan_to_num(self.probabilities).argmax(2), -1)

    def mean(self) -> np.ndarray:
        """Return the mean of the voters that do not abstain, (N, K) float32; NaN where all do."""
        total, number = np.nan_to_num(self.probabilities).sum(0), self.speak.sum(0)[:, None]
        return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)

    def __add__(self, other: "Ballots") -> "Ballots":
        """Combine the voters of two sets of ballots on the same images."""
        both = np.concatenate([self.probabilities, other.probabilities])
        return Ballots(self.voters + other.voters, both, self.missing + other.missing)


def vocabulary(names: Sequence[str], source: str) -> tuple[str, ...]:
    """Translate the class names of a voter into our canonical names, in the same order.

    Args:
        source: where the names come from, for error messages.

    Raises:
        InputError: a name is not a known expression, or two names mean the same expression. The
            message contains `source` and the name.
    """
    known = []
    for name in names:
        try:
            known.append(canonical(name))
        except InputError as error:
            raise InputError(f"{source} cannot vote: {error}") from None
        if known[-1] not in EMOTIONS_8 or known.count(known[-1]) > 1:
            raise InputError(
                f"{source} cannot vote: its class {name!r} is not an expression, or means the "
                "same as another one"
            )
    return tuple(known)


def translate(
    probabilities: np.ndarray,
    source: Sequence[str],
    classes: Sequence[str],
    labels: np.ndarray,
) -> np.ndarray:
    """Map the probabilities of a voter to the classes of the data, matched by name.

    A class that only the voter knows (contempt, if the data have seven classes) is dropped, and the
    remaining probabilities are rescaled to sum to 1. If the dropped class is the voter's first
    choice, the voter abstains. A class that only the data have gets probability 0, and the
    voter abstains on images with that label: a voter that cannot say disgust cannot speak against
    it either.

    Args:
        probabilities: (N, M) float, rows sum to 1.
        source: M names from `labels.EMOTIONS_8`, the voter's classes in the order of the columns.
        classes: K names, the classes of the data.
        labels: (N,) int64, the present labels as indices into `classes`.

    Returns:
        (N, K) float32; a row sums to 1, or is all NaN if the voter abstains.
    """
    translated = np.zeros((len(probabilities), len(classes)), np.float32)
    shared = [name for name in classes if name in source]
    columns = [list(source).index(name) for name in shared]
    translated[:, [list(classes).index(name) for name in shared]] = probabilities[:, columns]
    with np.errstate(invalid="ignore"):  # 0 / 0 if only dropped classes have a probability
        translated /= translated.sum(1, keepdims=True)
    foreign = ~np.isin(np.asarray(source)[probabilities.argmax(1)], shared)
    mute = np.isin(np.asarray(classes)[labels], shared, invert=True)
    translated[foreign | mute] = np.nan
    return translated
