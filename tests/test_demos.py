"""Both demos in a real browser, with a camera that plays a video of faces."""

import io
import os
import re
import runpy
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CHROMIUM, FLAGS, free_port, served
from PIL import Image

from fer_lib import cards
from fer_lib.data import load_faces
from fer_lib.data.drawing import draw
from fer_lib.data.sample import make_sample
from fer_lib.labels import EMOJI, EMOTIONS
from fer_lib.predict import Face, Predictor
from fer_lib.predict.faces import Box, make_detector
from fer_lib.predict.onnx import write_onnx
from fer_lib.recipes import recipe
from fer_lib.train import train

ROOT = Path(__file__).resolve().parent.parent
PERIOD = 5  # seconds for which a video shows each expression
RATE = 30  # frames per second at which Chromium plays an MJPEG file
WAIT = 120_000  # milliseconds to wait for anything on a page
STREAMLIT = ("-m", "streamlit", "run", ROOT / "demo/emoji_mirror.py", "--server.headless=true")
CONNECTIONS = """
window.connections = [];
window.RTCPeerConnection = new Proxy(window.RTCPeerConnection, {
  construct(target, given) {
    window.connections.push(given[0]?.iceServers ?? []);
    return new target(...given);
  },
});
"""  # records the ICE servers of each WebRTC connection of a page

for package in ("gradio", "streamlit_webrtc"):
    pytest.importorskip(package, reason=f"{package} is in the demo extra")

