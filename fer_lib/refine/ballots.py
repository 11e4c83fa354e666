"""What voters say about images, in one vocabulary, with their right to say nothing."""

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
        probabilities: (V, N, K) float32 over the K classes of the data; a row sums to 1, or is all
            NaN where the voter abstains.
        missing: names of voters who were named too but could not be had; a majority counts them.
    """

    voters: tuple[str, ...]
    probabilities: np.ndarray
    missing: tuple[str, ...] = ()

    @property
    def named(self) -> int:
        """Number of the voters that were named, the missing ones among them."""
        return len(self.voters) + len(self.missing)

    def votes(self) -> np.ndarray:
        """(V, N) int64: the class that each voter names, -1 where it abstains."""
        silent = np.isnan(self.probabilities).any(2)
        return np.where(silent, -1, np.nan_to_num(self.probabilities).argmax(2))

    def mean(self) -> np.ndarray:
        """(N, K) float32: mean of the voters that do not abstain; NaN where all of them do."""
        silent = np.isnan(self.probabilities).any(2)
        total = np.nan_to_num(self.probabilities).sum(0)
        number = (~silent).sum(0)[:, None]
        return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)

    def __add__(self, other: "Ballots") -> "Ballots":
        """The voters of both, on the same images."""
        both = np.concatenate([self.probabilities, other.probabilities])
        return Ballots(self.voters + other.voters, both, self.missing + other.missing)


def vocabulary(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The classes of a voter in our words, in its order.

    Raises:
        InputError: a name is no expression that is known, or two of them are the same one; names
            `source` and the class.
    """
    known = []
    for name in names:
        try:
            known.append(canonical(name))
        except InputError as error:
            raise InputError(f"{source} cannot vote: {error}") from None
        if known[-1] not in EMOTIONS_8 or known.count(known[-1]) > 1:
            raise InputError(
                f"{source} cannot vote: its class {name!r} is no expression, or stands there twice"
            )
    return tuple(known)


def translate(
    probabilities: np.ndarray,
    source: Sequence[str],
    classes: Sequence[str],
    labels: np.ndarray,
) -> np.ndarray:
    """Bring the probabilities of a voter into the classes of the data, matched by name.

    A class that only the voter knows (contempt, where the data have seven) is left out, and the
    rest made to sum to 1; where it is the voter's first choice, the voter abstains. A class that
    only the data know gets probability 0, and on images that carry it as their label the voter
    abstains: who cannot say disgust cannot speak against it either.

    Args:
        probabilities: (N, M) float, rows sum to 1.
        source: M names of `labels.EMOTIONS_8`, the columns.
        classes: K names, those of the data.
        labels: (N,) int64, the present labels, index into `classes`.

    Returns:
        (N, K) float32; rows sum to 1, or are NaN where the voter abstains.
    """
    translated = np.zeros((len(probabilities), len(classes)), np.float32)
    shared = [name for name in classes if name in source]
    columns = [list(source).index(name) for name in shared]
    translated[:, [list(classes).index(name) for name in shared]] = probabilities[:, columns]
    with np.errstate(invalid="ignore"):  # all of it may lie on classes that were left out
        translated /= translated.sum(1, keepdims=True)
    foreign = ~np.isin(np.asarray(source)[probabilities.argmax(1)], shared)
    mute = np.isin(np.asarray(classes)[labels], shared, invert=True)
    translated[foreign | mute] = np.nan
    return translated
