"""Reading picture files of every mode and size into one array."""

import io
import runpy
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fer_lib.data import pictures
from fer_lib.data.pictures import read_picture, read_pictures, upright
from fer_lib.files import InputError


def save(folder, **pictures):
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in pictures]


def test_grey_pictures_of_every_mode_stay_grey(tmp_path):
    ramp = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) % 256
    grey = Image.fromarray(ramp.astype(np.uint8))
    deep = Image.fromarray((ramp * 257).astype(np.uint16))
    clear = grey.convert("LA")
    paths = save(tmp_path, a=grey, b=deep, c=clear, d=grey.convert("RGB"), e=grey.convert("P"))
    images, remarks = read_pictures(paths)
    assert images.shape == (5, 1, 64, 64)
    assert remarks == []
    for image in images:
        np.testing.assert_array_equal(image[0], ramp)


def test_one_colour_picture_makes_all_rgb_and_transparency_becomes_black(tmp_path):
    grey = Image.new("L", (48, 48), 90)
    half = Image.new("RGBA", (48, 48), (200, 100, 0, 255))
    half.paste((255, 255, 255, 0), (0, 0, 24, 48))
    images, _ = read_pictures(save(tmp_path, a=grey, b=half))
    assert images.shape == (2, 3, 48, 48)
    assert (images[0] == 90).all()
    assert images[1, :, 0, 30].tolist() == [200, 100, 0]
    assert images[1, :, 0, 3].tolist() == [0, 0, 0]


def test_a_transparent_grey_value_becomes_black():
    picture = Image.fromarray(np.array([[200, 255]], np.uint8))
    picture.info["transparency"] = 200
    assert np.asarray(upright(picture)).tolist() == [[0, 255]]


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.new("L", (48, 48))
    picture.paste(255, (0, 0, 48, 24))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    images, _ = read_pictures([tmp_path / "a.jpg"])
    assert images[0, 0, 0, 0] < 20
    assert images[0, 0, -1, 0] > 235


def test_pictures_of_several_sizes_become_48x48(tmp_path):
    wide = Image.new("L", (200, 100), 0)
    wide.paste(255, (50, 0, 150, 100))  # the middle square
    images, remarks = read_pictures(save(tmp_path, a=wide, b=Image.new("L", (64, 64), 7)))
    assert images.shape == (2, 1, 48, 48)
    assert images[0].min() > 230  # below 255 because the filter reaches beyond the edge
    assert remarks == [
        f"pictures of several sizes (200x100, but 64x64 in {tmp_path / 'b.png'}): the middle "
        "square of each was resized to 48x48; to keep more, make them one square size of up to "
        "256x256"
    ]


@pytest.mark.parametrize(
    ("size", "side"), [((64, 64), 64), ((80, 60), 60), ((60, 80), 60), ((640, 480), 256)]
)
def test_pictures_of_one_size_keep_their_middle_square_and_are_not_squeezed(tmp_path, size, side):
    picture = Image.new("L", size, 0)
    width, height = size
    left, top = (width - min(size)) // 2, (height - min(size)) // 2
    picture.paste(255, (left, top, left + min(size), top + min(size)))
    images, remarks = read_pictures(save(tmp_path, a=picture, b=picture))
    assert images.shape == (2, 1, side, side)
    assert images.min() > 230
    assert bool(remarks) == (size != (side, side))


def test_a_large_first_picture_does_not_reserve_memory_for_all(tmp_path):
    small = Image.new("L", (48, 48), 9)
    paths = save(tmp_path, a=Image.new("L", (3000, 4000), 7), b=small)
    tracemalloc.start()
    try:
        images, _ = read_pictures([paths[0], *[paths[1]] * 400])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert images.shape == (401, 1, 48, 48)
    assert images[[0, -1], 0, 0, 0].tolist() == [7, 9]
    assert peak < 401 * 300**2  # bytes: at most 256x256 pixels are reserved for each


