"""Finding faces: the detectors, boxes and crops."""

import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_lib.data.drawing import draw, draw_objects
from fer_lib.data.pictures import fit
from fer_lib.files import InputError
from fer_lib.predict import faces
from fer_lib.predict.faces import Box, Cascade, Found, YuNet, crop, make_detector, sorted_boxes

YUNET = os.environ.get("FER_DETECTOR", "")
needs_yunet = pytest.mark.skipif(
    not YUNET.endswith(".onnx"), reason="set FER_DETECTOR to YuNet's file to test it"
)


pytestmark = pytest.mark.usefixtures("no_detector_asked_for")


@pytest.fixture
def frame():
    """A picture (480, 640, 3) uint8 with a face that the cascade finds, and its (x, y, side)."""
    picture = np.full((480, 640, 3), 128, np.uint8)
    picture[120:320, 300:500] = draw(np.array([0]), 1, size=200, rough=0)[0, 0, :, :, None]
    return picture, (300, 120, 200)


def is_on(box: Box, place: tuple[int, int, int]) -> bool:
    """Return whether a box is centred in the middle third of the face and has a similar height."""
    x, y, side = place
    centre = box.x + box.width / 2 - x, box.y + box.height / 2 - y
    return all(side / 3 < c < 2 * side / 3 for c in centre) and 0.5 < box.height / side < 1.2


def test_the_cascade_finds_a_drawn_face_and_none_in_drawn_objects(frame):
    picture, place = frame
    detector = Cascade()
    (found,) = detector(picture)
    assert is_on(found.box, place)
    assert found.confidence is None
    objects = draw_objects(1, 0, size=400)[0, 0]
    assert detector(np.repeat(objects[..., None], 3, axis=2)) == []


def test_the_cascade_scales_boxes_back_to_a_large_picture(frame):
    picture, (x, y, side) = frame
    large = cv2.resize(picture, None, fx=4, fy=4)
    (found,) = Cascade()(large)
    assert is_on(found.box, (4 * x, 4 * y, 4 * side))


def test_the_cascade_finds_no_face_in_a_picture_one_pixel_wide():
    assert Cascade()(np.zeros((3000, 1, 3), np.uint8)) == []


def test_the_cascade_looks_at_the_brightness_in_at_most_1280_pixels():
    detector, shown = Cascade(), []
    look = lambda grey, **_: shown.append(grey) or [np.array([100, 50, 200, 200])]
    detector.cascade = SimpleNamespace(detectMultiScale=look)
    red = np.zeros((640, 2560, 3), np.uint8)
    red[..., 0] = 255
    assert detector(red) == [Found(Box(200, 100, 400, 400), None)]
    assert shown[0].shape == (320, 1280)
    assert set(shown[0].ravel()) == {76}


class RedMiddle:
    """Stand-in for OpenCV's network: finds the middle of a picture that is red in BGR."""

    def __init__(self):
        self.sizes = []

    def setInputSize(self, size):
        self.sizes.append(size)

    def detect(self, picture):
        if tuple(picture[0, 0]) != (0, 0, 255):
            return 0, None
        height, width = picture.shape[:2]
        assert self.sizes[-1] == (width, height)
        box = (width / 4, height / 4, width / 2, height / 2)
        return 1, np.array([[*box, *np.zeros(10), 0.9]], np.float32)


@pytest.fixture
def red_middle(tmp_path, monkeypatch):
    """YuNet with the stand-in `RedMiddle`."""
    (tmp_path / "a.onnx").touch()
    create = SimpleNamespace(create=lambda *_: RedMiddle())
    monkeypatch.setattr(cv2, "FaceDetectorYN", create)
    return YuNet(tmp_path / "a.onnx")


def test_yunet_is_asked_at_two_scales_and_boxes_are_scaled_back(red_middle):
    picture = np.zeros((1280, 2560, 3), np.uint8)
    assert red_middle(picture) == []
    picture[..., 0] = 255
    assert red_middle(picture) == [Found(Box(640, 320, 1280, 640), pytest.approx(0.9))]
    assert red_middle.network.sizes == 2 * [(320, 160), (1280, 640)]


def test_yunet_reads_tiny_pictures_with_margins_in_which_no_face_is_found(red_middle):
    assert red_middle(np.uint8([[[255, 0, 0]]])) == []  # the stand-in's box is in the margin
    assert red_middle.network.sizes == [(64, 64)]


@needs_yunet
def test_yunet_finds_small_and_large_drawn_faces():
    detector = YuNet(YUNET)
    for side, size in ((60, (480, 640)), (240, (480, 640)), (900, (950, 1300))):
        picture = np.full((*size, 3), 128, np.uint8)
        face = draw(np.array([3]), 1, size=side, rough=0.3)[0, 0, :, :, None]
        picture[20 : 20 + side, 50 : 50 + side] = face
        (found,) = detector(picture)
        assert is_on(found.box, (50, 20, side))
        assert 0.7 <= found.confidence <= 1
    assert detector(np.zeros((1, 1, 3), np.uint8)) == []


