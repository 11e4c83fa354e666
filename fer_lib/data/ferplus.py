"""Reading FERPlus: ten votes for each FER2013 image, majority labels and soft targets.

Barsoum et al., Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution, ICMI 2016, https://arxiv.org/abs/1608.01041.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.data.pictures import read_pictures
from fer_lib.data.rows import read_rows
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS_8, FERPLUS_COLUMNS, VOTES, reorder

VOTE_FILE = "fer2013new.csv"
USAGE = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
AGREE = 0.4
"""Smallest share of labels that must equal the plurality of the votes. The share is 63 % if the
votes belong to the same images of FER2013, and about a fifth if they belong to other images."""


def majority(votes: np.ndarray) -> np.ndarray:
    """Return the labels by FERPlus's official `majority` mode.

    Counts of one are treated as outliers and dropped, in all ten columns. The largest count must
    then exceed half of the votes that remain, and belong to one of the eight emotions.

    Args:
        votes: (N, 10) counts over `labels.VOTES`.

    Returns:
        (N,) int64 index into `labels.EMOTIONS_8`, or -1 if the image has no such label.
    """
    winner = _winner(votes)
    return np.where(winner < len(EMOTIONS_8), winner, -1)


def _winner(votes: np.ndarray) -> np.ndarray:
    """Return the column with over half of the votes, counts of one dropped, or -1: (N,) int64."""
    counts = np.where(votes > 1, votes, 0)
    clear = 2 * counts.max(1, initial=0) > counts.sum(1)
    return np.where(clear, counts.argmax(1), -1)


def plurality(votes: np.ndarray) -> np.ndarray:
    """Return the class with the most votes; in a tie, the one that comes first in FERPlus's file.

    Args:
        votes: (M, 10) counts over `labels.VOTES`.

    Returns:
        (M,) int64 index into `labels.VOTES`.
    """
    columns = np.argsort(reorder(FERPLUS_COLUMNS, VOTES))
    return columns[votes[:, columns].argmax(1)]


def soft_targets(votes: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each class among the votes for these classes.

    The official code prepares soft labels in another way: it drops votes that stand alone, keeps
    the most frequent emotions only, and discards images on which these have too few votes or which
    most annotators find unknown or no face. Here every vote for an emotion counts, and only votes
    for *unknown* and *not a face* are left out.

    Args:
        votes: (N, 10) counts over `labels.VOTES`.
        classes: K names from `labels.EMOTIONS_8`.

    Returns:
        (N, K) float32 whose rows sum to 1, and (N,) bool `keep`: False if nobody voted for any of
        the classes. Such a row is all zeros and must be left out.
    """
    counts = votes[:, reorder(VOTES, classes)].astype(np.float32)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares, total[:, 0] > 0


@dataclass(frozen=True)
class VoteTable:
    """The rows of `fer2013new.csv`, which has one for each row of `fer2013.csv`, in its order.

    Attributes:
        usage: (N,) str as in the file: Training, PublicTest or PrivateTest.
        names: (N,) str image file names, "" for an image that is not distributed.
        votes: (N, 10) float32 counts over `labels.VOTES`.
    """

    usage: np.ndarray
    names: np.ndarray
    votes: np.ndarray


def read_votes(path: Path) -> VoteTable:
    """Read `fer2013new.csv`; its columns may be in any order.

    Raises:
        InputError: the file cannot be read, is empty, lacks a column, or has a damaged row, which
            the message names.
    """
    try:
        rows = read_rows(path, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): ask its owner") from None
    missing = [n for n in ("Usage", "Image name", *FERPLUS_COLUMNS) if n not in rows]
    if missing or rows.empty:
        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise InputError(
            f"{path} {what}: download {VOTE_FILE} again from https://github.com/microsoft/FERPlus"
        )
    counts = rows[list(FERPLUS_COLUMNS)]
    good = rows["Usage"].isin(USAGE) & counts.map(str.isdecimal).all(axis=1)
    if not good.all():
        row = good.idxmin()
        raise InputError(
            f"{path}, row {row}: {','.join(rows.loc[row])!r} is not a Usage, an image name and ten "
            "counts of votes"
        )
    return VoteTable(
        rows["Usage"].to_numpy(str),
        rows["Image name"].str.strip().to_numpy(str),
        counts.to_numpy(np.float32)[:, reorder(FERPLUS_COLUMNS, VOTES)],
    )


