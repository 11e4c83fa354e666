"""Reading FER2013's table (emotion, pixels, Usage): plain, packed, or in Kaggle's tar.gz."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_lib.data.archives import open_table
from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import USAGE, attach_votes
from fer_lib.data.rows import read_rows
from fer_lib.data.splits import draw_split
from fer_lib.files import InputError, first_line
from fer_lib.labels import EMOTIONS

if TYPE_CHECKING:
    from pandas import Series

SIDE = 48
PIXELS = SIDE * SIDE


@dataclass(frozen=True)
class Table:
    """The rows of the table, in their order.

    Attributes:
        images: (N, 1, 48, 48) uint8.
        labels: (N,) int64, in the order of `labels.EMOTIONS`, which is the table's own.
        usage: (N,) str (Training, PublicTest, PrivateTest), or None if the column is missing.
    """

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray | None


def read(name: str, path: Path, votes: Path | None) -> FaceSet:
    """Read the table as faces with FER2013's own labels; without a column Usage, draw the split.

    Args:
        votes: `fer2013new.csv`, whose votes are attached by row, or None.

    Raises:
        InputError: see `read_table` and `ferplus.read_votes`.
    """
    table = read_table(path)
    usage = ["row"] * len(table.labels) if table.usage is None else table.usage.tolist()
    faces = FaceSet(
        name,
        table.images,
        table.labels,
        np.array([USAGE.get(text, "train") for text in usage]),
        np.array([f"{text}_{row:07d}" for row, text in enumerate(usage)]),
        manifest={"dropped": {}, "remarks": [], "split": {"official": True}},
    )
    if votes is not None:
        attach_votes(faces, table.usage, votes)
    if table.usage is None:
        faces.manifest["remarks"].append("the table has no column Usage: the split is drawn")
        draw_split(faces, {"train": 0.8, "valid": 0.1, "test": 0.1})
    return faces


def read_table(path: Path) -> Table:
    """Read a CSV with the columns emotion, pixels and (mostly) Usage, in any order.

    Args:
        path: the CSV itself, also gzipped, or a zip or tar archive that contains it; nothing is
            extracted.

    Raises:
        InputError: the file or one of its rows is not in the expected form. Rows are numbered like
            lines in a text editor: the header is 1.
    """
    with open_table(path) as (stream, name):
        rows = read_rows(stream, name)
    rows = rows.rename(columns=str.lower)
    _require_columns(list(rows.columns), name)
    if rows.empty:
        raise InputError(f"{name} has a header but no rows: download it again")
    with warnings.catch_warnings():
        # Before numpy 2.4, a fraction or a number above 255 is only warned about, and cast.
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)  # of an empty field, which is refused
        images = [_image(text, f"{name}, row {row}") for row, text in rows["pixels"].items()]
    labels = _known(rows["emotion"], map(str, range(len(EMOTIONS))), "label", name)
    usage = _known(rows["usage"], USAGE, "Usage", name) if "usage" in rows else None
    return Table(np.stack(images), labels.astype(np.int64), usage)


def _require_columns(columns: list[str], name: str) -> None:
    """Raise InputError if a column that is needed is missing, or one that is read is there twice.

    Args:
        columns: in lower case.
    """
    if missing := [column for column in ("emotion", "pixels") if column not in columns]:
        start = ",".join(columns)[:60]
        raise InputError(
            f"{name} lacks the column {' and '.join(missing)}: its first line must name emotion, "
            f"pixels and Usage, but begins with {start!r}"
        )
    plain = [column.removesuffix(".1") for column in columns]  # pandas' name for the second one
    if twice := [column for column in ("emotion", "pixels", "usage") if plain.count(column) > 1]:
        raise InputError(
            f"{name} has more than one column {twice[0]!r} (capitals make no difference): rename "
            "or delete one"
        )


def _image(text: str, where: str) -> np.ndarray:
    """Decode the pixels of a row: (1, 48, 48) uint8."""
    try:
        pixels = np.loadtxt([text], np.uint8, comments=None, ndmin=1)
    except (ValueError, DeprecationWarning) as error:
        reason = first_line(error).partition(" at row")[0]
        raise InputError(
            f"{where}: a pixel is not a whole number from 0 to 255 ({reason}): download the file "
            "again"
        ) from None
    if len(pixels) != PIXELS:
        raise InputError(
            f"{where}: {len(pixels):,} pixels instead of {PIXELS:,} ({SIDE}x{SIDE}); if it is the "
            "last row, the file was cut short: download it again"
        )
    return pixels.reshape(1, SIDE, SIDE)


def _known(column: "Series", known: Iterable[str], what: str, name: str) -> np.ndarray:
    """Return a column as (N,) str, or raise InputError if a text is not one of those known."""
    column, known = column.str.strip(), list(known)
    wrong = column[~column.isin(known)]
    if len(wrong):
        raise InputError(
            f"{name}, row {wrong.index[0]}: the {what} is {wrong.iloc[0][:20]!r}, not one of "
            f"{', '.join(known)}"
        )
    return column.to_numpy(str)
