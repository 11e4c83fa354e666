"""Reading class folders: the two sets on Kaggle made from FER2013, and those of the user."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import USAGE
from fer_lib.data.pictures import SUFFIXES, read_pictures
from fer_lib.data.splits import draw_split
from fer_lib.files import InputError, require_utf8
from fer_lib.labels import EMOTIONS, EMOTIONS_8, canonical, class_of

PARTS = {
    **dict.fromkeys(("train", "training", "fer2013train"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "publictest", "fer2013valid"), "valid"),
    **dict.fromkeys(("test", "testing", "privatetest", "fer2013test"), "test"),
}
"""Split that each folder name (in lower case) stands for."""

FRACTIONS = {
    ("train", "test"): {"train": 0.9, "valid": 0.1},
    ("train", "valid"): {"train": 0.9, "test": 0.1},
    ("train",): {"train": 0.8, "valid": 0.1, "test": 0.1},
}
"""Fractions by which missing splits are drawn, by the splits that have a folder."""

OWN = re.compile(
    r"(faces|refined_.+|voter_.+)\.npz|(manifest|audit|refinement)\.json", re.IGNORECASE
)
"""Files that the project writes beside a source: the cache, audit, votes and refined labels."""

MERGED = (28_709, 7_178)  # images in FER2013's train/ and test/, if validation is part of test/


class Picture(NamedTuple):
    """A picture file: its path, its split (`part`), the name of its class folder, and its id."""

    path: str
    part: str
    folder: str
    id: str


def shown(folder: str) -> bool:
    """Return whether a folder of this name is read: not hidden, nor made by macOS or Linux."""
    return folder[0] != "." and folder not in ("__MACOSX", "lost+found")


def closed(error: OSError) -> InputError:
    """Return the InputError for a folder that cannot be read."""
    reason = error.strerror or error
    return InputError(f"{error.filename} cannot be read ({reason}): ask its owner, or move it away")


def _refuse(error: OSError) -> None:
    raise closed(error)


def walk(
    folder: str | Path, onerror: Callable[[OSError], object] = _refuse
) -> Iterator[tuple[str, list[str]]]:
    """Visit a folder and all folders below it that are `shown`.

    Links to folders are followed, except to a folder that the current path has passed already.

    Args:
        onerror: called with the error of each folder that cannot be read; the folder is skipped.

    Yields:
        The path of each folder, and the names of its files.

    Raises:
        InputError: a folder cannot be read, and no `onerror` was given.
    """
    root = Path(folder).resolve()
    ways = {os.fspath(folder): {root, *root.parents}}
    for place, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        way = ways.pop(place)
        below = {name: Path(place, name).resolve() for name in folders if shown(name)}
        folders[:] = [name for name, real in below.items() if real not in way]
        ways |= {os.path.join(place, name): way | {below[name]} for name in folders}
        yield place, files


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are `shown`, sorted by name.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): give another one") from None
    return [folder / name for name in sorted(names) if shown(name)]


def parts_of(folder: Path) -> dict[str, Path] | None:
    """Return the folders of the splits "train", "valid" and "test" that have subfolders.

    Class folders without splits count as "train". A folder has class folders if at least two known
    classes are among the names of its subfolders.

    Returns:
        The folder of each split, or None if neither train/ nor `folder` itself has class folders.

    Raises:
        InputError: there are two folders for one split, or a folder cannot be read.
    """
    parts: dict[str, Path] = {}
    for path in subfolders(folder):
        part = PARTS.get(path.name.lower())
        if part in parts:
            raise InputError(f"{parts[part]} and {path} stand for the same split: join them")
        if part and subfolders(path):
            parts[part] = path
    if "train" in parts and _has_classes(parts["train"]):
        return parts
    return {"train": folder} if _has_classes(folder) else None


def without_train(folder: Path) -> list[str]:
    """Return the names of split folders with class folders, or [] if "train" is one of them."""
    parts = {path.name: PARTS.get(path.name.lower()) for path in subfolders(folder)}
    found = [name for name, part in parts.items() if part and _has_classes(folder / name)]
    return [] if "train" in map(parts.get, found) else found


def _has_classes(folder: Path) -> bool:
    return len({class_of(path.name) for path in subfolders(folder)} - {None}) > 1


def read(name: str, root: Path, say: Callable[[str], object] = lambda line: None) -> FaceSet:
    """Read class folders with the splits that they have, and draw the missing splits.

    FER2013's validation and test images in test/ are separated by file name if there is no folder
    for validation, all classes have their short names (angry, disgust, fear …), and every file name
    in test/ starts with PublicTest_ or PrivateTest_, with some of each; else test/ is one set. A
    split that has no folder is drawn from train/.

    Args:
        root: contains train/, test/ and so on, or the class folders themselves.
        say: called with one line on how many pictures are read, before they are.

    Raises:
        InputError: there are no class folders, one of them is unknown or has no picture, two
            pictures share one id, or a folder or a picture cannot be read; the message names it.
    """
    parts = parts_of(root) or {}
    pictures, dropped = _scan(root, parts)
    say(f"{name}: {len(pictures):,} pictures in {root} are read now")
    classes = [canonical(picture.folder) for picture in pictures]
    names = EMOTIONS_8 if "contempt" in classes else EMOTIONS
    images, remarks = read_pictures([picture.path for picture in pictures])
    faces = FaceSet(
        name,
        images,
        np.array([names.index(label) for label in classes], np.int64),
        np.array([picture.part for picture in pictures]),
        np.array([picture.id for picture in pictures]),
        names,
        manifest={
            "dropped": dropped,
            "remarks": remarks + _ignored(root, parts),
            "split": {"official": True},
        },
    )
    if not _split_by_name(faces, pictures) and len(parts) < 3:
        _draw(faces, tuple(part for part in ("train", "valid", "test") if part in parts))
    return faces


def _scan(root: Path, parts: dict[str, Path]) -> tuple[list[Picture], dict[str, int]]:
    """Return all pictures, sorted by id, and the number of other files by the reason."""
    pictures, strays = [], []
    for part, folder in parts.items():
        for path in subfolders(folder):
            if class_of(path.name) is None:
                raise InputError(
                    f"{path} is not a class folder that is known here: name it as one of "
                    f"{', '.join(EMOTIONS_8)}, or move it elsewhere"
                )
            found, others = _pictures(root, path, part)
            if others and not found:
                raise InputError(
                    f"{path} holds no picture of a known kind ({', '.join(sorted(SUFFIXES))}), but "
                    f"other files: {len(others):,}, such as {min(others)}; convert them to JPEG "
                    "or PNG, or move the folder elsewhere"
                )
            if not found:
                raise InputError(f"{path} is empty: put pictures into it, or delete it")
            pictures += found
            strays += others
    if not pictures:
        raise InputError(f"{root} has no class folders such as {', '.join(EMOTIONS)}")
    pictures.sort(key=lambda picture: picture.id)
    for one, other in pairwise(pictures):
        if one.id == other.id:
            raise InputError(f"{one.path} and {other.path} differ only in suffix: rename one")
    outside = sum(map(_number_of_files, {root, *parts.values()}))
    return pictures, _dropped(strays, outside)


def _dropped(strays: list[str], outside: int) -> dict[str, int]:
    """Return the number of files that are left out, by the reason.

    Args:
        strays: paths of the files in class folders that are no pictures by their names.
        outside: number of files beside the class folders.
    """
    by_suffix: dict[str, list[str]] = {}
    for path in strays:
        name = os.path.basename(path)
        suffix = os.path.splitext(name)[1].lower() or "no suffix"
        by_suffix.setdefault("" if name[0] == "." else suffix, []).append(path)
    outside += len(by_suffix.pop("", []))
    dropped = {"hidden, or not in a class folder": outside} if outside else {}
    for suffix, paths in sorted(by_suffix.items()):
        reason = f"files with {suffix}, such as {min(paths)}: if they are pictures, convert them"
        dropped[f"{reason} to JPEG or PNG"] = len(paths)
    return dropped


def _number_of_files(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(one.is_file() and not OWN.fullmatch(one.name) for one in entries)


def _pictures(root: Path, folder: Path, part: str) -> tuple[list[Picture], list[str]]:
    """Return the pictures in and below a class folder, and the paths of other files there.

    The paths are relative to `root`.
    """
    found, others = [], []
    for place, files in walk(folder):
        relative = Path(place).relative_to(root).as_posix()
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in SUFFIXES and file[0] != ".":
                path = os.path.join(place, file)
                require_utf8(path)
                found.append(Picture(path, part, folder.name, f"{relative}/{stem}"))
            else:
                others.append(f"{relative}/{file}")
    return found, others


def _ignored(root: Path, parts: dict[str, Path]) -> list[str]:
    if root in parts.values():
        return []
    names = [path.name for path in subfolders(root) if path not in parts.values()]
    return [f"folders that were not read: {', '.join(names)}"] if names else []


def _split_by_name(faces: FaceSet, pictures: list[Picture]) -> bool:
    """Separate FER2013's splits in test/ by the file names; return whether that was possible."""
    usage = np.array([os.path.basename(picture.path).partition("_")[0] for picture in pictures])
    rows = faces.where("test")
    short = {picture.folder.lower() for picture in pictures} <= set(EMOTIONS)
    named = len(rows) > 0 and set(usage[rows].tolist()) == {"PublicTest", "PrivateTest"}
    if not short or not named or len(faces.where("valid")):
        return False
    faces.split = faces.split.astype("<U5")
    faces.split[rows] = [USAGE[text] for text in usage[rows]]
    return True


def _draw(faces: FaceSet, parts: tuple[str, ...]) -> None:
    """Draw the splits that have no folder, and say so in the manifest's remarks."""
    tested = faces.ids[faces.where("test")].tolist()
    fractions = FRACTIONS[parts]  # `parts_of` returns none without "train"
    drawn = [part for part in fractions if part not in parts]
    faces.manifest["remarks"].append(
        f"no folder for {' and '.join(drawn)}: drawn here, copies kept on one side"
    )
    of_fer2013 = faces.name == "fer2013" or (len(faces) - len(tested), len(tested)) == MERGED
    if parts == ("train", "test") and of_fer2013 and not _of_one_usage(tested):
        faces.manifest["mark"] = f"test = PublicTest + PrivateTest, {len(tested):,} images"
    draw_split(faces, fractions)


def _of_one_usage(ids: list[str]) -> bool:
    """Return whether the names of all files, or of their folder, say that they are of one Usage."""
    usages = ("publictest", "privatetest", "fer2013test")
    return any(all(usage in name.lower() for name in ids) for usage in usages)
