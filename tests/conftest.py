"""Fixtures: faces, real data, runs; helpers for clocks, trainings and a browser."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fer_lib.config import TrainConfig
from fer_lib.data import load_faces
from fer_lib.data.faceset import FaceSet
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import InputError, write_json
from fer_lib.recipes import recipe
from fer_lib.runs import Run, RunFolder

pytest_plugins = ("campaign_fixtures", "isolation_fixtures", "report_fixtures")

# Tests run on the CPU, as in CI, even if there is a GPU. To run those that need one:
# CUDA_VISIBLE_DEVICES=0 python -m pytest tests/test_graph.py tests/test_learner.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Pages and files that a test serves are not asked for through a proxy.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


LONGEST = (
    "test_notebooks",
    "browser",
    "test_campaign",
    "test_device",
    "test_training",
    "report",
    "test_onnx",
    "test_learner",
)


def pytest_itemcollected(item):
    """Run the tests of a module in one process, so that what they share is made once."""
    if not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_modifyitems(items):
    """Run the groups that take longest first, so that none of them is left for the end."""

    def place(item) -> int:
        (group,) = item.get_closest_marker("xdist_group").args
        return LONGEST.index(group) if group in LONGEST else len(LONGEST)

    items.sort(key=place)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_it_answers(server: subprocess.Popen, address: str, log: Path) -> None:
    """Wait at most two minutes until a page is served; if it is not, fail with the server's log."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
    pytest.fail(log.read_text())


