"""Read what the user gives: pictures of every kind, files, folders, patterns and videos."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fer_lib.data.folders import closed, walk
from fer_lib.data.pictures import NO_PICTURE, SUFFIXES, named, read_picture, upright
from fer_lib.files import InputError, exists, matches, require_utf8

Picture = str | Path | Image.Image | np.ndarray | Tensor
UNCOUNTED = {".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".mts", ".m2ts"}
"""Suffixes of formats whose number of frames is an estimate."""
VIDEOS = UNCOUNTED | {".mp4", ".m4v", ".mov", ".avi", ".3gp"}
HEAD = 2**20  # bytes at the start of a file in which a fragmented MP4 can be recognised
# Tried in a folder: HEIC is to be reported, while most files of the suffix .ts are TypeScript.
NAMED = (SUFFIXES | VIDEOS | {".heic", ".heif"}) - {".ts"}
BATCH, PIXELS = 256, 50_000_000  # limits of one batch in memory: pictures, pixels


def open_picture(picture: Picture) -> Image.Image:
    """Turn any kind of picture into an upright PIL image, L (grey) or RGB.

    Args:
        picture: as `Predictor` takes it; 16 bits a pixel become 8.

    Raises:
        InputError: it cannot be read, or is not a picture.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        with named(getattr(picture, "filename", "") or repr(picture)):
            return upright(picture)
    if isinstance(picture, Tensor):
        array = picture.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(picture)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if (
        not array.size
        or array.dtype != np.uint8
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    ):
        raise InputError(
            f"{array.dtype} {array.shape} is no picture: give an array (H, W), (H, W, 3) or "
            "(H, W, 4) or a tensor (C, H, W), of whole numbers from 0 to 255 (uint8) or uint16"
        )
    return upright(Image.fromarray(array))


@dataclass(frozen=True)
class Source:
    """A file to read, or a folder that cannot be read.

    Attributes:
        inside: path relative to the folder that was given; the file's name if it was given itself.
        problem: why the folder cannot be read; empty for a file.
    """

    path: Path
    inside: Path
    problem: str = ""

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Shot:
    """A picture or a frame of a video, or the reason why it could not be read.

    Attributes:
        picture: None if it could not be read, or is not needed any more.
        problem: the reason why it could not be read or copied; empty if there is none.
        frame: number of the frame, from 0; None for a picture.
        seconds: time since the start of the video; None for a picture, or if the time is unknown.
    """

    source: Source
    picture: Image.Image | None = None
    problem: str = ""
    frame: int | None = None
    seconds: float | None = None


def find_sources(paths: Sequence[str]) -> tuple[list[Source], int]:
    """Find the files to read, each once.

    Args:
        paths: files, folders and patterns. A file is read whatever its suffix. Of a folder, all
            pictures and videos are read that are in it or below and not hidden. Of a pattern
            (`faces/*.png`, `**` for folders below), all matches are read.

    Returns:
        The sources, among them one with a `problem` for each folder that cannot be read; and the
        number of files in the folders that are neither pictures nor videos by their names.

    Raises:
        InputError: a path does not exist, a pattern matches nothing, or there is nothing to read.
    """
    found: dict[str, Source] = {}  # by the real path; Path.resolve fails for a link to itself
    others: set[str] = set()
    for path in (match for given in paths for match in given_files(given)):
        if path.is_dir():
            errors: list[OSError] = []
            walked = walk(path, errors.append)
            files = (Path(place, name) for place, names in walked for name in names)
            inside = sorted(one for one in files if one.name[0] != "." and may_be_file(one))
            known = [one for one in inside if one.suffix.lower() in NAMED]
            others |= set(map(os.path.realpath, inside)) - set(map(os.path.realpath, known))
            sources = [Source(one, one.relative_to(path)) for one in known]
            shut = [(Path(error.filename), str(closed(error))) for error in errors]
            sources += [Source(one, one.relative_to(path), why) for one, why in shut]
        else:
            sources = [Source(path, Path(path.name))]
        for source in sources:
            found.setdefault(os.path.realpath(source.path), source)
    if not found:
        endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES | VIDEOS))
        raise InputError(f"{', '.join(paths)} holds no picture and no video ({endings})")
    return list(found.values()), len(others - found.keys())


def may_be_file(path: Path) -> bool:
    """Return whether a path is a file.

    The answer is also True for a link to nothing, as of a drive that is not there, and if the
    folder does not allow the question: reading the file then fails with the reason.
    """
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except PermissionError:
        return True


