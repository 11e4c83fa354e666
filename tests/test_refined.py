"""Tests of refined labels: on disk, in training, and never in validation or test."""

import ast
import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fer_lib import learner, runs
from fer_lib.batches import training_targets
from fer_lib.compare import paired_tests
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.data.refined import Refined, load_refined, refined_by, refined_path, save_refined
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import evaluate, load_predictions
from fer_lib.evaluate.scores import metrics
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.learner import Learner
from fer_lib.recipes import recipe
from fer_lib.refine import worth
from fer_lib.runs import find_run
from fer_lib.train import main, train

PACKAGE = Path(learner.__file__).parent

pytestmark = pytest.mark.usefixtures("undrawn_runs")


@pytest.fixture
def faces(faces) -> FaceSet:
    """A copy of the drawn faces, which a test may change."""
    return copy.deepcopy(faces)


def turned(faces: FaceSet, split: str | None = "train", rule: str = "turned") -> Refined:
    """Return refined labels that are all wrong: each is the class after the original one."""
    rows = slice(None) if split is None else faces.where(split)
    labels = (faces.labels[rows] + 1) % len(faces.classes)
    soft = np.full((len(labels), len(faces.classes)), 0.05, np.float32)
    soft[np.arange(len(labels)), labels] = 0.7
    return Refined(rule, labels, soft, np.full(len(labels), "turned"), {"by": 1})


def tiny(**changes) -> TrainConfig:
    changes = {"epochs": 1, "options": {"width": 4}} | changes
    return recipe("baseline_cnn", "ours", "sample", **changes)


def test_refined_labels_are_loaded_as_they_were_saved(faces):
    refined = turned(faces)
    path = save_refined(faces, faces.where("train"), refined, ("one voter",))
    assert path == refined_path("sample", "turned")
    again = load_refined(faces, "turned")
    assert (again.labels == refined.labels).all()
    assert (again.soft == refined.soft).all()
    assert again.reasons.tolist() == refined.reasons.tolist()
    assert (again.rule, again.settings) == ("turned", {"by": 1})
    with np.load(path) as file:
        assert file["ids"].tolist() == faces.ids[faces.where("train")].tolist()
        assert '"voters": ["one voter"]' in str(file["manifest"])
        assert faces.fingerprint in str(file["manifest"])


def test_a_training_names_the_voters_of_its_labels_without_their_settings(faces):
    voters = ("baseline_cnn s0, 3 folds: epochs=18 lr=0.008", "someone/face-classifier")
    refined = turned(faces)
    save_refined(faces, faces.where("train"), refined, voters)
    number = f"{len(refined.labels):,}"
    assert refined_by(faces, "refined_turned") == (
        f"labels refined_turned: {number} of {number} changed, "
        "by baseline_cnn s0, 3 folds, someone/face-classifier"
    )


def test_only_labels_of_exactly_the_training_images_are_written(faces):
    train, test, every = faces.where("train"), faces.where("test"), np.arange(len(faces))
    for rows, labels in (
        *((every, turned(faces, None)), (train, turned(faces, None))),
        *((test, turned(faces, "test")), (train, turned(faces, "test"))),
        (every[-len(train) :], turned(faces)),  # as many as there are training images
    ):
        with pytest.raises(InputError, match="never written"):
            save_refined(faces, rows, labels, ())
    assert not refined_path("sample", "turned").exists()


def test_other_refined_labels_are_named_if_those_of_a_rule_are_missing(faces):
    for rule in ("soft", "majority"):
        save_refined(faces, faces.where("train"), turned(faces, rule=rule), ())
    text = "refined_majorty.npz does not exist: train with labels refined_majority, refined_soft "
    with pytest.raises(InputError, match=f"{text}or original .--labels; refined in notebook 07"):
        load_refined(faces, "majorty")


