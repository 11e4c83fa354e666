"""Finding faces: choice of the detector and its message, download, boxes and crops."""

import hashlib
import io
import os
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_lib.data.drawing import draw, draw_objects
from fer_lib.files import InputError
from fer_lib.predict import faces
from fer_lib.predict.faces import Box, Cascade, YuNet, crop, make_detector, sorted_boxes

YUNET = os.environ.get("FER_DETECTOR", "")
needs_yunet = pytest.mark.skipif(
    not YUNET.endswith(".onnx"), reason="set FER_DETECTOR to YuNet's file to test it"
)


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch):
    monkeypatch.delenv("FER_DETECTOR", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


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


def test_a_folder_that_the_user_may_not_read_is_named(monkeypatch, fer_home):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    for question in ("exists", "is_file"):
        monkeypatch.setattr(Path, question, denied)
    with pytest.raises(InputError, match=r"closed/a\.onnx cannot be read \(Permission denied\)"):
        make_detector("closed/a.onnx")
    said = []
    assert isinstance(make_detector(say=said.append), Cascade)
    assert f"{fer_home / 'cache' / faces.YUNET} cannot be read (Permission denied)" in said[0]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local stand-in for both YuNet servers: its folder, the requested paths, and the file."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(faces, "YUNET_URLS", (f"{address}/first", f"{address}/second"))
    content = b"stands for YuNet's file"
    monkeypatch.setattr(faces, "YUNET_SHA256", hashlib.sha256(content).hexdigest())
    yield folder, asked, content
    server.shutdown()
    server.server_close()


def test_yunet_is_fetched_once_from_the_first_server_that_has_it(server, fer_home):
    folder, asked, content = server
    (folder / "second").write_bytes(content)
    said = []
    path = faces.fetch_yunet(said.append)
    assert path == fer_home / "cache" / faces.YUNET
    assert path.read_bytes() == content
    assert "/second" in said[0]
    number = len(asked)
    assert faces.fetch_yunet(said.append) == path
    assert len(asked) == number
    assert len(said) == 1


def test_a_download_with_another_sha256_is_refused(server, fer_home):
    folder, _, content = server
    (folder / "first").write_bytes(content[:-1])
    with pytest.raises(InputError, match="another SHA-256"):
        faces.fetch_yunet()
    assert not list(fer_home.rglob("*.onnx"))


def test_a_damaged_file_in_the_cache_is_fetched_again(server, fer_home):
    folder, _, content = server
    (fer_home / "cache").mkdir()
    (fer_home / "cache" / faces.YUNET).write_bytes(b"half")
    (folder / "first").write_bytes(content)
    assert faces.fetch_yunet(lambda _: None).read_bytes() == content


def test_the_cascade_is_used_and_reported_if_yunet_cannot_be_fetched(server):
    said = []
    detector = make_detector(say=said.append)
    assert isinstance(detector, Cascade)
    assert "could not be fetched" in said[0]
    assert said[1] == f"faces are found by {detector.name}"
    with pytest.raises(InputError, match="could not be fetched"):
        make_detector("yunet")


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    for name in ("FER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    said = []
    assert isinstance(make_detector(say=said.append), Cascade)
    assert said[0].endswith("this user has no home folder: set FER_HOME or HOME")


def test_a_download_reads_at_most_one_byte_more_than_the_file_has(monkeypatch):
    asked = []

    class Endless(io.BytesIO):
        def read(self, amount):
            asked.append(amount)
            return b"a" * amount

    monkeypatch.setattr(faces.urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(InputError, match="another SHA-256"):
        faces.fetch_yunet()
    assert asked == [faces.YUNET_BYTES + 1] * 2


def test_a_server_that_does_not_speak_http_counts_as_unavailable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            for _ in faces.YUNET_URLS:
                with listening.accept()[0] as asking:
                    asking.recv(4096)
                    asking.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setattr(faces, "YUNET_URLS", (address, address))
        with pytest.raises(InputError, match="nonsense"):
            faces.fetch_yunet()
        thread.join(5)


def test_yunet_is_stored_elsewhere_if_the_cache_cannot_be_written(server, fer_home):
    folder, _, content = server
    (folder / "first").write_bytes(content)
    (fer_home / "cache").touch()  # a file, which even root cannot use as a folder
    said = []
    path = faces.fetch_yunet(said.append)
    assert path.read_bytes() == content
    assert f"{fer_home / 'cache' / faces.YUNET} cannot be written" in said[0]
    assert f"put {path} there" in said[0]


@pytest.mark.parametrize("value", ["0", ""])
def test_hf_hub_offline_0_or_empty_allows_the_download(server, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    make_detector(say=lambda _: None)
    assert server[1]


def test_nothing_is_requested_offline(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = []
    make_detector(say=said.append)
    assert server[1] == []
    assert "HF_HUB_OFFLINE" in said[0]


def test_the_chosen_detector_is_used_without_a_download(server, monkeypatch):
    assert isinstance(make_detector("haar"), Cascade)
    monkeypatch.setenv("FER_DETECTOR", "haar")
    assert isinstance(make_detector(), Cascade)
    assert server[1] == []


def test_opencv_without_cascades_is_refused_with_a_remedy(server, monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(InputError, match="opencv-python-headless<5"):
        make_detector(say=lambda _: None)


def test_boxes_are_clipped_at_the_edge_of_the_picture():
    rows = [(-5.2, 3.6, 20.0, 10.0, 0.5), (95.0, 95.0, 20.0, 20.0, None), (200, 0, 9, 9, 0.9)]
    found = sorted_boxes(rows, (100, 100, 3))
    assert [one.box for one in found] == [(0, 4, 15, 10), (95, 95, 5, 5)]
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


@pytest.mark.parametrize(("channels", "mean"), [(1, 76), (3, 85)])
def test_a_crop_has_the_channels_of_the_training_images(channels, mean):
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    part = crop(red, Box(8, 8, 48, 48), 1.0, (channels, 24, 24))
    assert part.shape == (channels, 24, 24)
    assert part.mean() == mean
