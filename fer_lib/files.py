"""Paths, atomic file writing, locks, interruption, and the exception for user errors."""

import glob
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout

LOCK_SECONDS = 15  # a notebook's kernel needs seconds to notice that its parent was killed


class InputError(ValueError):
    """Raised when something that the user gave cannot be used.

    The message is one sentence that names it and the remedy.
    """


def expanded(path: str | Path) -> Path:
    """Replace a leading `~` or `~name` in a path by the home folder of that user.

    Raises:
        InputError: this user has no home folder, or there is no user of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if str(path).partition("/")[0] == "~":  # e.g. a container's user without an entry
            raise InputError(
                f"{path} cannot be found, as this user has no home folder: set FER_HOME or HOME"
            ) from None
        raise InputError(f"{path} begins with an unknown user: write the folder in full") from None


def home() -> Path:
    """Return the folder that contains `data/` and `runs/`.

    This is `FER_HOME` if it is set, otherwise the checkout from which this package was imported,
    or the current folder if the package is installed.

    Raises:
        InputError: `FER_HOME` is relative, so that it would change with the current folder.
    """
    if given := os.environ.get("FER_HOME"):
        path = expanded(given)
        if not path.is_absolute():
            raise InputError(f"FER_HOME={given} is a relative path: set it to {path.absolute()}")
        return path.resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    A reader sees the old file or the new one, never a part of one.

    Raises:
        InputError: the disk is full or the folder is not writable; `path` is unchanged.
    """
    path = Path(path)
    # The suffix stays last because numpy and matplotlib choose the format by it. The random
    # number keeps two writers of one file apart (two ranks, or two containers on one volume, that
    # read a dataset for the first time). A name may have 255 bytes; 40 characters take at most 160.
    temporary = path.with_name(f".{path.stem[:40]}.{token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # otherwise a power cut after the renaming leaves an empty file
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} could not be written ({reason}): free some space, close the file in other "
            "programs or choose a folder that can be written, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # it has been renamed, or was never created
            temporary.unlink()


def exists(path: Path) -> bool:
    """Return whether a path exists.

    Raises:
        InputError: this user may not read one of the folders on the way, or a name is too long.
    """
    try:
        return path.exists()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): ask its owner, or give another path"
        ) from None


def matches(given: str | Path) -> list[Path]:
    """Return the paths that a pattern matches, sorted; any other path as it is, there or not.

    Shells expand patterns before a command sees them, except those of Windows. A leading `~` is
    replaced if a user has that name.

    Raises:
        InputError: the pattern matches nothing.
    """
    path = Path(given)
    with suppress(RuntimeError):  # a name that begins with ~ but names no user
        path = path.expanduser()
    if exists(path) or not glob.has_magic(str(given)):
        return [path]
    if found := sorted(glob.glob(str(path), recursive=True)):
        return list(map(Path, found))
    raise InputError(f"nothing matches {given}: check the pattern")


def require_utf8(path: str | Path) -> None:
    """Raise InputError if a name is not valid UTF-8, as names from older systems may be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {str(path)!a} is not UTF-8: rename it") from None


def require_writable(folder: Path) -> None:
    """Raise InputError if a folder, which need not exist, cannot be created or written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{folder} cannot be written to: choose another folder")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file during the block.

    Args:
        path: the lock file, created if necessary.
        what: what a holder of the lock is doing, such as "starting a run", for the error message.

    Raises:
        InputError: another process holds the lock after `LOCK_SECONDS`, or it cannot be created.
    """
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"another process is {what}: wait for it, or stop it first") from None
    except (OSError, NotImplementedError) as error:  # older versions of filelock raise the latter
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path.parent} cannot be written to, or supports no locks ({reason}): choose another "
            "folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def end_as_interrupted() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl+C does, so that it writes what it has."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, and nohup ignores it
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def continued() -> Iterator[None]:
    """End the process after Ctrl+C with one sentence on stderr in place of a traceback.

    This decorates the `main` of commands that continue where they were stopped. The process dies of
    the interrupt, which ends a shell's loop around it too; the shell shows status 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        # nbclient leaves a task behind, whose traceback asyncio would print at the end.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        if os.environ.get("RANK", "0") == "0":  # of several processes, one says it
            print("stopped; the same command continues here", file=sys.stderr, flush=True)
        sys.excepthook = lambda *_: None
        raise


def print_anything() -> None:
    """Replace characters that stdout or stderr cannot encode, such as emoji, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

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
            f"{path} is not valid JSON ({error}): delete it and create it again"
        ) from None