def test_a_missing_or_damaged_file_or_one_of_other_images_is_refused(faces):
    with pytest.raises(InputError, match=r"refined_turned.npz does not exist: refine the labels"):
        load_refined(faces, "turned")
    path = save_refined(faces, faces.where("train"), turned(faces), ())
    with np.load(path) as file:
        arrays = dict(file)
    held_out = np.concatenate([arrays["ids"][:-1], faces.ids[faces.where("test")][:1]])
    np.savez(path, **arrays | {"ids": held_out})
    with pytest.raises(InputError, match="was not made for the training images of sample"):
        load_refined(faces, "turned")
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="was not made for the training images of sample"):
        load_refined(make_sample(300, seed=1), "turned")
    foreign = np.full_like(arrays["labels"], 7)
    for bad in ({"soft": arrays["soft"][:, :3]}, {"soft": arrays["soft"] * 2}, {"labels": foreign}):
        np.savez(path, **arrays | bad)
        with pytest.raises(InputError, match="is damaged"):
            load_refined(faces, "turned")
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="is damaged"):
        load_refined(faces, "turned")


def test_targets_are_hard_or_soft_and_for_training_images_only(faces):
    save_refined(faces, faces.where("train"), turned(faces), ())
    rows = faces.where("train")[::3]
    hard = training_targets(faces, rows, "refined_turned")
    assert (hard == np.eye(7)[(faces.labels[rows] + 1) % 7]).all()
    soft = training_targets(faces, rows, "refined_turned:soft")
    assert soft.max(1) == pytest.approx(0.7)
    assert (soft.argmax(1) == hard.argmax(1)).all()
    for split in ("valid", "test"):
        with pytest.raises(InputError, match="validation and test keep their own"):
            training_targets(faces, faces.where(split)[:1], "refined_turned")
    with pytest.raises(InputError, match="not 'refined_Turned soft'"):
        tiny(labels="refined_Turned soft")


def test_refined_labels_do_not_enter_validation_or_test_accuracy(faces, tmp_path):
    """A model trained on labels that are all wrong is still scored against the original ones."""
    before = faces.labels.copy()
    save_refined(faces, faces.where("train"), turned(faces), ())
    learned = Learner(tiny(labels="refined_turned"), faces)
    wrong = (before + 1) % 7
    assert (learned.batches.targets.argmax(1).numpy() == wrong[faces.where("train")]).all()
    assert (learned.held_out.labels.numpy() == before[faces.where("valid")]).all()

    run = train(tiny(labels="refined_turned", epochs=3, precision="no"), faces, runs=tmp_path)
    assert (faces.labels == before).all()
    predictions = load_predictions(run.folder / "predictions.npz")
    for split in ("valid", "test"):
        p, rows = getattr(predictions, f"{split}_probabilities"), faces.where(split)
        reported = run.results[split]["full"]
        assert reported["confusion"] == metrics(p, before[rows], EMOTIONS)["confusion"]
        assert reported["confusion"] != metrics(p, wrong[rows], EMOTIONS)["confusion"]
    assert run.metrics()["valid_accuracy"].max() == pytest.approx(
        run.results["valid"]["full"]["accuracy"], abs=1e-6
    )
    assert run.results["labels"] == "refined_turned"


def test_labels_that_were_changed_in_memory_are_refused(faces, tmp_path):
    run = train(tiny(), faces, runs=tmp_path)
    predictions = load_predictions(run.folder / "predictions.npz")
    for split in SPLITS:
        changed = replace(faces, labels=faces.labels.copy())
        changed.labels[faces.where(split)[0]] = (faces.labels[faces.where(split)[0]] + 1) % 7
        with pytest.raises(InputError, match="was changed after it was loaded"):
            evaluate(changed, predictions)
        with pytest.raises(InputError, match="was changed after it was loaded"):
            train(tiny(), changed, runs=tmp_path)
        with pytest.raises(InputError, match="was changed after it was loaded"):
            paired_tests([run, run], changed)
        with pytest.raises(InputError, match="was changed after it was loaded"):
            worth.agreement(run, changed, faces.where("test"), turned(faces, "test"))
    # Other labels with their own fingerprint are other data, of which there is no run.
    rows = np.arange(len(faces))
    other = faces.subset(rows)
    other.labels = (other.labels + 1) % 7
    assert find_run(tiny(), other, tmp_path) is None


