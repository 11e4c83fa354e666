"""Class vocabularies of every source, and conversion between them by name, never by index."""

from collections.abc import Sequence

from fer_lib.files import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes in the canonical order, which is that of fer2013.csv."""

EMOTIONS_8 = (*EMOTIONS, "contempt")
"""The classes of FERPlus, which adds contempt at the end."""

EMOJI = {
    "angry": "😠",
    "disgust": "🤢",
    "fear": "😨",
    "happy": "😄",
    "sad": "😢",
    "surprise": "😮",
    "neutral": "😐",
    "contempt": "😏",
}
"""One emoji for each expression."""

VOTES = (*EMOTIONS_8, "unknown", "not a face")
"""Columns of a vote matrix, in the canonical order."""

FERPLUS_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
"""The vote columns of fer2013new.csv, in the order of the file."""

RAFDB_CODES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""RAF-DB's labels 1 to 7."""

SYNONYMS = {
    "angry": ("anger", "ang"),
    "disgust": ("disgusted", "dis"),
    "fear": ("fearful", "afraid", "scared", "fea"),
    "happy": ("happiness", "joy", "hap"),
    "sad": ("sadness",),
    "surprise": ("surprised", "sur"),
    "neutral": ("neutrality", "neu"),
    "contempt": ("contemptuous",),
    "not a face": ("nf", "notface", "not-face"),
}
CANONICAL = {name: name for name in VOTES} | {
    synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms
}


def canonical(name: str) -> str:
    """Return the canonical name of a class: `canonical("Happiness") == "happy"`.

    Raises:
        InputError: the name is unknown.
    """
    try:
        return CANONICAL[name.strip().lower()]
    except KeyError:
        raise InputError(
            f"class {name!r} is not a known expression: use one of "
            f"{', '.join(EMOTIONS_8)} (or a usual synonym, as in anger, happiness, fearful)"
        ) from None


def class_of(name: str) -> str | None:
    """Return the class of `EMOTIONS_8` that a name stands for, or None if it is unknown."""
    known = CANONICAL.get(name.strip().lower())
    return known if known in EMOTIONS_8 else None


def reorder(source: Sequence[str], target: Sequence[str] = EMOTIONS) -> list[int]:
    """Return for each class of `target` its position in `source`, matched by name.

    `probabilities[:, reorder(source)]` brings the columns of another vocabulary into ours.

    Raises:
        InputError: a class is unknown.
        ValueError: `source` lacks a class of `target`.
    """
    names = [canonical(name) for name in source]
    return [names.index(canonical(name)) for name in target]
