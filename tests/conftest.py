"""Fixtures: a temporary home for every test, faces, runs and a report; helpers for a browser."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fer_lib.data import load_faces
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import InputError, write_json
from fer_lib.recipes import recipe
from fer_lib.runs import Run

# Tests run on the CPU, as in CI, even if there is a GPU. To run those that need one:
# CUDA_VISIBLE_DEVICES=0 python -m pytest tests/test_graph.py tests/test_train.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


LONGEST = ("test_notebooks", "browser", "test_train", "test_campaign", "report", "test_onnx")


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


def until(true):
    """Call a function until its result is true, and return it; fail after a minute."""
    end = time.monotonic() + 60
    while not (value := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


@pytest.fixture(autouse=True)
def fer_home(tmp_path_factory, monkeypatch):
    """Use a temporary folder, not `tmp_path`, for `data/`, `runs/` and kagglehub's downloads."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FER_HOME", str(folder))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(folder / "kagglehub"))
    return folder


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
        write_json(folder / "config.json", {"train": settings.to_dict(), "data": data})
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


DATASET = "sample-10-600"
RUN = ("baseline_cnn", "attention_cnn", "vit_patch")
"""Data and models of the runs in the fixture `report`."""

OF_WEIGHTS = {"robustness", "gates"}  # figures of results that take a run's weights to compute


def answer(faces, rows, share, rng) -> np.ndarray:
    """Return probabilities (n, 7) that favour the label on about `share` of the rows."""
    logits = rng.normal(size=(len(rows), 7))
    right = rng.random(len(rows)) < share
    logits[np.flatnonzero(right), faces.labels[rows[right]]] += 3
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def write_run(root: Path, faces, model: str, share: float, number: int) -> Run:
    """Write a finished run without weights, for a report."""
    rng = np.random.default_rng(number)
    config = recipe(model, "ours", "sample")
    valid, test = (answer(faces, faces.where(split), share, rng) for split in ("valid", "test"))
    predictions = Predictions.of(faces, valid, test)
    folder = root / f"20260102-03040{number}_{model}_{DATASET}_s0"
    data = {"dataset": faces.name, "classes": list(faces.classes), "counts": faces.counts()}
    data |= {"fingerprint": faces.fingerprint, "mark": faces.mark}
    environment = {"started": f"2026-01-02T03:04:0{number}+00:00", "commit": "0123456789abcdef+"}
    environment |= {"processor": "A processor", "torch": "2.0", "timm": "1.0", "precision": "no"}
    environment |= {"command": f"{root}/fer_lib/train.py {model} --runs {root}"}
    write_json(
        folder / "config.json",
        {"train": config.to_dict(), "data": data, "environment": environment},
    )
    save_predictions(folder / "predictions.npz", predictions)
    rows = [f"{epoch},{2 / epoch},{0.2 * epoch}" for epoch in (1, 2)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,valid_loss,valid_accuracy", *rows]))
    results = {key: getattr(config, key) for key in ("model", "recipe", "preset", "seed")}
    results |= {"mark": faces.mark, "dataset": faces.name, "classes": list(faces.classes)}
    results |= {"parameters": 1000 * number, "train_images": 480, "epochs": 2, "best_epoch": 2}
    results |= {"train_seconds": 90.0, "images_per_second": 10.7}
    results |= {part: evaluate(faces, predictions, part) for part in ("valid", "test")}
    write_json(folder / "results.json", results)
    return Run(folder)


def refine(faces) -> dict:
    """Return what notebook 02 would write, with three voters that are right on about two thirds."""
    from fer_lib.refine import rules, worth
    from fer_lib.refine.ballots import Ballots

    rows = faces.where("train")
    rng = np.random.default_rng(0)
    said = np.stack([answer(faces, rows, 0.67, rng) for _ in range(3)]).astype(np.float32)
    ballots = Ballots(("one", "two", "three"), said)
    labels, votes, classes = faces.labels[rows], faces.votes[rows], faces.classes
    split, truth = faces.split[rows], faces.truth[rows]
    made = rules.apply_rules(ballots, labels, classes, votes)
    students = [
        {"model": rule, "set": "all test images", "value": 0.5, "low": 0.4, "high": 0.6}
        for rule in ("original", *made)
    ]
    return {
        **{"dataset": faces.name, "mark": faces.mark, "fingerprint": faces.fingerprint},
        **{"kappa": 0.5, "voters": ballots.voters, "folds": 3, "students": students, "tests": []},
        "configs": [recipe("baseline_cnn", "ours", "sample").to_dict()] * 3,
        "voted": worth.voters_table(ballots, labels, votes).to_dict("index"),
        "rules": {r: o.settings for r, o in made.items()},
        "changed": {r: worth.changes(labels, split, o, classes) for r, o in made.items()},
        "against_truth": {r: worth.against_truth(labels, o, truth) for r, o in made.items()},
        "against_annotators": {
            r: worth.against_annotators(labels, o, votes, classes) for r, o in made.items()
        },
        "agreement_not_accuracy": {"original": {"accuracy": 0.5, "agreement": 0.8}},
        "student": recipe("baseline_cnn", "ours", "sample").to_dict(),
    }  # fmt: skip


@pytest.fixture(scope="session")
def report_home(tmp_path_factory) -> Path:
    """A FER_HOME with drawn faces, audit, refinement, a comparison of three runs and a report."""
    from fer_lib.compare import comparison, write_comparison
    from fer_lib.data.audit import audit
    from fer_lib.report.build import build
    from fer_lib.report.collect import collect

    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(root))
        patch.setattr("fer_lib.compare.writing.figures", lambda compared: {})  # not needed here
        faces = load_faces(DATASET, say=lambda line: None)
        kept = {"dataset": DATASET, "mark": faces.mark, "fingerprint": faces.fingerprint}
        folder = root / "data" / DATASET
        write_json(folder / "audit.json", kept | audit(faces, threshold=0.95))
        write_json(folder / "refinement.json", refine(faces))
        runs = [
            write_run(root / "runs", faces, model, share, number)
            for number, (model, share) in enumerate(zip(RUN, (0.6, 0.7, 0.4), strict=True), 1)
        ]
        write_comparison(
            root / "runs" / f"comparison_{DATASET}_sample", comparison(runs, faces, every=runs)
        )
        collect(root / "report", dataset=DATASET, preset="sample")
        build(root / "report")
    return root


@pytest.fixture
def report(report_home, tmp_path) -> Path:
    """A copy of the report that a test may change, with results, figures and PDF."""
    return Path(shutil.copytree(report_home / "report", tmp_path / "report"))


def run_file(report: Path, model: str) -> Path:
    """Return the file of the only run of a model in a report."""
    (path,) = (report / "results").glob(f"*_{model}_*.json")
    return path
