"""What is given to be looked at: pictures of every kind; files, folders, globs and videos."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from fer_lib.data.pictures import SUFFIXES, read_picture, upright
from fer_lib.files import InputError

Picture = str | Path | Image.Image | np.ndarray | Tensor
VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
BATCH, PIXELS = (
    256,
    50_000_000,
)  # pictures that are in memory together: so many, or of so many pixels


def open_picture(picture: Picture) -> Image.Image:
    """Anything that is a picture as an upright PIL image, L or RGB.

    Raises:
        InputError: it cannot be read, or is no picture.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
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
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    ):
        raise InputError(
            f"{array.dtype} {array.shape} is no picture: give an array (H, W), (H, W, 3) or "
            "(H, W, 4) or a tensor (C, H, W), of whole numbers from 0 to 255 (uint8) or uint16"
        )
    return upright(Image.fromarray(array))


@dataclass(frozen=True)
class Source:
    """A file to read, and its name relative to the folder that was given (else its own)."""

    path: Path
    inside: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Shot:
    """A picture or a frame of a video, or why it could not be read.

    `frame` counts from 0 and `seconds` from the start of the video; both None for a picture.
    """

    source: Source
    picture: Image.Image | None = None
    problem: str = ""
    frame: int | None = None
    seconds: float | None = None


def find_sources(paths: Sequence[str]) -> tuple[list[Source], int]:
    """Files to read, each once, and how many in the folders are neither pictures nor videos.

    A file that is named itself is read whatever its suffix; of a folder, all pictures and videos
    in it and below; of a pattern (`faces/*.png`, `**` for folders below) what matches.

    Raises:
        InputError: a path does not exist, a pattern matches nothing, or there is nothing to read.
    """
    found: dict[Path, Source] = {}
    others = 0
    for path in map(Path, (match for given in paths for match in matches(given))):
        path = path.expanduser()
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file())
            known = [one for one in inside if one.suffix.lower() in SUFFIXES | VIDEOS]
            others += len(inside) - len(known)
            sources = [Source(one, one.relative_to(path)) for one in known]
        else:
            sources = [Source(path, Path(path.name))]
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    if not found:
        endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES | VIDEOS))
        raise InputError(f"{', '.join(paths)} holds no picture and no video ({endings})")
    return list(found.values()), others


def matches(given: str) -> list[str]:
    """A path that exists, or what a pattern matches."""
    if Path(given).expanduser().exists():
        return [given]
    if not glob.has_magic(given):
        raise InputError(f"{given} does not exist: check the path")
    found = sorted(glob.glob(str(Path(given).expanduser()), recursive=True))
    if not found:
        raise InputError(f"nothing matches {given}: check the pattern")
    return found


def shots(source: Source, every: int) -> Iterator[Shot]:
    """The picture of a file, or every n-th frame of a video."""
    if source.is_video:
        yield from frames(source, every)
        return
    try:
        yield Shot(source, read_picture(source.path))
    except InputError as error:
        yield Shot(source, problem=str(error))


def frames(source: Source, every: int) -> Iterator[Shot]:
    """Frames 0, `every`, 2 `every` …, upright, as RGB; a problem where the video breaks off."""
    video = cv2.VideoCapture(str(source.path))
    expected, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    number = 0
    try:
        while video.grab():
            if number % every == 0:
                ok, frame = video.retrieve()
                if not ok:
                    break
                picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                seconds = round(number / rate, 3) if rate > 0 else None
                yield Shot(source, picture, frame=number, seconds=seconds)
            number += 1
    finally:
        video.release()
    if number == 0:
        yield Shot(source, problem=f"{source.path} cannot be read as a video: replace it")
    elif number < 0.9 * expected:  # an estimate in some formats
        problem = f"{source.path} breaks off after {number} of {expected:.0f} frames"
        yield Shot(source, problem=problem)


def batches(stream: Iterable[Shot]) -> Iterator[list[Shot]]:
    """Shots in parts that fit into memory together."""
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
