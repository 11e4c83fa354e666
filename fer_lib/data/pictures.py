"""Reading many picture files into one array."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_lib.files import InputError

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"}
SIDE = 48
LARGEST = 256  # pixels on each side, more than the input of any model here by its recipe
HEIC = {b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1"}
"""Bytes 8 to 11 of a phone's HEIC photos, after "ftyp"; Pillow alone cannot read these files."""
NO_PICTURE = "its content is no picture"  # why a file is refused that no decoder knows

SMALL = 32 * 1024  # bytes; below, threads lose more to the interpreter lock than they gain
Paths = Sequence[str | Path]
THREADS = 16  # also on fewer cores, to hide the latency of network drives


def read_picture(path: str | Path, data: bytes | None = None) -> Image.Image:
    """Read one picture at its own size, turned upright, as L (grey) or RGB (see `upright`).

    Args:
        path: path of the file; only a name for messages if `data` is given.
        data: content of the file, or None to read it.

    Raises:
        InputError: the picture is missing or damaged; the message names it.
    """
    data = _bytes(path) if data is None else data
    with named(path):
        try:
            picture = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            heic = data[4:8] == b"ftyp" and data[8:12] in HEIC
            reason = "it is in HEIC format: export it as JPEG" if heic else NO_PICTURE
            raise ValueError(reason) from None
        return upright(picture)


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as L (grey) or RGB, rotated as its EXIF data say.

    Transparency becomes black, 16 bits become 8, and three equal channels count as grey.

    Raises:
        ValueError: the pixels are fractions or not in 0..65535, so it is unknown which are white.
    """
    picture.load()
    if "exif" in picture.info or picture.format == "TIFF":
        picture = ImageOps.exif_transpose(picture)
    plain = picture.mode == "L" and "transparency" not in picture.info
    return picture if plain else _plain(picture)


def fit(picture: Image.Image, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Return the middle of a picture, resized to `size` (width, height) if it has another size."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def read_pictures(paths: Paths) -> tuple[np.ndarray, list[str]]:
    """Read pictures into one array of one size.

    If all pictures have the same size, and are square with sides of up to 256 pixels, they keep it.
    If they have the same size, but larger or not square, the middle square of each is resized to at
    most 256x256. If sizes differ, the middle square of each is resized to 48x48. So no face is
    squeezed, just as in prediction. See `upright` for rotation, transparency and depth.

    Args:
        paths: of at least one picture.

    Returns:
        (N, C, H, W) uint8, where C is 1 if every picture is grey (three equal channels count as
        grey), else 3; and a list with a remark if the pictures were resized, else empty.

    Raises:
        InputError: a picture is missing or damaged; the message names it.
    """
    first = read_picture(paths[0])
    return _fill(paths, first.size, len(first.getbands()))


def _fill(
    paths: Paths, size: tuple[int, int] | None, channels: int
) -> tuple[np.ndarray, list[str]]:
    """Read pictures on the assumption that all have this size (None: any) and number of channels.

    If a picture does not fit, the reading starts again with a wider assumption.
    """
    side = SIDE if size is None else min(*size, LARGEST)
    images = np.empty((len(paths), side, side, channels), np.uint8)
    for i, picture in enumerate(_decoded(paths, size, side)):
        if picture is None:
            return _fill(paths, None, channels)
        if channels == 1 and picture.mode == "RGB":
            return _fill(paths, size, 3)
        pixels = np.asarray(picture)
        images[i] = pixels if pixels.ndim == 3 else pixels[..., None]
    what = "several sizes" if size is None else f"{size[0]}x{size[1]}"
    remark = f"pictures of {what}: the middle square of each was resized to {side}x{side}"
    resized = [] if size == (side, side) else [remark]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), resized


def _decoded(paths: Paths, size: tuple[int, int] | None, side: int) -> Iterator[Image.Image | None]:
    """Yield the pictures in order, as L or RGB of `side` x `side`, or None for another size.

    Files are read ahead by threads, a batch at a time.
    """

    def decode(path: str | Path, data: bytes | None = None) -> Image.Image | None:
        picture = read_picture(path, data)
        if size and picture.size != size:
            return None
        return picture if picture.size == (side, side) else fit(picture, (side, side))

    small = np.mean([len(_bytes(path)) for path in paths[:8]]) < SMALL
    step = 32 if small else 1
    parts = [paths[start : start + step] for start in range(0, len(paths), step)]

    def ahead(part: Paths) -> list:
        return [_bytes(path) if small else decode(path) for path in part]

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(parts), 2 * THREADS):
            batch = parts[start : start + 2 * THREADS]
            for part, results in zip(batch, pool.map(ahead, batch), strict=True):
                yield from map(decode, part, results) if small else results


def _bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


@contextmanager
def named(picture: str | Path) -> Iterator[None]:
    """Turn any exception of a decoder into an InputError that names the picture."""
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{picture} cannot be read as a picture ({reason}): replace it or delete it"
        ) from None


def _plain(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as L or RGB; as L if the three channels are equal."""
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode == "F":
        raise ValueError("its pixels are fractions: save it with 8 or 16 bits a pixel")
    if picture.mode.startswith("I"):  # 16 bits a pixel, or 32 that contain 16 or 8
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have more than 16 bits: save it with 8 or 16 bits a pixel")
        eight = picture.mode == "I" and pixels.max() <= 255  # 8 bits of the 32 in a TIFF
        return Image.fromarray((pixels >> (0 if eight else 8)).astype(np.uint8))
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(picture), -1, 0)
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    return picture.getchannel("R") if grey else picture
