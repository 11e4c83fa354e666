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
LARGEST = 256  # pixels of a side, more than any of the models here takes in by its recipe
HEIC = {b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1"}
"""Of a phone's photos, in bytes 8 to 12 after "ftyp"; Pillow reads none of them by itself."""

SMALL = 32 * 1024  # bytes up to which a thread loses more to the interpreter lock than it wins
Paths = Sequence[str | Path]
THREADS = 16  # more than cores, to hide the latency of network drives


def read_picture(path: str | Path, data: bytes | None = None) -> Image.Image:
    """Read one picture as `upright` leaves it, at its own size.

    Args:
        path: of the file, or its name where `data` is its content already.

    Raises:
        InputError: it is missing or damaged; the sentence names it.
    """
    return _decode(path, _bytes(path) if data is None else data)


def upright(picture: Image.Image) -> Image.Image:
    """A picture as L (grey) or RGB, turned as EXIF asks.

    Transparency becomes black, 16 bits become 8, and three equal channels count as grey.

    Raises:
        ValueError: its numbers do not say what is white.
    """
    picture.load()
    if "exif" in picture.info or picture.format == "TIFF":
        picture = ImageOps.exif_transpose(picture)
    plain = picture.mode == "L" and "transparency" not in picture.info
    return picture if plain else _plain(picture)


def fit(picture: Image.Image, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """The middle of a picture, resized to `size` (width, height), which leaves one of it alone."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def read_pictures(paths: Paths) -> tuple[np.ndarray, list[str]]:
    """Read pictures as uint8 (N, C, H, W), and say what had to be done to them.

    C is 1 where every picture is grey (three equal channels count as grey), else 3. Square pictures
    of one size up to 256x256 keep it; of larger or other ones of one size the middle square is
    kept, resized to at most 256x256; of several sizes, that of all is resized to 48x48. So no face
    is squeezed, as none is in prediction. A rotation that EXIF asks for is done, transparency
    becomes black, and 16 bits become 8.

    Raises:
        InputError: a picture is missing or damaged; the sentence names it.
    """
    first = _decode(paths[0], _bytes(paths[0]))
    return _fill(paths, first.size, len(first.getbands()))


def _fill(
    paths: Paths, size: tuple[int, int] | None, channels: int
) -> tuple[np.ndarray, list[str]]:
    """Read on the assumption that every picture has this size (None: any) and so many channels.

    Starts again on the first that does not fit.
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
    """Pictures in order, as L or RGB, `side` pixels wide and high; None for one not of this size.

    Files are read ahead by threads, a batch at a time.
    """

    def decode(path: str | Path, data: bytes) -> Image.Image | None:
        picture = _decode(path, data)
        if size and picture.size != size:
            return None
        return picture if picture.size == (side, side) else fit(picture, (side, side))

    small = np.mean([len(_bytes(path)) for path in paths[:8]]) < SMALL
    step = 32 if small else 1
    parts = [paths[start : start + step] for start in range(0, len(paths), step)]

    def ahead(part: Paths) -> list:
        return [_bytes(path) if small else decode(path, _bytes(path)) for path in part]

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


def _decode(path: str | Path, data: bytes) -> Image.Image:
    """The picture upright, as L (grey) or RGB."""
    with named(path):
        try:
            picture = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            heic = data[4:8] == b"ftyp" and data[8:12] in HEIC
            reason = (
                "it is in HEIC format: export it as JPEG" if heic else "its content is no picture"
            )
            raise ValueError(reason) from None
        return upright(picture)


@contextmanager
def named(picture: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises, which may be anything, into an InputError with its name."""
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{picture} cannot be read as a picture ({reason}): replace it or delete it"
        ) from None


def _plain(picture: Image.Image) -> Image.Image:
    """Any mode as L or RGB; L where the three channels are equal."""
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode == "F":
        raise ValueError("its pixels are fractions: save it with 8 or 16 bits a pixel")
    if picture.mode.startswith("I"):  # 16 bits a pixel, or 32 that hold them, or 8
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have more than 16 bits: save it with 8 or 16 bits a pixel")
        eight = picture.mode == "I" and pixels.max() <= 255  # 8 bits in the 32 of a TIFF
        return Image.fromarray((pixels >> (0 if eight else 8)).astype(np.uint8))
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(picture), -1, 0)
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    return picture.getchannel("R") if grey else picture
