"""Both demos in a real browser, before a camera that plays a video of faces."""

import io
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_lib.data import load_faces
from fer_lib.data.sample import draw, make_sample
from fer_lib.labels import EMOJI, EMOTIONS
from fer_lib.predict import Predictor
from fer_lib.predict.predictor import DEFAULT
from fer_lib.recipes import recipe
from fer_lib.train import train
from tests.test_jupyterlab import CHROMIUM, FLAGS

ROOT = Path(__file__).resolve().parent.parent
PERIOD = 3  # seconds of each expression in a video
RATE = 30  # frames a second, at which Chromium plays an MJPEG file
WAIT = 120_000  # milliseconds for anything on a page
STREAMLIT = ("-m", "streamlit", "run", ROOT / "demo/emoji_mirror.py", "--server.headless=true")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt install chromium)"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with one finished run, which tells drawn happy faces from sad ones."""
    folder = tmp_path_factory.mktemp("demos")
    faces = make_sample(1200, 0, wrong=0)
    faces = faces.subset(np.isin(faces.labels, [EMOTIONS.index(name) for name in ("happy", "sad")]))
    short = {"epochs": 18, "batch_size": 16, "lr": 0.003, "options": {"width": 16}}
    train(recipe("baseline_cnn", "ours", "sample", **short), faces, runs=folder / "runs")
    return folder


@contextmanager
def serve(home: Path, *command: str | Path, **variables: str):
    """Run a page on a free port, from a foreign folder, and give its address.

    Whatever the process itself asks for elsewhere goes to a proxy, which must not be called.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.setblocking(False)
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    env = os.environ | {"FER_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"http_proxy": address, "https_proxy": address, "no_proxy": "127.0.0.1,localhost"}
    env |= {name: value.format(port=port) for name, value in variables.items()}
    log = home / f"log_{port}"
    with open(log, "w") as file:
        server = subprocess.Popen(
            [sys.executable, *command], env=env, stdout=file, stderr=file, cwd=home
        )
    try:
        wait_until_it_answers(server, address := f"http://127.0.0.1:{port}", log)
        yield address
        with pytest.raises(BlockingIOError):  # nobody has called
            proxy.accept()
    finally:
        proxy.close()
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_until_it_answers(server: subprocess.Popen, address: str, log: Path) -> None:
    """Until a page is served; fails with what the process said."""
    for _ in range(480):
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def mirror(home):
    with serve(home, *STREAMLIT, STREAMLIT_SERVER_PORT="{port}") as address:
        yield address


@pytest.fixture(scope="module")
def gradio(home):
    (home / "tmp").mkdir()
    places = {"GRADIO_SERVER_PORT": "{port}", "TMPDIR": str(home / "tmp")}
    with serve(home, ROOT / "demo/gradio_app.py", **places) as address:
        yield address
        assert pictures(home / "tmp")
    assert not pictures(home / "tmp")  # none is kept


def pictures(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".webp", ".jpg")]


@pytest.fixture
def look(tmp_path):
    """Open a page before a camera that shows pictures (H, W) in turn; all it asks for is local."""
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
            page.goto(address)
            return page

        yield open_page
    elsewhere = {url for url in asked if not re.match(r"https?://127\.0\.0\.1:|data:|blob:", url)}
    assert not elsewhere


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    """Each picture (H, W) uint8 for `PERIOD` seconds, large in the middle of 640 by 480."""
    with open(path, "wb") as file:
        for picture in pictures:
            frame = Image.new("RGB", (640, 480), (128, 128, 128))
            frame.paste(Image.fromarray(picture).resize((360, 360), Image.LANCZOS), (140, 60))
            content = io.BytesIO()
            frame.save(content, "JPEG", quality=90)
            file.write(content.getvalue() * (PERIOD * RATE))


def drawn(*expressions: str) -> list[np.ndarray]:
    labels = np.array([EMOTIONS.index(name) for name in expressions])
    return list(draw(labels, 5, rough=0.3, size=360)[:, 0])


def wait_for(page, expression: str) -> None:
    """Until the page shows the emoji of an expression."""
    card = page.locator(f'.fer-card[data-expression="{expression}"]:visible')
    card.wait_for()
    card.get_by_text(EMOJI[expression], exact=True).wait_for()


def start_mirror(page) -> None:
    page.frame_locator("iframe").get_by_role("button", name="Start the camera").click()


def choose_run(page) -> None:
    """Choose the run of drawn faces instead of the default model."""
    page.get_by_label("Model").click()
    page.get_by_role("option", name="baseline_cnn on sample, sample data").click()


def test_the_mirror_shows_the_emoji_of_the_drawn_expression(mirror, look):
    page = look(mirror, drawn("happy", "sad"))
    choose_run(page)
    start_mirror(page)
    for expression in ("happy", "sad", "happy"):
        wait_for(page, expression)
    speed = page.get_by_text(re.compile(r"^[\d.]+ frames a second, \d+ ms each$")).inner_text()
    assert float(speed.split()[0]) > 0
    assert "data:image/svg+xml,%3Csvg" in page.locator(".fer-band").get_attribute("src")
    assert page.locator(".fer-bars .fer-fill").count() == len(EMOTIONS)
    page.get_by_text("no picture leaves it").wait_for()
    page.get_by_text("An expression is not an emotion").wait_for()


def test_the_mirror_reads_still_pictures_without_a_camera(mirror, look, tmp_path):
    page = look(mirror, drawn("happy"))
    choose_run(page)
    page.get_by_text("Still picture", exact=True).click()
    wait_for(page, "happy")
    page.get_by_test_id("stButtonGroup").get_by_text("sad", exact=True).click()
    wait_for(page, "sad")
    Image.fromarray(drawn("happy")[0]).save(tmp_path / "happy.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "happy.png")
    wait_for(page, "happy")
    (tmp_path / "broken.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
    page.get_by_text("broken.png cannot be read").wait_for()


def test_gradio_reads_a_picture_and_the_camera(gradio, look):
    page = look(gradio, drawn("happy", "sad"))
    choose_run(page)
    page.locator(".gallery-item").nth(EMOTIONS.index("happy")).click()
    wait_for(page, "happy")
    for label in ("Faces", "What the model looks at"):
        page.locator(".block", has_text=label).locator("img:visible").first.wait_for()
    page.get_by_role("tab", name="Live camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.get_by_role("button", name="capture photo").click()
    for expression in ("happy", "sad", "happy"):
        wait_for(page, expression)
    page.get_by_text("no picture leaves it").wait_for()


def real_faces(*expressions: str) -> list[np.ndarray]:
    """A face of FER2013 for each expression, of those that the default model names so."""
    if not os.environ.get("FER_DATA"):
        pytest.skip("FER_DATA is not set: a folder with fer2013.csv")
    if not DEFAULT.exists():
        pytest.skip("the default weights are not here")
    faces = load_faces("fer2013", os.environ["FER_DATA"], say=lambda line: None)
    test = faces.split == "test"
    predictor, found = Predictor.default(say=lambda line: None), []
    for name in expressions:
        rows = np.flatnonzero(test & (faces.labels == EMOTIONS.index(name)))[:60]
        p = predictor.probabilities(faces.images[rows])[:, predictor.classes.index(name)]
        found.append(faces.images[rows[p.argmax()], 0])
    return found


def test_the_mirror_shows_the_emoji_of_real_expressions(mirror, look):
    page = look(mirror, real_faces("happy", "surprise"))
    start_mirror(page)
    for expression in ("happy", "surprise", "happy"):
        wait_for(page, expression)
