"""Where a run comes from: the digest of the code, and the commits that trained it."""

import ast
import inspect
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import small

import fer_lib
from fer_lib import provenance
from fer_lib.checkpoints import load_state, load_weights
from fer_lib.data.audit import clean_test_ids
from fer_lib.data.copies import copy_groups
from fer_lib.evaluate import evaluate, load_predictions
from fer_lib.evaluate.abstention import operating_point
from fer_lib.evaluate.calibration import exact
from fer_lib.kept import keep_results, results_table
from fer_lib.learner import Learner
from fer_lib.provenance import CODE
from fer_lib.runs import STAGE, list_runs
from fer_lib.train import train
from fer_lib.training import Training

pytestmark = pytest.mark.usefixtures("undrawn_runs")


def test_the_code_digest_ignores_comments_docstrings_and_line_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    digests = []
    for text in (
        'RATE = 0.1\n"""What it is."""\ndef f(x):\n    return RATE * x\n',
        '"""A module."""\nRATE = 0.1  # a reason\n\n\ndef f(x):\n    "It."\n    return RATE * x\n',
        "RATE = 0.2\ndef f(x):\n    return RATE * x\n",
    ):
        (tmp_path / "one.py").write_text(text)
        digests.append(provenance.code_digest(("one",)))
    assert digests[0] == digests[1] != digests[2]


def test_the_code_digest_covers_training_restoring_and_scoring():
    folder = Path(fer_lib.__file__).parent
    found = {name: set(folder.glob(f"{name}.py")) for name in CODE}
    assert all(found.values())
    files = set().union(*found.values())
    trains = (train, Training, Learner, load_state, load_weights)
    scores = (load_predictions, evaluate, operating_point, exact, clean_test_ids, copy_groups)
    for one in (*trains, *scores):
        assert Path(inspect.getfile(inspect.unwrap(one))) in files, one


def test_the_code_digest_covers_what_its_modules_import():
    """Modules that do not count are named here, so that a new one is counted or added."""
    folder = Path(fer_lib.__file__).parent
    files = {path for name in CODE for path in folder.glob(f"{name}.py")}
    used = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fer_lib."):
                module = folder.parent.joinpath(*node.module.split("."))
                used.add(module / "__init__.py" if module.is_dir() else module.with_suffix(".py"))
    # They read data, whose fingerprint is kept; settings, which are kept; or write what was found.
    apart = {"data/__init__", "data/faceset", "data/pictures", "data/rows", "labels"}
    apart |= {"arguments", "given", "recipes", "starts"}
    apart |= {"evaluate/__init__", "files", "provenance", "runs"}
    assert used - files == {folder / f"{name}.py" for name in apart}


def test_all_of_the_environment_that_numbers_depend_on_is_recorded_again():
    known = set(provenance.describe_environment(small()))
    apart = {"started", "command", "platform", "pretrained_sha256"}
    assert known - apart | {"transformers"} == set(STAGE)  # of a pretraining


def test_a_resumed_run_records_each_commit_that_trained_it(faces, tmp_path, monkeypatch):
    for epoch, commit in enumerate(("a", "a", "b")):
        monkeypatch.setenv("FER_COMMIT", commit)
        monkeypatch.setattr(provenance, "processor", lambda name=commit: f"CPU {name}")
        one_epoch = Training.one_epoch

        def stop_at_second(self, number, one_epoch=one_epoch, last=epoch):
            if number > last:
                raise KeyboardInterrupt
            return one_epoch(self, number)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(Training, "one_epoch", stop_at_second)
            train(small(epochs=3), faces, runs=tmp_path)
    (run,) = list_runs(tmp_path)
    assert run.config["environment"]["commit"] == "a"
    (resumed,) = run.config["resumed"]
    assert (resumed["after_epoch"], resumed["commit"]) == (2, "b")
    keep_results(run, tmp_path / "kept")
    row = results_table(tmp_path / "kept").iloc[0]
    version = run.config["environment"]["torch"]
    assert row["commit"] == "a, b"
    assert row["on"] == f"CPU a, torch {version}; CPU b, torch {version}"


def test_a_run_stopped_in_its_first_epoch_has_the_environment_that_trained_it(
    faces, tmp_path, monkeypatch, capsys
):
    def stop(self, number):
        raise KeyboardInterrupt

    monkeypatch.setenv("FER_COMMIT", "a")
    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(Training, "one_epoch", stop)
        train(small(epochs=1), faces, runs=tmp_path)
    monkeypatch.setenv("FER_COMMIT", "b")
    monkeypatch.setattr("fer_lib.train.code_digest", lambda: "another")
    run = train(small(epochs=1), faces, runs=tmp_path)
    assert run.config["environment"]["commit"] == "b"
    assert "resumed" not in run.config
    assert "by other code" not in capsys.readouterr().out


def test_a_copy_outside_git_takes_its_commit_from_the_environment(monkeypatch):
    def no_git(*arguments, **named):
        raise FileNotFoundError

    monkeypatch.delenv("FER_COMMIT", raising=False)
    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert provenance.git_commit() is None
    monkeypatch.undo()  # FER_COMMIT also comes before the commit of a checkout
    monkeypatch.setenv("FER_COMMIT", "0123abcd")
    assert provenance.git_commit() == "0123abcd"


def test_a_commit_is_marked_if_files_differ_from_it(monkeypatch, tmp_path):
    said = {"rev-parse": "0123abcd\n", "status": ""}
    git = lambda command, **_: SimpleNamespace(
        stdout=said["status" if "status" in command else "rev-parse"]
    )
    monkeypatch.delenv("FER_COMMIT", raising=False)
    monkeypatch.setattr(provenance.subprocess, "run", git)
    assert provenance.git_commit() == "0123abcd"
    said["status"] = " M fer_lib/train.py\n"
    assert provenance.git_commit() == "0123abcd+"
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "fer_lib" / "provenance.py"))
    assert provenance.git_commit() is None  # installed, in an environment within another checkout


def test_a_cpu_is_named_with_its_vector_instructions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = []
    for vectors in ("DEFAULT", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda known=vectors: known)
        names.append(provenance.processor())
    assert names[1] == f"{names[0]} (AVX2)"
