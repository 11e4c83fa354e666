"""Where files live, how they are written whole, and how a program ends so that none is lost."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK_SECONDS = 15  # a notebook's kernel notices within seconds that its parent was killed


class InputError(ValueError):
    """Something the user gave cannot be used: one sentence that names it and the remedy."""


def expanded(path: str | Path) -> Path:
    """A path, of which `~` is the user's folder; InputError where it is that of an unknown one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if str(path).partition("/")[0] == "~":  # a container's user, who is in no list
            raise InputError(
                f"{path} cannot be found, as this user has no home folder: set FER_HOME or HOME"
            ) from None
        raise InputError(f"{path} begins with the name of no user: write the folder out") from None


def home() -> Path:
    """Folder that holds `data/` and `runs/`.

    `FER_HOME` where it is set, else the checkout that this package was imported from, else (for an
    installed package) the current folder.
    """
    if "FER_HOME" in os.environ:
        return expanded(os.environ["FER_HOME"]).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def cache() -> Path:
    """Folder of files that were fetched once: in `FER_HOME` where it is set, else the user's.

    Raises:
        InputError: the user has no home folder, and neither variable is set.
    """
    if "FER_HOME" in os.environ:
        return home() / "cache"
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fer_lib"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it to `path` if all went well.

    A reader sees the old file or the new one, never a part of one.

    Raises:
        InputError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    path = Path(path)
    # The suffix stays last: numpy and matplotlib choose the format by it. Two processes that write
    # the same file (both ranks read a dataset for the first time) must not share the name. A name
    # has 255 bytes at most, of which 40 characters take 160 or less.
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut after the renaming leaves an empty file
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


def exists(path: Path) -> bool:
    """Whether a path is there; InputError where a folder on the way is closed to this user."""
    try:
        return path.exists()
    except PermissionError:
        raise InputError(
            f"{path} cannot be read (Permission denied): ask its owner, or give another one"
        ) from None


def require_utf8(path: str | Path) -> None:
    """Raise InputError where a name has bytes that are no UTF-8, as of an older system."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {str(path)!a} is not UTF-8: rename it") from None


def require_writable(folder: Path) -> None:
    """Raise InputError where a folder, which need not be there, cannot be made or written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{folder} cannot be written to: choose another folder")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; InputError where another process holds it, or it cannot be made."""
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"another process is {what}: wait for it, or stop it first") from None
    except (OSError, NotImplementedError) as error:  # the latter by older versions of filelock
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path.parent} cannot be written to, or has no locks ({reason}): choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def first_line(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl+C does, so that it writes what it has."""
    for name in ("SIGTERM", "SIGHUP"):  # the latter is unknown to Windows, and ignored under nohup
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def print_anything() -> None:
    """Let no emoji, nor a name from another system, end a program whose output cannot show it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


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
        InputError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): ask its owner") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): delete it and make it again"
        ) from None