def attach_votes(faces: FaceSet, usage: np.ndarray | None, path: Path) -> None:
    """Add the votes to the faces of `fer2013.csv`, row by row, or a remark on why this fails.

    The rows count as the same if each has the same Usage in both files and if, among the images
    with votes, a share of at least `AGREE` has the plurality of its votes as its label.

    Args:
        faces: changed in place: `votes`, or `remarks` in the manifest.
        usage: (N,) str, the Usage of each row of `fer2013.csv`, or None if it has no such column.
        path: `fer2013new.csv`.

    Raises:
        InputError: see `read_votes`.
    """
    table = read_votes(path)
    if usage is None:
        reason = "the table has no column Usage to check the rows by"
    elif not np.array_equal(table.usage, usage):
        reason = f"its {len(table.usage):,} rows are not those of the {len(faces):,} images"
    elif (share := _agreement(table.votes, faces.labels)) < AGREE:
        reason = f"only {share:.0%} of the labels agree with them: the rows are in another order"
    else:
        faces.votes = table.votes
        return
    faces.manifest["remarks"].append(
        f"the votes of {path.name} are left out, as they are matched by row, and {reason}"
    )


def _agreement(votes: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of labels that equal the plurality of the votes; 1 if there are no votes."""
    voted = votes.any(1)
    return float((plurality(votes) == labels)[voted].mean()) if voted.any() else 1.0


def read_votes_and_pictures(name: str, votes: Path, folder: Path) -> FaceSet:
    """Read FERPlus with its own pictures; all labels are 0 until `keep_majority` sets them.

    Args:
        votes: `fer2013new.csv`.
        folder: contains FER2013Train/, FER2013Valid/ and FER2013Test/.

    Raises:
        InputError: a file is damaged, or none of the pictures exists.
    """
    table = read_votes(votes)
    split = np.array([USAGE[usage] for usage in table.usage])
    listed = {part: _listing(folder / name) for part, name in FOLDERS.items()}
    named = table.names != ""
    pairs = zip(split.tolist(), table.names.tolist(), strict=True)
    there = np.array([image in listed[part] for part, image in pairs])
    if not there.any():
        raise InputError(
            f"none of the pictures that {votes} names is in {folder}/FER2013Train, FER2013Valid or "
            "FER2013Test"
        )
    rows = np.flatnonzero(there)
    paths = [folder / FOLDERS[split[row]] / table.names[row] for row in rows]
    images, remarks = read_pictures(paths)
    if shared := len(rows) - len(np.unique(table.names[rows])):
        remarks.append(
            f"{shared} names in {votes.name} stand for two images each, but there is only one "
            "picture of that name: use fer2013.csv to get the pixels of both"
        )
    dropped = {
        "no image name": int((~named).sum()),
        "picture missing": int((named & ~there).sum()),
    }
    return FaceSet(
        name,
        images,
        np.zeros(len(rows), np.int64),
        split[rows],
        np.array([f"{table.usage[row]}_{row:07d}" for row in rows]),
        EMOTIONS_8,
        table.votes[rows],
        manifest={
            "dropped": {reason: count for reason, count in dropped.items() if count},
            "remarks": remarks,
            "split": {"official": True},
        },
    )


def _listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def keep_majority(faces: FaceSet) -> FaceSet:
    """Return the faces that have a majority label, over the eight emotions.

    The others are counted by reason in `dropped` of the manifest.

    Raises:
        InputError: the faces have no votes; the message says why if a remark does.
    """
    if faces.votes is None:
        left_out = [text for text in faces.manifest["remarks"] if VOTE_FILE in text]
        if left_out:
            raise InputError(
                f"{faces.name} needs the votes, but {left_out[0]}; give fer2013.csv with all its "
                "rows and in the order of the file from Kaggle's competition"
            )
        raise InputError(
            f"{faces.name} needs the votes: put {VOTE_FILE}, which has a row for each row of "
            "fer2013.csv, beside it"
        )
    labels, winner = majority(faces.votes), _winner(faces.votes)
    kept = faces.subset(labels >= 0)
    kept.labels, kept.classes = labels[labels >= 0], EMOTIONS_8
    reasons = {"no majority": -1} | {name: VOTES.index(name) for name in VOTES[len(EMOTIONS_8) :]}
    counts = {reason: int((winner == column).sum()) for reason, column in reasons.items()}
    dropped = faces.manifest["dropped"] | {reason: n for reason, n in counts.items() if n}
    kept.manifest = kept.manifest | {"dropped": dropped}
    return kept
