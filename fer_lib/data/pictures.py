"""Reading many picture files into one array."""

import io
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fer_lib.files import InputError

SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm"),
}
SIDE = 48
LARGEST = 256  # pixels on each side, more than the input of any model here by its recipe
HEIC = {b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1"}
"""Bytes 8 to 11 of a phone's HEIC photos, after "ftyp"; Pillow alone cannot read these files."""
NO_PICTURE = "its content is no picture"  # why a file is refused that no decoder knows

Paths = Sequence[str | Path]
THREADS = 16  # also on fewer cores, to hide the latency of network drives
PIXELS = 100_000_000  # decoded at once by all threads together; Pillow needs 4 bytes for each
BATCH = 512  # pictures that may wait, decoded and fitted, to be copied into the array
STRIP = 256  # rows of a picture that are compared at once

# Pillow warns from half of the number of pixels on that it refuses, as of photos of newer phones.
# The warning is switched off here, once, because threads share all filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
        except Image.DecompressionBombError:
            most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
            raise ValueError(f"it has more than {most} million pixels: make it smaller") from None
        return upright(picture)


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as L (grey) or RGB, rotated as its EXIF data say.

    Transparency becomes black, 16 bits become 8, and three equal channels count as grey. If no
    pixel of a file with 16 or 32 bits is above 255, white is 255.

    Raises:
        ValueError: the pixels are fractions or not in 0..65535, so it is unknown which are white.
    """
    picture.load()
    if _orientation(picture) != 1:  # otherwise Pillow would make a copy
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
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(_size, paths))
    odd = next((row for row, size in enumerate(sizes) if size != sizes[0]), None)
    side = SIDE if odd is not None else min(*sizes[0], LARGEST)
    largest = max(width * height for width, height in sizes)
    images = _squares(paths, side, min(THREADS, max(1, PIXELS // largest)))
    what = "{}x{}".format(*sizes[0])
    if odd is not None:
        other = "{}x{}".format(*sizes[odd])
        what = f"several sizes ({what}, but {other} in {paths[odd]})"
    remark = f"pictures of {what}: the middle square of each was resized to {side}x{side}"
    if odd is not None:
        remark += f"; to keep more, make them one square size of up to {LARGEST}x{LARGEST}"
    return images, [] if odd is None and sizes[0] == (side, side) else [remark]


def _squares(paths: Paths, side: int, threads: int) -> np.ndarray:
    """Read pictures with threads, each fitted to `side` x `side` at once: (N, 1 or 3, H, W)."""

    def decode(path: str | Path) -> Image.Image:
        picture = read_picture(path)
        return picture if picture.size == (side, side) else fit(picture, (side, side))

    images = np.empty((len(paths), 1, side, side), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), BATCH):
            batch = pool.map(decode, paths[start : start + BATCH])
            for row, picture in enumerate(batch, start):
                if picture.mode == "RGB" and images.shape[1] == 1:
                    images = np.repeat(images, 3, 1)
                pixels = np.asarray(picture)
                images[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return images


def _size(path: str | Path) -> tuple[int, int]:
    """Return the width and height of a picture after rotation, from its header if possible."""
    try:
        with Image.open(path) as picture:
            turned = _orientation(picture) in range(5, 9)
            if not (turned and picture.format == "TIFF"):  # Pillow 13 has turned this size already
                return picture.size[::-1] if turned else picture.size
    except Exception:  # what is wrong with it is found again below, and named
        pass
    return read_picture(path).size


def _orientation(picture: Image.Image) -> int:
    """Return the orientation in a picture's EXIF data: 1 upright, 5 to 8 width is height."""
    if "exif" not in picture.info and picture.format != "TIFF":
        return 1  # to look for more in a PNG would decode it
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


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
    if picture.mode.startswith("I"):  # 16 bits a pixel, or 32
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have more than 16 bits: save it with 8 or 16 bits a pixel")
        # Some programs store 8 bits in 16 or 32. A PGM file says which value is white.
        eight = picture.format != "PPM" and pixels.max() <= 255
        return Image.fromarray((pixels >> (0 if eight else 8)).astype(np.uint8))
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, "black")
        profile = {k: v for k, v in picture.info.items() if k == "icc_profile"}
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
        picture.info = profile  # and no transparency any more
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    return picture.getchannel("R") if _is_grey(picture) else picture


def _is_grey(picture: Image.Image) -> bool:
    """Return whether the three channels are equal; a large picture is copied strip by strip."""
    for top in range(0, picture.height, STRIP):
        strip = picture.crop((0, top, picture.width, min(top + STRIP, picture.height)))
        red, green, blue = np.moveaxis(np.asarray(strip), -1, 0)
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            return False
    return True
