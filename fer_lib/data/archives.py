"""FER2013's table as a stream of bytes: a file of its own, or a member of a zip or tar archive."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from fer_lib.files import InputError, first_line

TABLES = ("fer2013.csv", "icml_face_data.csv")
"""File names of the table, the preferred one first."""

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
BUFFER = 1 << 20  # bytes
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, NotImplementedError),
)


@contextmanager
def open_table(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Yield the table's bytes and its name for messages. Nothing is extracted.

    Raises:
        InputError: the file cannot be read, the archive is damaged (also while the caller reads),
            or it holds no table.
    """
    kind = _kind(path)
    with _intact(path):
        if kind == "zip":
            yield from _zip_table(path)
        elif kind == "tar":
            yield from _tar_table(path)
        else:
            with open(path, "rb", buffering=BUFFER) as stream:
                yield stream, str(path)


def table_in(path: Path) -> str | None:
    """Name of the member of an archive that is FER2013's table; None where there is none.

    Raises:
        InputError: as in `open_table`.
    """
    kind = _kind(path)
    with _intact(path):
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                return _pick(archive.namelist())
        with tarfile.open(path) as archive:
            # Stops at the table: the 100 MB behind it need not be unpacked to know this.
            return next((m.name for m in archive if _is_table(m.name)), None)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """InputError in place of what a damaged file makes its reader raise."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(
            f"{path} is damaged or cannot be read ({first_line(error)}): download it again"
        ) from None


def _kind(path: Path) -> str:
    """By content, as browsers rename downloads: "zip", "tar" (compressed or not) or "plain"."""
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if head == b"PK\x03\x04":
        return "zip"
    return "tar" if head[:2] == b"\x1f\x8b" or path.suffix == ".tar" else "plain"


def _zip_table(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    with zipfile.ZipFile(path) as archive:
        name = _pick(archive.namelist())
        if name is None:
            raise InputError(_no_table(path))
        if archive.getinfo(name).flag_bits & 1:
            raise InputError(f"{path} is protected by a password: unpack it first")
        with archive.open(name) as member:
            yield io.BufferedReader(member, BUFFER), f"{name} in {path}"


def _tar_table(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    with tarfile.open(path) as archive:
        members = iter(archive)
        found = next((m for m in members if _is_table(m.name) and m.isfile()), None)
        if found is None:
            raise InputError(_no_table(path))
        yield archive.extractfile(found), f"{found.name} in {path}"
        for _ in members:  # to the end, where a compressed one has its checksum
            pass


def _no_table(path: Path) -> str:
    return (
        f"{path} holds neither {' nor '.join(TABLES)}: if it holds pictures, unpack it and give "
        "the folder"
    )


def _file_name(name: str) -> str:
    """Of a member, in lower case; some programs on Windows write \\ for /."""
    return PureWindowsPath(name).name.lower()


def _is_table(name: str) -> bool:
    return _file_name(name) in TABLES


def _pick(names: list[str]) -> str | None:
    tables = filter(_is_table, names)
    return min(tables, key=lambda n: TABLES.index(_file_name(n)), default=None)