@needs_yunet
@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((480, 640), [(300, 100, 240), (20, 100, 100)]),
        ((950, 1300), [(20, 20, 900), (1100, 20, 100)]),  # one found at each scale
    ],
)
def test_yunet_returns_several_faces_largest_first(size, places):
    picture = np.full((*size, 3), 128, np.uint8)
    for x, y, side in places:
        drawn = draw(np.array([3]), 1, size=side, rough=0.3)[0, 0, :, :, None]
        picture[y : y + side, x : x + side] = drawn
    for one, place in zip(YuNet(YUNET)(picture), places, strict=True):
        assert is_on(one.box, place)


@needs_yunet
@pytest.mark.parametrize("sideways", [False, True])
def test_yunet_finds_the_faces_of_long_strips_and_none_in_tiny_pictures(sideways):
    detector = YuNet(YUNET)
    faces = draw(np.zeros(12, int), 12, size=300, rough=0.3)[:, 0]
    strip = np.repeat(np.concatenate(list(faces), 1 - sideways)[:, :, None], 3, 2)
    thin = np.full((3000, 2, 3) if sideways else (2, 3000, 3), 128, np.uint8)
    for _ in range(4):
        assert len(detector(strip)) == 12
        for nothing in (np.zeros((16, 16, 3), np.uint8), thin):
            assert detector(nothing) == []


def test_boxes_of_one_face_from_several_scales_are_merged():
    whole, same, part = (0, 0, 100, 100, 0.8), (5, 0, 100, 100, 0.9), (30, 30, 45, 45, 0.95)
    beside, across = (110, 0, 30, 30, 0.75), (85, 0, 30, 30, 0.75)
    assert faces.merged([]) == []
    assert faces.merged([whole, same]) == [same]
    assert faces.merged([whole, part]) == [whole]
    assert faces.merged([part, whole, beside]) == [whole, beside]
    mostly = (70, 30, 40, 40, 0.95)  # a quarter is outside
    assert faces.merged([whole, mostly]) == [whole]
    assert faces.merged([whole, across]) == [whole, across]  # one head in front of another


def test_a_detector_file_that_is_missing_or_not_yunet_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="an ONNX file of another network is made with it")
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"a\.onnx cannot be read as YuNet"):
        make_detector(tmp_path / "a.onnx")
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    values = [
        onnx.helper.make_tensor_value_info(name, 1, [1, 3, 320, 320])
        for name in ("input", "output")
    ]
    graph = onnx.helper.make_graph([node], "other", values[:1], values[1:])
    (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(InputError, match=r"a\.onnx cannot be read as YuNet"):
        make_detector(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"b\.onnx does not exist"):
        make_detector(tmp_path / "b.onnx")


def test_boxes_are_clipped_at_the_edge_of_the_picture_and_the_largest_is_first():
    rows = [(95.0, 95.0, 20.0, 20.0, None), (-5.2, 3.6, 20.0, 10.0, 0.5), (200, 0, 9, 9, 0.9)]
    found = sorted_boxes(rows, (100, 110, 3))
    assert [one.box for one in found] == [(0, 4, 15, 10), (95, 95, 15, 5)]
    assert [one.confidence for one in found] == [0.5, None]


def test_a_crop_is_the_square_around_the_box():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    picture = Image.fromarray(ramp)
    part = crop(picture, Box(60, 40, 40, 80), 1.0, (1, 80, 80))
    np.testing.assert_array_equal(part[0], ramp[40:120, 40:120])
    half = crop(picture, Box(60, 40, 40, 80), 0.5, (1, 40, 40))
    np.testing.assert_array_equal(half[0], ramp[60:100, 60:100])


def test_a_crop_repeats_the_edge_outside_the_picture():
    picture = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (100, 1)))
    part = crop(picture, Box(0, 0, 40, 40), 2.0, (1, 80, 80))
    assert part.shape == (1, 80, 80)
    assert set(part[0, :, :20].ravel()) == {0}
    np.testing.assert_array_equal(part[0, 0, 20:], np.arange(60))
    ramp = np.add.outer(np.arange(60), np.arange(100)).astype(np.uint8)  # wider than high
    part = crop(Image.fromarray(ramp), Box(80, 40, 20, 20), 2.0, (1, 40, 40))
    np.testing.assert_array_equal(part[0], np.pad(ramp[30:, 70:], (0, 10), "edge"))


def test_a_crop_may_begin_in_the_middle_of_a_pixel():
    ramp = 2 * np.add.outer(np.arange(60), np.arange(60))
    picture = Image.fromarray(ramp.astype(np.uint8))
    part = crop(picture, Box(10, 10, 41, 41), 40 / 41, (1, 40, 40))  # from 10.5 to 50.5
    halfway = (ramp[10:50, 10:50] + ramp[11:51, 11:51]) / 2
    np.testing.assert_array_equal(part[0, 3:-3, 3:-3], halfway[3:-3, 3:-3])


def test_a_crop_is_shrunk_as_training_images_are(smooth_noise):
    picture = Image.fromarray(smooth_noise(1, side=96)[0, 0])
    part = crop(picture, Box(0, 0, 96, 96), 1.0, (1, 48, 48))
    np.testing.assert_array_equal(part[0], fit(picture, (48, 48)))


@pytest.mark.parametrize(("channels", "mean"), [(1, 76), (3, 85)])
def test_a_crop_has_the_channels_of_the_training_images(channels, mean):
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    part = crop(red, Box(8, 8, 48, 48), 1.0, (channels, 24, 24))
    assert part.shape == (channels, 24, 24)
    assert part.mean() == mean