@contextmanager
def served(command: list, address: str, log: Path, **options):
    """Run a server during the block, which begins when it answers at `address`."""
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, **options)
    try:
        wait_until_it_answers(server, address, log)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def until(true, seconds: float = 60):
    """Call a function until its result is true, and return it; fail after some seconds."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def ticks(seen: list) -> Callable[[], float]:
    """Return a clock that adds "clock" to a list each time it is read; the list is its time."""
    return lambda: seen.append("clock") or float(len(seen))


@pytest.fixture(scope="session")
def fer_data() -> Path:
    """The folder FER_DATA of the real FER2013; without it, the test is skipped."""
    if not os.environ.get("FER_DATA"):
        pytest.skip("set FER_DATA to a folder with fer2013.csv and fer2013new.csv")
    return Path(os.environ["FER_DATA"])


@pytest.fixture
def no_detector_asked_for(monkeypatch):
    """Unset the environment variable that says which face detector to use."""
    monkeypatch.delenv("FER_DETECTOR", raising=False)


@pytest.fixture
def refused(fer_home):
    """A function that loads bad data, checks that it writes nothing, and returns the message."""

    def load(dataset, path):
        before = sorted(fer_home.rglob("*"))
        with pytest.raises(InputError) as caught:
            load_faces(dataset, path, say=lambda line: None)
        assert sorted(fer_home.rglob("*")) == before
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        return message

    return load


def small(**changes) -> TrainConfig:
    """Return the settings of a small CNN for two epochs, some of them changed."""
    values = {"epochs": 2, "options": {"width": 4}, "batch_size": 32, "ema_decay": 0.0} | changes
    return recipe("baseline_cnn", "ours", "sample", **values)


def rows(run: RunFolder) -> list[dict]:
    """Return the rows of metrics.csv without the columns of times."""
    return run.metrics().drop(columns=["seconds", "train_seconds"]).to_dict("records")


@pytest.fixture(scope="session")
def faces() -> FaceSet:
    """300 drawn faces, for the tests of trainings; other modules define their own `faces`."""
    return make_sample(300)


@pytest.fixture(scope="session")
def smooth_noise():
    """A function that draws images of random blotches, all different."""

    def draw(n: int, side: int = 48, channels: int = 1) -> np.ndarray:
        """Return images (n, channels, side, side) uint8."""
        rng = np.random.default_rng(0)
        coarse = rng.integers(40, 200, (n, channels, side // 4, side // 4))
        fine = rng.integers(-15, 16, (n, channels, side, side))
        return (coarse.repeat(4, 2).repeat(4, 3) + fine).astype(np.uint8)

    return draw


@pytest.fixture
def noise() -> FaceSet:
    """Noise images with random labels and a mark: 40 for training, 100 validation, 400 test."""
    rng = np.random.default_rng(3)
    split = np.repeat(["train", "valid", "test"], [40, 100, 400])
    n = len(split)
    images = rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    images[-1] = images[0]  # a test image with a copy in training
    ids = np.array([f"face{row:04d}" for row in range(n)])
    manifest = {"mark": "sample data"}
    return FaceSet("noise", images, rng.integers(0, 7, n), split, ids, manifest=manifest)


@pytest.fixture
def make_run(tmp_path, noise) -> Callable[..., Run]:
    """A function that makes a finished run, without weights, with given predictions.

    They are right on all test images except `wrong`, and on the last `valid` (a share) of the
    validation images; or they are the given `probabilities` for validation and test.
    """

    def make(
        wrong: slice = slice(0),
        *,
        valid: float = 0.5,
        time: str = "1",
        mark: str = "sample data",
        dataset: str = "noise",
        preset: str = "sample",
        name: str = "ours",
        probabilities: tuple[np.ndarray, np.ndarray] | None = None,
        faces: FaceSet = noise,
        **config,
    ) -> Run:
        settings = recipe(config.pop("model", "baseline_cnn"), name, preset, **config)
        answers = faces.labels.copy()
        test, held = faces.where("test"), faces.where("valid")
        answers[test[wrong]] += 1
        answers[held[: round((1 - valid) * len(held))]] += 1
        sure = np.eye(7)[answers % 7]
        # The order differs from that of the faces, because predictions are matched by their ids.
        given = Predictions.of(faces, *(probabilities or (sure[held], sure[test])))
        backwards = {key: getattr(given, key)[::-1] for key in ("test_ids", "test_probabilities")}
        predictions = Predictions(**{**vars(given), **backwards})
        folder = tmp_path / f"{time}_{settings.model}_{dataset}_s{settings.seed}"
        data = {"fingerprint": faces.fingerprint, "classes": list(faces.classes)}
        config = {"train": settings.to_dict(), "data": data, "environment": {}}
        write_json(folder / "config.json", config)
        save_predictions(folder / "predictions.npz", predictions)
        results = {
            **{key: getattr(settings, key) for key in ("model", "recipe", "preset", "seed")},
            **{"parameters": 7, "train_images": 64, "epochs": 2, "mark": mark, "dataset": dataset},
            **{part: evaluate(faces, predictions, part) for part in ("valid", "test")},
        }
        write_json(folder / "results.json", results)
        return Run(folder)

    return make


@pytest.fixture
def three_runs(make_run) -> list[Run]:
    """Runs right on 300, 340 and 299 of 400 test images; the first is best on validation."""
    return [
        make_run(slice(0, 100), valid=0.8),
        make_run(slice(60, 120), model="attention_cnn", time="2"),
        make_run(slice(0, 101), seed=1, time="3"),
    ]


@pytest.fixture
def undrawn_runs():
    """Train without drawing figures, which takes most of the time of a short training."""
    drawn = dict.fromkeys(("learning_curve", "confusion_matrix", "save"), lambda *_, **__: None)
    with pytest.MonkeyPatch.context() as patch:  # some tests undo the `monkeypatch` fixture
        patch.setattr("fer_lib.training.plots", SimpleNamespace(**drawn))
        yield


@pytest.fixture
def kept_states():
    """Leave in each finished run the state from which it would resume if it were not finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "forget_state", lambda self: None)
        yield


@pytest.fixture(scope="session")
def fitted():
    """A function that trains a model for a few steps, until it can tell drawn faces apart."""
    import torch

    from fer_lib.augment import Prepare
    from fer_lib.data.drawing import draw

    def fit(model: torch.nn.Module) -> torch.nn.Module:
        torch.manual_seed(0)
        labels = np.arange(42) % 7
        x = Prepare(model.pretrained_cfg)(torch.from_numpy(draw(labels, 0, rough=0.5)))
        targets = torch.eye(7)[labels]
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 0.5
        model.train()
        for _ in range(15):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), targets)
            if hasattr(model, "auxiliary_losses"):
                loss = sum(model.auxiliary_losses(targets).values(), loss)
            loss.backward()
            optimizer.step()
        return model.eval()

    return fit
