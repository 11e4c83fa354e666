"""Recognising the layout of a dataset on disk."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fer_lib.data import archives
from fer_lib.data.faceset import SPLITS
from fer_lib.data.ferplus import FOLDERS, VOTE_FILE
from fer_lib.data.folders import OWN, PARTS, parts_of, subfolders, walk, without_train
from fer_lib.data.rafdb import LABELS, PICTURES, basic_folder
from fer_lib.files import InputError, exists
from fer_lib.labels import EMOTIONS, EMOTIONS_8, class_of

NAMED = 10  # folders that a message names
DEPTH = 2  # levels searched below the given folder, such as archive/fer2013/ with train/ in it
LONG_NAMES = {"disgust": "disgusted", "fear": "fearful", "surprise": "surprised"}
KAGGLE = {
    "with short names, as in Kaggle's msambare/fer2013": set(EMOTIONS),
    "with long names, as in Kaggle's ananthu017/emotion-detection-fer": {
        LONG_NAMES.get(name, name) for name in EMOTIONS
    },
}
CSV = (".csv", ".csv.gz")
LOOKED_FOR = (
    f"{' or '.join(archives.TABLES)} (also gzipped, or in a zip or tar.gz); {VOTE_FILE} with "
    f"fer2013.csv or Images/{FOLDERS['train']}; RAF-DB's basic/{LABELS.as_posix()}; "
    f"class folders such as {', '.join(EMOTIONS)}, also inside train/ and test/"
)


@dataclass(frozen=True)
class Layout:
    """The layout that was recognised, and where its files are.

    Attributes:
        kind: "table" (such as fer2013.csv), "ferplus" (votes with pictures), "rafdb" or
            "class folders".
        description: text for messages, as in "fer2013.csv with the votes of fer2013new.csv".
        path: the table or its archive, RAF-DB's basic folder, or the folder that contains
            FER2013Train/ and so on, the class folders, or train/ and test/.
        votes: path of `fer2013new.csv`, or None.
    """

    kind: str
    description: str
    path: Path
    votes: Path | None = None

    def digest(self) -> str:
        """Return a SHA-256 (hex) of name, size and modification time of all files in the layout."""
        result = hashlib.sha256(self.kind.encode())
        for path in filter(None, (self.path, self.votes)):
            for name, status in sorted(_files(path)):
                line = f"{name}|{status.st_size}|{status.st_mtime_ns}\n"
                result.update(line.encode(errors="surrogateescape"))
        return result.hexdigest()


def _files(path: Path) -> list[tuple[str, os.stat_result]]:
    """Return the files below a folder by relative name (or the one file), and their status."""
    if path.is_file():
        return [(path.name, path.stat())]
    files = [
        os.path.join(place, name)
        for place, names in walk(path)
        for name in names
        if not OWN.fullmatch(name) and name[0] != "."
    ]
    return [(os.path.relpath(file, path), _status(file)) for file in files]


def _status(file: str) -> os.stat_result:
    try:
        status = os.stat(file)
    except OSError as error:  # such as a link to a file that no longer exists
        raise InputError(
            f"{file} cannot be read ({error.strerror}): restore it or delete it"
        ) from None
    if not stat.S_ISREG(status.st_mode):  # such as a named pipe, which may never end
        raise InputError(f"{file} is no regular file: move it elsewhere")
    return status


def recognise(source: Path) -> Layout:
    """Recognise the layout of a file, of a folder, or of one at most two levels below that folder.

    Raises:
        InputError: the source does not exist or cannot be read, no known layout was found (the
            message says what was looked for), or there are two at the same depth.
    """
    if not exists(source):
        raise InputError(
            f"{source} does not exist: give the folder or file of the data as data_dir (--data-dir)"
        )
    if not (source.is_file() or source.is_dir()):  # such as a named pipe
        raise InputError(f"{source} is no regular file: write its content to one and give that")
    if source.is_file() and source.name != VOTE_FILE:
        return _table(source)
    level, problems = [source if source.is_dir() else source.parent], []
    for depth in range(DEPTH + 1):
        found, below = [], []
        for folder in level:
            try:
                inside = subfolders(folder)  # first: it refuses a folder that cannot be read
                found += [layout] if (layout := _at(folder, problems)) else []
                below += inside
            except InputError as error:
                if not depth:
                    raise
                problems.append(error)  # may concern something beside the data
        if len(found) > 1:
            places = " or ".join(str(layout.path) for layout in found[:2])
            raise InputError(f"{source} holds more than one dataset: give {places} alone")
        if found:
            return found[0]
        if not depth and (names := without_train(level[0])):
            raise InputError(
                f"{level[0]} has {' and '.join(f'{name}/' for name in names)} but no train/ with "
                "class folders: put the training images there"
            )
        level = below
    if problems:
        raise problems[0]
    if (source / VOTE_FILE).exists() or source.name == VOTE_FILE:
        raise InputError(f"{source} holds the votes but no pixels: put fer2013.csv beside them")
    held = [text for text in (_folders_in(source), _tables_in(source)) if text]
    only = f", only {' and '.join(held)}" if held else ""
    raise InputError(f"{source} holds no dataset that is known here{only}; looked for {LOOKED_FOR}")


def _folders_in(source: Path) -> str:
    """Return what to say about the folders in `source`, or those in its train/; "" without any."""
    paths = subfolders(source)
    train = [path for path in paths if PARTS.get(path.name.lower()) == "train"]
    names = [path.name for folder in train for path in subfolders(folder)]
    names = names or [path.name for path in paths]
    if not names:
        return ""
    if len(names) == 1 and class_of(names[0]):
        return f"one class folder, {names[0]} (at least two classes are needed)"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"the folders {', '.join(names[:NAMED])}{more} (if these are classes, rename each to one "
        f"of {', '.join(EMOTIONS_8)})"
    )


def _tables_in(source: Path) -> str:
    """Return what to say about CSV files in `source`, whose names are unknown; "" without any."""
    tables = [path for path in source.glob("[!.]*") if path.name.lower().endswith(CSV)]
    names = sorted(path.name for path in tables if path.is_file())
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the file {names[0]}{more} (if it is FER2013's table, give the file itself)"


def _table(path: Path) -> Layout:
    """Return the layout of a single file: a table, or an archive that contains one."""
    if path.name.lower().endswith(CSV):
        return _with_votes(path, path.name)
    name = path.name.lower().endswith(archives.SUFFIXES) and archives.table_in(path)
    if not name:
        raise InputError(
            f"{path} holds no table of FER2013; looked for {' or '.join(archives.TABLES)} (if it "
            "holds pictures, unpack it and give the folder)"
        )
    return _with_votes(path, f"{name} inside {path.name}")


def _with_votes(path: Path, description: str) -> Layout:
    votes = path.with_name(VOTE_FILE)
    if not votes.is_file():
        return Layout("table", description, path)
    return Layout("table", f"{description} with the votes of {VOTE_FILE}", path, votes)


def _at(folder: Path, problems: list[InputError]) -> Layout | None:
    """Return the layout of this folder itself, or None.

    Archives, which have to be opened, are tried last.

    Args:
        problems: list to which the errors of unreadable archives are added.
    """
    if basic := basic_folder(folder):
        return Layout("rafdb", f"RAF-DB's {LABELS.name} with {PICTURES.as_posix()}/", basic)
    with os.scandir(folder) as entries:
        files = {entry.name.lower(): folder / entry.name for entry in entries if entry.is_file()}
    for name in (*archives.TABLES, *(f"{name}.gz" for name in archives.TABLES)):
        if name in files:
            return _table(files[name])
    votes = folder / VOTE_FILE
    for pictures in (folder / "Images", folder, folder / "data"):
        if votes.is_file() and (pictures / FOLDERS["train"]).is_dir():
            return Layout("ferplus", f"{VOTE_FILE} with its pictures", pictures, votes)
    if parts := parts_of(folder):
        return Layout("class folders", _describe(folder, parts), folder)
    for name in sorted(files):
        try:
            if name.endswith(archives.SUFFIXES) and archives.table_in(files[name]):
                return _table(files[name])
        except InputError as error:
            problems.append(error)
    return None


def _describe(folder: Path, parts: dict[str, Path]) -> str:
    if parts["train"] == folder:
        return "class folders without splits"
    names = [f"{parts[part].name}/" for part in SPLITS if part in parts]
    text = f"class folders in {' and '.join(names)}"
    classes = {path.name.lower() for path in subfolders(parts["train"])}
    return next((f"{text} {end}" for end, known in KAGGLE.items() if classes == known), text)
