"""Fixtures for tests of the report: a report of three runs on drawn faces, without weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_lib.data import load_faces
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import write_json
from fer_lib.recipes import recipe
from fer_lib.runs import Run

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
        "agreement_not_accuracy": {
            "original": {"accuracy": 0.5, "agreement": 0.8},
            "refined_majority": {"accuracy": 0.4, "agreement": 0.9},
        },
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