def noise(width, height):
    """Return a picture of random pixels, which is in colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_pictures_of_several_sizes_are_decoded_once(tmp_path, monkeypatch, suffix):
    sizes = {"a": ((400, 300), 1), "b": ((300, 400), 6), "c": ((300, 400), 1)}
    paths = [tmp_path / f"{name}.{suffix}" for name in sizes]
    for path, (size, orientation) in zip(paths, sizes.values(), strict=True):
        exif = Image.Exif()
        exif[0x0112] = orientation
        noise(*size).save(path, exif=exif)
    read, seen = pictures.read_picture, []
    monkeypatch.setattr(pictures, "read_picture", lambda *a: (seen.append(a[0]), read(*a))[1])
    images, remarks = read_pictures(paths)
    assert images.shape == (3, 3, 48, 48)
    assert f"(400x300, but 300x400 in {paths[2]})" in remarks[0]  # b is 400x300 when upright
    # Versions of Pillow differ in the size of a turned TIFF before it is decoded.
    turned = [paths[1]] if suffix == "tif" else []
    assert sorted(seen) == sorted(paths + turned)


def test_a_damaged_file_is_named(tmp_path):
    (path,) = save(tmp_path, a=noise(300, 300))
    path.write_bytes(b"?" + path.read_bytes())
    with pytest.raises(InputError, match=r"a\.png cannot be read .*content is no picture"):
        read_pictures([path])


@pytest.mark.parametrize(("limit", "threads"), [(500_000, 5), (10, 1), (10**9, 16)])
def test_few_large_pictures_are_decoded_at_once(tmp_path, monkeypatch, limit, threads):
    started = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, number):
            started.append(number)
            super().__init__(number)

    monkeypatch.setattr(pictures, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(pictures, "PIXELS", limit)
    paths = save(tmp_path, a=noise(400, 250), b=noise(400, 250))
    assert read_pictures(paths)[0].shape == (2, 3, 250, 250)
    assert started == [16, threads]


def test_a_large_colour_picture_is_not_copied(tmp_path):
    picture = Image.new("RGB", (2000, 2000), (9, 9, 9))
    picture.putpixel((1999, 1999), (9, 9, 8))
    tracemalloc.start()
    try:
        assert upright(picture) is picture
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2000 * 2000 * 3 / 2  # bytes


def test_the_first_frame_of_a_gif_is_read_and_its_transparency_becomes_black(tmp_path):
    red = Image.new("RGBA", (20, 10), (255, 0, 0, 255))
    red.paste((0, 0, 0, 0), (0, 0, 10, 10))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (20, 10), "blue")])
    assert Image.open(tmp_path / "a.gif").n_frames == 2
    pixels = np.asarray(read_picture(tmp_path / "a.gif"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 19].tolist() == [255, 0, 0]


def test_a_picture_in_memory_is_read_like_its_file(tmp_path):
    (path,) = save(tmp_path, a=Image.new("RGB", (60, 50), (200, 100, 0)))
    content = path.read_bytes()
    assert read_picture("sent.png", content).tobytes() == read_picture(path).tobytes()
    with pytest.raises(InputError, match=r"^sent\.png cannot be read"):
        read_picture("sent.png", content[:40])


@pytest.mark.parametrize("error", [KeyError("tag"), IndexError(), EOFError(), MemoryError()])
def test_any_error_of_a_decoder_names_the_picture(tmp_path, monkeypatch, error):
    (path,) = save(tmp_path, a=Image.new("L", (8, 8)))

    def fail(_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(InputError, match=rf"a\.png cannot be read .*({type(error).__name__}|tag)"):
        read_picture(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 0.5, np.float32), "pixels are fractions"),
        (np.full((8, 8), 65_536, np.int32), "more than 16 bits"),
        (np.full((8, 8), -1, np.int32), "more than 16 bits"),
    ],
)
def test_pixels_without_a_known_white_are_refused(pixels, message):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff")
    with pytest.raises(InputError, match=rf"^a\.tif .*{message}: save it with 8 or 16 bits"):
        read_picture("a.tif", file.getvalue())


@pytest.mark.parametrize(("stored", "read"), [(65_535, 255), (511, 1), (200, 200)])
def test_32_bit_pixels_that_contain_16_or_8_bits_are_read(stored, read):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), stored, np.int32)).save(file, "tiff")
    assert set(np.asarray(read_picture("a.tif", file.getvalue())).ravel()) == {read}


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(("stored", "read"), [(65_535, 255), (511, 1), (200, 200)])
def test_16_bit_pixels_that_contain_8_bits_are_read(kind, stored, read):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), stored, np.uint16)).save(file, kind)
    assert set(np.asarray(read_picture(f"a.{kind}", file.getvalue())).ravel()) == {read}


def test_dark_16_bit_pixels_of_a_pgm_stay_dark():
    content = b"P5 2 1 65535\n" + np.array([200, 150], ">u2").tobytes()
    assert np.asarray(read_picture("a.pgm", content)).tolist() == [[0, 0]]


def test_a_photo_of_many_pixels_is_read_without_a_warning(tmp_path, monkeypatch):
    (path,) = save(tmp_path, a=Image.new("L", (15, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fresh = runpy.run_path(pictures.__file__)  # sets the filter
        assert fresh["read_picture"](path).size == (15, 10)
        assert fresh["read_pictures"]([path])[0].shape == (1, 1, 10, 10)
    assert heard == []


def test_a_picture_of_more_pixels_than_pillow_reads_is_refused_with_a_remedy(tmp_path, monkeypatch):
    (path,) = save(tmp_path, a=Image.new("L", (2001, 1000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    for read in (read_picture, lambda path: read_pictures([path])):
        with pytest.raises(InputError, match=r"\(it has more than 2 million pixels: make it small"):
            read(path)


def test_heic_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="HEIC format: export it as JPEG"):
        read_picture("a.jpg", b"\0\0\0\x18ftypheic" + bytes(40))
