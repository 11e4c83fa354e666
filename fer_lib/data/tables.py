"""Reading FER2013's table (emotion, pixels, Usage): plain, zipped, or in Kaggle's tar.gz."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from fer_lib.data.archives import open_table
from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import USAGE, attach_votes
from fer_lib.data.splits import draw_split
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS

SIDE = 48
PIXELS = SIDE * SIDE
CHUNK = 32  # rows decoded at once: the intermediate arrays, a few MB, stay in the CPU's cache
DIGITS = 9  # most digits of a number, with leading zeros; int() refuses thousands of them
LABELS = {str(label).encode(): label for label in range(len(EMOTIONS))}
USAGES = {usage.encode(): usage for usage in USAGE}


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


class Row(NamedTuple):
    """A row's number as in a text editor, and its fields without quotes and outer spaces."""

    number: int
    emotion: bytes
    pixels: bytes
    usage: bytes


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
        path: the CSV itself, or a zip or tar archive that contains it; nothing is extracted.

    Raises:
        InputError: the file or one of its rows is not in the expected form. Rows are numbered like
            lines in a text editor: the header is 1.
    """
    # glibc gets new pages for each large array until a larger one has been freed. This array, which
    # is never touched, saves the first reading that cost.
    np.empty(16 << 20, np.uint8)
    with open_table(path) as (stream, name):
        columns, width = _columns(stream.readline(), name)
        labels, usage, images = [], [], []
        for rows in _chunks(stream, columns, width, name):
            labels += [_look_up(row, row.emotion, LABELS, "label", name) for row in rows]
            if "usage" in columns:
                usage += [_look_up(row, row.usage, USAGES, "Usage", name) for row in rows]
            decoded = decode([row.pixels for row in rows])
            images.append(_slowly(rows, name) if decoded is None else decoded)
    if not labels:
        raise InputError(f"{name} has a header but no rows: download it again")
    usages = np.array(usage) if "usage" in columns else None
    return Table(np.concatenate(images), np.array(labels, np.int64), usages)


def _columns(header: bytes, name: str) -> tuple[dict[str, int], int]:
    """Return the position of each column by its lower-case name, and the number of columns."""
    if not header.strip():
        raise InputError(f"{name} is empty: download it again")
    names = [text.strip(' "\r\n') for text in header.decode("utf-8-sig", "replace").split(",")]
    columns = {text.lower(): i for i, text in enumerate(names)}
    missing = [column for column in ("emotion", "pixels") if column not in columns]
    if missing:
        start = ",".join(names)[:60]
        raise InputError(
            f"{name} lacks the column {' and '.join(missing)}: its first line must name emotion, "
            f"pixels and Usage, but begins with {start!r}"
        )
    return columns, len(names)


def _chunks(
    stream: BinaryIO, columns: dict[str, int], width: int, name: str
) -> Iterator[list[Row]]:
    emotion, pixels = columns["emotion"], columns["pixels"]
    usage = columns.get("usage", emotion)
    rows: list[Row] = []
    for number, line in enumerate(stream, 2):
        # No field of this table contains a comma or a line break, so csv's rules are not needed.
        fields = [field.strip(b' "\r\n') for field in line.split(b",")]
        if len(fields) == width:
            rows.append(Row(number, fields[emotion], fields[pixels], fields[usage]))
        elif fields != [b""]:
            raise InputError(
                f"{name}, row {number}: {len(fields)} fields instead of {width}; if it is the last "
                "row, the file was cut short: download it again"
            )
        if len(rows) == CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows


def _look_up(row: Row, text: bytes, known: dict, what: str, name: str):
    """Return the value of `text`, or raise InputError with the texts that are possible."""
    try:
        return known[text]
    except KeyError:
        choices = ", ".join(key.decode() for key in known)
        raise InputError(
            f"{name}, row {row.number}: the {what} is {_shown(text)}, not one of {choices}"
        ) from None


def _shown(text: bytes) -> str:
    return repr(text[:20].decode("utf-8", "replace"))


def decode(rows: list[bytes]) -> np.ndarray | None:
    """Decode rows of 2,304 numbers from 0 to 255, separated by single spaces.

    All rows are treated as one array of characters: each space ends a number, whose value is given
    by the one to three digits before it.

    Returns:
        (len(rows), 1, 48, 48) uint8, or None if any row is written differently.
    """
    text = np.frombuffer(b"   " + b" ".join(rows) + b" ", np.uint8)
    digit = text - np.uint8(ord("0")) < 10
    space = text == ord(" ")
    ends = np.flatnonzero(space[3:])  # position of the space after each number
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if (
        len(ends) != len(rows) * PIXELS
        or not (digit | space).all()
        or (space[2:-1] & space[3:]).any()  # an empty number
        or (digit[3:] & digit[2:-1] & digit[1:-2] & digit[:-3]).any()  # four digits
        or not np.array_equal(ends[PIXELS - 1 :: PIXELS], np.cumsum(lengths + 1) - 1)
    ):
        return None
    value = (text & 15) * digit.view(np.uint8)
    value = value.astype(np.uint16)
    number = value[2:] + 10 * value[1:-1] + 100 * value[:-2] * digit[1:-1]
    pixels = number.take(ends)
    if pixels.max() > 255:
        return None
    return pixels.astype(np.uint8).reshape(-1, 1, SIDE, SIDE)


def _slowly(rows: list[Row], name: str) -> np.ndarray:
    """Decode rows number by number; raise InputError for the first wrong value or count."""
    images = np.empty((len(rows), PIXELS), np.uint8)
    for image, row in zip(images, rows, strict=True):
        numbers = row.pixels.split()
        for i, text in enumerate(numbers, 1):
            if len(text) > DIGITS or not text.isdigit() or int(text) > 255:
                raise InputError(
                    f"{name}, row {row.number}: pixel {i} is {_shown(text)}, not a whole number "
                    "from 0 to 255"
                )
        if len(numbers) != PIXELS:
            raise InputError(
                f"{name}, row {row.number}: {len(numbers):,} pixels instead of {PIXELS:,} "
                f"({SIDE}x{SIDE})"
            )
        image[:] = [int(text) for text in numbers]
    return images.reshape(-1, 1, SIDE, SIDE)
