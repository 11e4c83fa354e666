"""Where files live, and how they are written so that nothing is ever half-written."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK_SECONDS = 15  # a notebook's kernel notices within seconds that its parent was killed


class InputError(ValueError):
    """Something the user gave cannot be used: one sentence that names it and the remedy."""


def home() -> Path:
    """Folder that holds `data/` and `runs/`.

    `FER_HOME` where it is set, else the checkout that this package was imported from, else (for an
    installed package) the current folder.
    """
    if "FER_HOME" in os.environ:
        return Path(os.environ["FER_HOME"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def cache() -> Path:
    """Folder of files that were fetched once: in `FER_HOME` where it is set, else the user's."""
    if "FER_HOME" in os.environ:
        return home() / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fer_lib"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it to `path` if all went well.

    A reader sees the old file or the new one, never a part of one.

    Raises:
        InputError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    path = Path(path)
    # The suffix stays last: numpy and matplotlib choose the format by it. Two processes that write
    # the same file (both ranks read a dataset for the first time) must not share the name.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} could not be written ({reason}): free some space or choose a folder that can "
            "be written, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # above all where the folder is none
            temporary.unlink()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; InputError where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise InputError(f"another process is {what}: wait for it, or stop it first") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): delete it and make it again"
        ) from None