def given_files(given: str) -> list[Path]:
    """Return the path itself if it exists, or all paths that match the pattern, sorted.

    Raises:
        InputError: it is empty, does not exist, or matches nothing.
    """
    if not given.strip():
        raise InputError(
            "an empty path names no picture: name a file or a folder, or . for this one"
        )
    found = matches(given)
    if len(found) == 1 and not exists(found[0]):
        raise InputError(f"{given} does not exist: check the path")
    return found


def shots(source: Source, every: int) -> Iterator[Shot]:
    """Yield the picture of a file, or every n-th frame of a video; or a shot with a `problem`."""
    if source.problem:
        yield Shot(source, problem=source.problem)
        return
    if source.is_video:
        yield from frames(source, every)
        return
    try:
        yield Shot(source, read_picture(source.path))
    except InputError as error:
        problem = str(error)
        if NO_PICTURE in problem and source.path.suffix.lower() not in NAMED:
            problem += "; if it is a video, convert it to .mp4 or rename it to its true suffix"
        yield Shot(source, problem=problem)


def frames(source: Source, every: int) -> Iterator[Shot]:
    """Yield frames 0, `every`, 2 `every` … of a video, upright, as RGB.

    For frames that cannot be read, a shot with a `problem` is yielded.
    """
    try:
        video = open_video(source)
    except InputError as error:
        yield Shot(source, problem=str(error))
        return
    expected = video.get(cv2.CAP_PROP_FRAME_COUNT)
    number = 0
    try:
        while video.grab():
            if number % every == 0:
                yield frame_shot(source, video, number)
            number += 1
    finally:
        video.release()
    if number == 0:
        yield Shot(source, problem=f"{source.path} cannot be read as a video: replace it")
    elif number < expected * (1 if counted(source.path) else 0.5):
        problem = f"{source.path}: {number} of {expected:.0f} frames could be read"
        yield Shot(source, problem=f"{problem}, the rest is damaged or trimmed")


def counted(path: Path) -> bool:
    """Return whether a video says how many frames it has, not only how long picture or sound last.

    A fragmented MP4, as recorders write it, does not say so; it contains the box "mvex".
    """
    with open(path, "rb") as file:
        return path.suffix.lower() not in UNCOUNTED and b"mvex" not in file.read(HEAD)


def frame_shot(source: Source, video: cv2.VideoCapture, number: int) -> Shot:
    """Decode the frame that was grabbed last."""
    ok, frame = video.retrieve()
    if not ok:
        return Shot(source, problem=f"{source.path}: frame {number} cannot be read")
    passed = video.get(cv2.CAP_PROP_POS_MSEC)  # the time between frames may vary
    seconds = round(passed / 1000, 3) if passed > 0 or number == 0 else None
    picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return Shot(source, picture, frame=number, seconds=seconds)


def open_video(source: Source) -> cv2.VideoCapture:
    """Open a video with FFmpeg, which knows the time of each frame, or else with what OpenCV has.

    Raises:
        InputError: the name is not UTF-8; with such a name OpenCV would end the whole process.
    """
    path = str(source.path.absolute())  # FFmpeg takes 12:30.mp4 for an address
    require_utf8(path)
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    return video if video.isOpened() else cv2.VideoCapture(path)


def progress(sources: Sequence[Source], every: int) -> Iterator[Shot]:
    """Yield the shots of all sources and show a progress bar of files, or of one video's frames."""
    if len(sources) == 1 and sources[0].is_video:
        total = None
        with suppress(InputError):  # the shots report it
            video = open_video(sources[0])
            expected = video.get(cv2.CAP_PROP_FRAME_COUNT)
            video.release()
            total = math.ceil(expected / every) if expected > 0 else None
        yield from tqdm(shots(sources[0], every), total=total, unit="frame", disable=None)
        return
    for source in tqdm(sources, unit="file", disable=None if len(sources) > 1 else True):
        yield from shots(source, every)


def batches(stream: Iterable[Shot]) -> Iterator[list[Shot]]:
    """Group shots into lists that fit into memory."""
    part: list[Shot] = []
    size = 0
    for shot in stream:
        part.append(shot)
        size += shot.picture.width * shot.picture.height if shot.picture else 0
        if len(part) == BATCH or size > PIXELS:
            yield part
            part, size = [], 0
    if part:
        yield part