def test_only_the_targets_of_a_training_read_refined_labels():
    """A new reader in the package has to be added here; notebooks must not have any."""
    names = ("load_refined", "refined_targets", "refined_path")
    readers = set()
    for path in PACKAGE.rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.FunctionDef):
                used = {n.id for n in ast.walk(part) if isinstance(n, ast.Name)}
                used |= {n.attr for n in ast.walk(part) if isinstance(n, ast.Attribute)}
                readers |= {(path.name, part.name, name) for name in names if name in used}
            if isinstance(part, ast.ImportFrom):
                assert not [a for a in part.names if a.name in names and a.asname], path
    assert readers == {
        ("refined.py", "save_refined", "refined_path"),
        ("refined.py", "load_refined", "refined_path"),
        ("refined.py", "refined_targets", "load_refined"),
        ("refined.py", "refined_by", "load_refined"),  # for a line of text
        ("refined.py", "refined_sha256", "refined_path"),
        ("refined.py", "refined_sha256", "load_refined"),
        ("labels.py", "keep_labels", "refined_path"),  # copies of the files
        ("labels.py", "restore_labels", "refined_path"),
        ("labels.py", "_put_back", "refined_path"),
        ("batches.py", "training_targets", "refined_targets"),
    }
    for path in (PACKAGE.parent / "notebooks").glob("*.ipynb"):
        code = [
            c["source"] for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"
        ]
        text = "".join(line for lines in code for line in lines)
        assert not [name for name in (*names, "refined_sha256", "np.load") if name in text], path
    (user,) = [
        part.name
        for part in ast.walk(ast.parse((PACKAGE / "learner.py").read_text(encoding="utf-8")))
        if isinstance(part, ast.FunctionDef)
        and any(isinstance(n, ast.Name) and n.id == "training_targets" for n in ast.walk(part))
    ]
    assert user == "set_up_data"


def test_other_refined_labels_make_another_run(faces, tmp_path):
    save_refined(faces, faces.where("train"), turned(faces), ("a",))
    first = train(tiny(labels="refined_turned"), faces, runs=tmp_path)
    assert first.config["data"]["refined_sha256"]
    assert train(tiny(labels="refined_turned"), faces, runs=tmp_path).folder == first.folder
    save_refined(faces, faces.where("train"), turned(faces), ("a", "b"))  # the same labels
    assert train(tiny(labels="refined_turned"), faces, runs=tmp_path).folder == first.folder
    other = turned(faces)
    other.labels[0] = faces.labels[faces.where("train")[0]]
    save_refined(faces, faces.where("train"), other, ("a", "b"))
    second = train(tiny(labels="refined_turned"), faces, runs=tmp_path)
    assert second.folder != first.folder
    refined_path("sample", "turned").unlink()
    found = find_run(tiny(labels="refined_turned"), faces, tmp_path)
    assert found.folder == second.folder  # a finished run is found without the file
    assert runs.refined_sha256(faces, "original") is None


def test_the_command_refuses_missing_or_misnamed_refined_labels(capsys, tmp_path):
    command = ["baseline_cnn", "--dataset", "sample-10-100", "--runs", str(tmp_path)]
    command += ["--labels", "refined_turned"]
    with pytest.raises(SystemExit):
        main(command)
    said = capsys.readouterr().err
    assert "refined_turned.npz does not exist: refine the labels of sample" in said
    assert "--dataset sample-10-100 --stages 02, or train with labels original (--labels; " in said
    assert "in notebook 07_vit_moe, set refined = None" in said
    with pytest.raises(SystemExit):
        main([*command[:-1], "better"])
    assert "refined_RULE or refined_RULE:soft, not 'better'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/config.json"))
