"""Opening FER2013's table as a stream of bytes: from a CSV file, gzipped or not, or an archive."""

import gzip
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
"""Possible file names of the table; the preferred one is first."""

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
BUFFER = 1 << 20  # bytes
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, NotImplementedError),
)


@contextmanager
def open_table(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open the table for reading, also inside an archive, of which nothing is extracted.

    Yields:
        A stream of the table's bytes, and the name of the table for messages.

    Raises:
        InputError: the file cannot be read, the archive is damaged (this may also be found while
            the caller reads the stream), or it contains no table.
    """
    with _intact(path):
        kind = _kind(path)
        if kind == "zip":
            yield from _zip_table(path)
        elif kind == "tar":
            yield from _tar_table(path)
        elif kind == "gzip":
            with gzip.open(path) as stream:
                yield stream, str(path)
        else:
            with open(path, "rb", buffering=BUFFER) as stream:
                yield stream, str(path)


def table_in(path: Path) -> str | None:
    """Return the name of the archive's member that is FER2013's table, or None.

    Raises:
        InputError: the file cannot be read, or is not an intact archive.
    """
    with _intact(path):
        if _kind(path) == "zip":
            with zipfile.ZipFile(path) as archive:
                return _pick(archive.namelist())
        with tarfile.open(path) as archive:
            # Stops at the table: the 100 MB after its header need not be unpacked.
            return next((m.name for m in archive if _is_table(m.name)), None)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn the exceptions that a damaged file causes in its reader into an InputError."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(
            f"{path} is damaged or cannot be read ({first_line(error)}): download it again"
        ) from None


def _kind(path: Path) -> str:
    """Return the kind of a file: "zip", "tar" (compressed or not), "gzip" (alone) or "plain".

    The first bytes decide, as browsers rename downloads, but a tar without gzip, which begins with
    a name, needs the suffix of an archive.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if head == b"PK\x03\x04":
        return "zip"
    if path.name.lower().endswith(SUFFIXES):
        return "tar"
    if head[:2] != b"\x1f\x8b":
        return "plain"
    return "tar" if tarfile.is_tarfile(path) else "gzip"


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
        for _ in members:  # read to the end, where a compressed archive has its checksum
            pass


def _no_table(path: Path) -> str:
    return (
        f"{path} holds neither {' nor '.join(TABLES)}: if it holds pictures, unpack it and give "
        "the folder"
    )


def _file_name(name: str) -> str:
    """Return a member's file name in lower case; some programs on Windows write \\ for /."""
    return PureWindowsPath(name).name.lower()


def _is_table(name: str) -> bool:
    return _file_name(name) in TABLES


def _pick(names: list[str]) -> str | None:
    tables = filter(_is_table, names)
    return min(tables, key=lambda n: TABLES.index(_file_name(n)), default=None)