pytestmark = pytest.mark.xdist_group("browser")  # one at a time


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A FER_HOME with a run that tells happy drawn faces from sad ones, and its ONNX file."""
    folder = tmp_path_factory.mktemp("demos")
    faces = make_sample(1200, 0, wrong=0)
    faces = faces.subset(np.isin(faces.labels, [EMOTIONS.index(name) for name in ("happy", "sad")]))
    short = {"epochs": 18, "batch_size": 16, "lr": 0.003, "options": {"width": 16}}
    run = train(recipe("baseline_cnn", "ours", "sample", **short), faces, runs=folder / "runs")
    write_onnx(folder / "runs/small.onnx", Predictor.of(run.folder, detector="haar"))
    return folder


def asked(proxy: socket.socket) -> bytes:
    """Return the beginning of the first request to a proxy; b"" if there was none."""
    try:
        caller, _ = proxy.accept()
    except BlockingIOError:
        return b""
    with caller:
        caller.settimeout(5)
        return caller.recv(200)


@contextmanager
def serve(home: Path, *command: str | Path, **variables: str):
    """Serve a page on a free port, from a folder outside the checkout, and yield its address.

    Requests of the process to other hosts go to a proxy, which must not be called.
    """
    port = str(free_port())
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.setblocking(False)
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    env = os.environ | {"FER_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"http_proxy": address, "https_proxy": address, "no_proxy": "127.0.0.1,localhost"}
    env |= {name: value.format(port=port) for name, value in variables.items()}
    log, address = home / f"log_{port}", f"http://127.0.0.1:{port}"
    with proxy, served([sys.executable, *command], address, log, env=env, cwd=home):
        yield address
        assert asked(proxy) == b""


@pytest.fixture(scope="module")
def mirror(home):
    with serve(home, *STREAMLIT, STREAMLIT_SERVER_PORT="{port}") as address:
        yield address


@pytest.fixture(scope="module")
def gradio(home):
    (home / "tmp").mkdir()
    places = {"GRADIO_SERVER_PORT": "{port}", "TMPDIR": str(home / "tmp")}
    with serve(home, ROOT / "demo/gradio_app.py", no_proxy="", **places) as address:
        yield address
    assert not pictures(home / "tmp")  # all have been deleted


def pictures(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".webp", ".jpg")]


@pytest.fixture
def look(tmp_path):
    """A function that opens a page with a camera that shows pictures (H, W) in turn.

    It is an error if the page requests anything from another host.
    """
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
    with sync_api.sync_playwright() as playwright:
        asked = set()

        def open_page(address: str, pictures: list[np.ndarray]):
            write_video(tmp_path / "camera.mjpeg", pictures)
            camera = (
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}",
            )
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *camera])
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(WAIT)
            page.on("request", lambda request: asked.add(request.url))
            page.add_init_script(CONNECTIONS)
            page.goto(address)
            return page

        yield open_page
    elsewhere = {url for url in asked if not re.match(r"https?://127\.0\.0\.1:|data:|blob:", url)}
    assert not elsewhere


def frame_of(picture: np.ndarray) -> Image.Image:
    """Return a frame of 640 by 480 pixels with a picture (H, W) uint8 in the middle."""
    frame = Image.new("RGB", (640, 480), (128, 128, 128))
    frame.paste(Image.fromarray(picture).resize((360, 360), Image.LANCZOS), (140, 60))
    return frame


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    """Write a video that shows each picture for `PERIOD` seconds."""
    with open(path, "wb") as file:
        for picture in pictures:
            content = io.BytesIO()
            frame_of(picture).save(content, "JPEG", quality=90)
            file.write(content.getvalue() * (PERIOD * RATE))


def drawn(*expressions: str) -> list[np.ndarray]:
    labels = np.array([EMOTIONS.index(name) for name in expressions])
    return list(draw(labels, 5, rough=0.3, size=360)[:, 0])


def wait_for(page, expression: str) -> None:
    """Wait until the page shows the emoji of an expression."""
    card = page.locator(f'.fer-card[data-expression="{expression}"]:visible')
    card.wait_for()
    card.get_by_text(EMOJI[expression], exact=True).wait_for()


def start_mirror(page) -> None:
    page.frame_locator("iframe").get_by_role("button", name="Start the camera").click()


def start_gradio(page) -> None:
    page.get_by_role("tab", name="Live camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.get_by_role("button", name="capture photo").click()


def choose(page, name: str = "_baseline_cnn_sample_s0, sample data") -> None:
    """Choose a model by a part of its name, by default the run on drawn faces."""
    page.get_by_label("Model").click()
    page.get_by_role("option", name=name).click()


def test_the_mirror_shows_the_emoji_of_a_drawn_expression(mirror, look):
    page = look(mirror, drawn("happy", "sad"))
    choose(page)
    start_mirror(page)
    for expression in ("happy", "sad", "happy"):
        wait_for(page, expression)
    speed = page.get_by_text(re.compile(r"^\d+\.\d frames a second, \d+ ms each$")).inner_text()
    assert float(speed.split()[0]) > 0
    frames = [frame.evaluate("window.connections ?? []") for frame in page.frames]
    made = [servers for connections in frames for servers in connections]
    assert made
    assert not any(made)  # no STUN or TURN server is used
    assert "data:image/svg+xml,%3Csvg" in page.locator(".fer-band").get_attribute("src")
    assert page.locator(".fer-bars .fer-fill").count() == len(EMOTIONS)
    page.get_by_text("no picture leaves it").wait_for()
    page.get_by_text("An expression is not an emotion").wait_for()


def test_the_mirror_reads_still_pictures_without_a_camera(mirror, look, tmp_path):
    page = look(mirror, drawn("happy"))
    choose(page)
    page.get_by_text("Still picture", exact=True).click()
    wait_for(page, "happy")
    page.get_by_test_id("stButtonGroup").get_by_text("sad", exact=True).click()
    wait_for(page, "sad")
    Image.fromarray(drawn("happy")[0]).save(tmp_path / "happy.tiff")
    page.locator("input[type=file]").set_input_files(tmp_path / "happy.tiff")
    wait_for(page, "happy")
    page.get_by_text("To choose a drawn face, remove the file").wait_for()
    assert not page.get_by_test_id("stButtonGroup").get_by_text("sad", exact=True).count()
    (tmp_path / "broken.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
    page.get_by_text("broken.png cannot be read").wait_for()


def test_gradio_reads_a_picture_with_a_run_and_an_onnx_file(gradio, look, home):
    page = look(gradio, drawn("happy", "sad"))
    choose(page)
    page.locator(".gallery-item").nth(EMOTIONS.index("happy")).click()
    wait_for(page, "happy")
    for label in ("Faces", "What the model looks at"):
        page.locator(".block", has_text=label).locator("img:visible").first.wait_for()
    assert pictures(home / "tmp")  # the fixture checks that they are deleted
    choose(page, "small.onnx")
    page.get_by_text("A map needs the torch model").first.wait_for()
    wait_for(page, "happy")


def test_gradio_shows_why_a_file_cannot_be_read(gradio, look, tmp_path):
    page = look(gradio, drawn("happy"))
    (tmp_path / "broken.png").write_text("no picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
    page.get_by_text("broken.png cannot be read").wait_for()
    page.get_by_text("Choose a picture, or one of the drawn faces").wait_for()


def test_gradio_reads_the_camera_and_writes_no_frame(gradio, look, home):
    page = look(gradio, drawn("happy", "sad"))
    choose(page)
    start_gradio(page)
    wait_for(page, "happy")
    before = pictures(home / "tmp")
    for expression in ("sad", "happy"):
        wait_for(page, expression)
    page.locator(".fer-picture:visible").wait_for()
    now = pictures(home / "tmp")  # fewer if the page has deleted some meanwhile
    assert set(now) <= set(before)
    page.get_by_text("no picture leaves it").wait_for()


@pytest.fixture(scope="module")
def real_faces(fer_data) -> list[np.ndarray]:
    """The happy and the surprised FER2013 test face that the default model is surest of.

    Faces that the pages' detector does not find in a frame are skipped: the Haar cascade misses
    some.
    """
    faces = load_faces("fer2013", fer_data, say=lambda line: None)
    test = faces.split == "test"
    detector = make_detector(os.environ.get("FER_DETECTOR") or "haar", say=lambda line: None)
    predictor, found = Predictor.default(detector=detector), []
    for name in ("happy", "surprise"):
        rows = np.flatnonzero(test & (faces.labels == EMOTIONS.index(name)))[:60]
        p = predictor.probabilities(faces.images[rows])[:, predictor.classes.index(name)]
        pictures = (faces.images[row, 0] for row in rows[np.argsort(-p)])
        found.append(next(one for one in pictures if detector(np.asarray(frame_of(one)))))
    return found


@pytest.mark.parametrize(("name", "start"), [("mirror", start_mirror), ("gradio", start_gradio)])
def test_both_pages_show_the_emoji_of_real_expressions(name, start, real_faces, look, request):
    page = look(request.getfixturevalue(name), real_faces)
    start(page)
    for expression in ("happy", "surprise", "happy"):
        wait_for(page, expression)


@pytest.mark.parametrize("name", ["mirror", "gradio"])
def test_another_machine_cannot_reach_a_page(name, request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # sends nothing, but selects the address
        except OSError:
            pytest.skip("this machine has only its loopback")
        own = outward.getsockname()[0]
    port = int(request.getfixturevalue(name).rsplit(":")[-1])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own, port), timeout=5)


@pytest.fixture(scope="module")
def scripts() -> dict[str, SimpleNamespace]:
    """The names that each of the two scripts defines, by script; no page is served."""
    paths = (ROOT / "demo").glob("*.py")
    return {path.stem: SimpleNamespace(**runpy.run_path(str(path))) for path in paths}


def test_the_mirror_warns_of_settings_that_break_its_privacy(scripts):
    from streamlit.config import get_option, set_option

    leak = scripts["emoji_mirror"].leak
    names = ("browser.gatherUsageStats", "server.address")
    before = {name: get_option(name) for name in names}
    try:
        for stats, address, said in (
            (True, "127.0.0.1", "usage statistics"),
            (False, "0.0.0.0", "Other machines"),
            (False, None, "Other machines"),
            (False, "127.0.0.1", ""),
        ):
            set_option(names[0], stats)
            set_option(names[1], address)
            assert said in leak()
            assert bool(leak()) == bool(said)
    finally:
        for name, value in before.items():
            set_option(name, value)


def test_an_unreadable_frame_is_returned_and_its_error_is_stored(scripts):
    def fail(frame):
        raise RuntimeError("out of memory")

    mirror = SimpleNamespace(look=fail)
    processor = scripts["emoji_mirror"].Processor(mirror)
    frame = scripts["emoji_mirror"].VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
    assert processor.recv(frame) is frame
    assert "out of memory" in str(processor.error)
    mirror.look = lambda frame: frame
    processor.recv(frame)
    assert processor.error is None


def test_gradio_runs_one_event_at_a_time_on_a_model_and_deletes_files(scripts, monkeypatch):
    monkeypatch.setenv("FER_DETECTOR", "haar")
    page = scripts["gradio_app"].page()
    events = [event for event in page.fns.values() if event.name in ("read", "watch")]
    assert len(events) == 3
    assert {(event.concurrency_id, event.concurrency_limit) for event in events} == {("model", 1)}
    assert page.delete_cache == (30, 60)
    labels = [part["props"].get("label") for part in page.get_config_file()["components"]]
    assert any("Drawn faces: sample data" in str(label) for label in labels)


def test_gradio_says_in_one_sentence_that_its_port_is_in_use(scripts, monkeypatch):
    def launch(**options):
        raise OSError("Cannot find empty port in range: 1-1. You can specify another")

    main = scripts["gradio_app"].main
    monkeypatch.setitem(main.__globals__, "page", lambda: SimpleNamespace(launch=launch))
    monkeypatch.setitem(main.__globals__, "end_as_interrupted", lambda: None)
    for name in ("GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(SystemExit, match=r"^error: no port .* in range: 1-1\): end the program"):
        main()


def face(x: int, side: int, expression: str) -> Face:
    p = {"happy": 0.1, "sad": 0.1} | {expression: 0.9}
    return Face(Box(x, 0, side, side), p, expression, "", True, None, np.zeros((1, 4, 4)))


class StandIn:
    """A predictor that finds the given faces, in turn."""

    threshold, classes, model = 0.5, ("happy", "sad"), None

    def __init__(self, *frames: list[Face]):
        self.frames = iter(frames)

    def __call__(self, frame):
        return next(self.frames)


@pytest.mark.parametrize(("number", "said"), [(1, ""), (4, ""), (6, "4 largest of 6 faces")])
def test_gradio_numbers_the_faces_and_says_that_it_shows_only_some(scripts, number, said):
    read = scripts["gradio_app"].read
    read.__globals__["load"] = lambda name: StandIn([face(0, 90, "happy")] * number)
    html = read(Image.new("L", (99, 99)), "any")[0]
    assert html.count('data-expression="happy"') == min(number, 4)
    assert ("face 4" in html) == (number > 1)
    assert said in html
    assert bool(said) == ("largest" in html)


def test_gradio_keeps_following_a_face_when_a_larger_one_appears(scripts):
    frames = [face(0, 90, "happy")], [face(300, 150, "sad"), face(5, 90, "happy")]
    stand_in = StandIn(*frames)
    watch = scripts["gradio_app"].watch
    watch.__globals__["load"] = lambda name: stand_in
    state, picture = None, Image.new("L", (9, 9))
    for _ in range(2):
        html, maps, state = watch(picture, "any", state)
    assert cards.card("happy", note="one of 2 faces is read here") in html
    assert maps == scripts["gradio_app"].NO_MAP
