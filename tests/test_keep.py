"""Weights are kept only if they predict the same as their run, and with a model card."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_lib.checkpoints import load_weights
from fer_lib.data import load_faces
from fer_lib.evaluate import abstention, load_predictions, save_predictions
from fer_lib.evaluate.calibration import fit_temperature, scaled
from fer_lib.files import InputError, sha256, write_json
from fer_lib.models.weights import read_metadata, read_weights, write_weights
from fer_lib.predict import Predictor, keep, model_card
from fer_lib.predict.predictor import DEFAULT
from fer_lib.recipes import recipe
from fer_lib.runs import Run
from fer_lib.starts import started_from
from fer_lib.train import train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def faces(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(home))
        return load_faces("sample-0-600", say=lambda line: None)


@pytest.fixture(scope="module", autouse=True)
def level():
    """Lower the accuracy of sure answers to one that a network trained for seconds reaches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abstention, "SURE", 0.3)
        yield 0.3


@pytest.fixture(scope="module")
def run(home, faces, level) -> Run:
    changes = {"epochs": 8, "ema_decay": 0.0, "options": {"width": 8}}
    config = recipe("baseline_cnn", "ours", "sample", **changes)
    return train(config, faces, runs=str(home / "runs"), quiet=True)


@pytest.fixture(scope="module")
def kept(run, faces, home) -> Path:
    path = home / "kept" / "default.safetensors"
    keep.keep_weights(run, faces, path)
    return path


def test_kept_weights_have_the_accuracy_of_the_run(kept, run, faces):
    predictor = Predictor.from_file(kept, device="cpu")
    test = faces.where("test")
    p = predictor.probabilities(faces.images[test])
    accuracy = (p.argmax(1) == faces.labels[test]).mean()
    assert accuracy == run.results["test"]["full"]["accuracy"]
    assert (predictor.name, predictor.classes) == (
        "baseline_cnn trained on sample-0-600",
        faces.classes,
    )


def test_threshold_and_temperature_are_chosen_on_the_validation_images(kept, run, faces, level):
    use = run.results["use"]
    rows = faces.where("valid")
    p = load_predictions(run.folder / "predictions.npz").valid_probabilities
    assert use["temperature"] == pytest.approx(fit_temperature(p, faces.labels[rows]))
    about = Predictor.from_file(kept).about
    assert (about.temperature, about.threshold) == (use["temperature"], use["threshold"])
    q = scaled(p, use["temperature"])
    sure = q.max(1) >= use["threshold"]
    right = (q.argmax(1) == faces.labels[rows])[sure]
    assert 0 < sure.mean() < 1
    assert right.mean() >= level


def test_a_run_and_its_kept_weights_give_the_same_probabilities(kept, run, faces):
    one, other = Predictor.of(run.folder), Predictor.from_file(kept)
    some = faces.images[:20]
    np.testing.assert_array_equal(one.probabilities(some), other.probabilities(some))
    assert one.threshold == other.threshold


def test_the_card_contains_the_numbers_of_the_results(kept, run, faces):
    text = kept.with_name(keep.CARD).read_text()
    assert text.startswith("# Model card: default.safetensors\n\n**sample data:")
    test = run.results["test"]["full"]
    low, high = test["interval"]["accuracy"]
    assert f"| test | {test['n']} | {test['accuracy']:.2%} ({low:.1%} to {high:.1%}) |" in text
    assert f"{kept.stat().st_size:,} bytes" in text
    for name in faces.classes:
        assert f"\n| {name} | {test['per_class'][name]['precision']:.2f} |" in text
    for title in ("Data and training", "Accuracy", "Confidence", "Limits", "Licence"):
        assert f"\n## {title}\n" in text
    assert f"probability of {run.results['use']['threshold']:.3f} on" in text


@pytest.mark.parametrize(("change", "number"), [({"limit": 64}, 64), ({"labels": "votes"}, 472)])
def test_the_card_contains_the_number_of_images_that_a_run_learned_from(
    run, faces, tmp_path, change, number
):
    shutil.copytree(run.folder, tmp_path / "run")
    changed = run.config | {"train": run.config["train"] | change}
    write_json(tmp_path / "run" / "config.json", changed)
    some = replace(faces, votes=faces.votes.copy())
    some.votes[some.where("train")[:7]] = 0  # as of one of the 480 in any case
    text = model_card.training(Run(tmp_path / "run"), some)
    assert f"{faces.name}: {number} training images" in text


def test_only_the_card_of_drawn_faces_says_that_they_are_not_people(kept, run, faces):
    for mark, said in (("sample data", True), ("fer2013 with a drawn split", False)):
        some = replace(faces, manifest=faces.manifest | {"mark": mark})
        predictions = load_predictions(run.folder / "predictions.npz")
        use = run.results["use"]
        text = model_card.model_card(run, some, predictions, use, kept, "a")
        assert ("the numbers say nothing about people" in text) == said


def test_the_card_says_when_nothing_is_sure(run, faces, kept):
    predictions = load_predictions(run.folder / "predictions.npz")
    use = {"temperature": 1.0, "threshold": None, "target": 0.8}
    text = model_card.confidence(faces, predictions, use).replace("\n", " ")
    assert "so none counts as sure." in text


def test_weights_with_other_predictions_are_not_kept(run, faces, tmp_path):
    other = shutil.copytree(run.folder, tmp_path / "run")
    given = load_predictions(run.folder / "predictions.npz")
    changed = given.test_probabilities.copy()
    p = changed[:3]
    rows, best, worst = np.arange(3), p.argmax(1), p.argmin(1)
    p[rows, best], p[rows, worst] = p[rows, worst], p[rows, best]
    save_predictions(other / "predictions.npz", replace(given, test_probabilities=changed))
    number = f"{len(faces.where('test')):,}"
    with pytest.raises(InputError, match=f"3 of {number} test images another class .* choose"):
        keep.keep_weights(Run(other), faces, tmp_path / "out" / "default.safetensors")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("ahead", "kept_all_the_same"), [(1e-3, True), (1e-2, False)])
def test_another_class_is_accepted_only_if_it_is_about_as_likely(
    run, faces, ahead, kept_all_the_same
):
    """A run that was scored on a GPU has slightly different probabilities."""
    given = load_predictions(run.folder / "predictions.npz")
    changed = given.test_probabilities.copy()
    best, worst = changed[0].argmax(), changed[0].argmin()
    changed[0, worst] = changed[0, best] + ahead
    predictor = Predictor.of(run.folder, device="cpu")
    expected = nullcontext() if kept_all_the_same else pytest.raises(InputError, match="gives 1 of")
    with expected:
        keep.check(predictor, replace(given, test_probabilities=changed), faces)


def test_no_weights_are_written_if_the_card_fails(kept, run, faces, tmp_path, monkeypatch):
    for path in (kept, kept.with_name(keep.CARD)):
        (tmp_path / path.name).write_text("of before")

    def fail(*_):
        raise KeyError("a result that is not there")

    monkeypatch.setattr(keep, "model_card", fail)
    with pytest.raises(KeyError):
        keep.keep_weights(run, faces, tmp_path / kept.name)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"of before"}
    assert len(list(tmp_path.iterdir())) == 2


def test_large_weights_are_halved_or_refused(run, faces, tmp_path, monkeypatch):
    size = sum(
        t.nbytes for t in load_weights(run.folder / "best.safetensors").state_dict().values()
    )
    monkeypatch.setattr(keep, "LIMIT", size - 1)
    checked = []
    monkeypatch.setattr(keep, "check", lambda predictor, *_: checked.append(predictor))
    keep.keep_weights(run, faces, tmp_path / "a.safetensors")
    state, _ = read_weights(tmp_path / "a.safetensors")
    kinds = {tensor.dtype for tensor in state.values()}
    assert kinds == {torch.float16, torch.int64}
    assert next(checked[0].model.parameters()).dtype == torch.float32
    monkeypatch.setattr(keep, "LIMIT", 100)
    with pytest.raises(InputError, match="more than 100: choose a smaller model"):
        keep.keep_weights(run, faces, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_other_data_and_unfinished_runs_are_refused(run, faces, tmp_path):
    with pytest.raises(InputError, match="other data"):
        keep.keep_weights(run, faces.subset(np.arange(500)), tmp_path / "a.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text((run.folder / "config.json").read_text())
    with pytest.raises(InputError, match="unfinished"):
        keep.keep_weights(Run(tmp_path / "run"), faces, tmp_path / "a.safetensors")


def test_the_files_contain_no_path_of_the_training_machine(run, faces, tmp_path):
    config = json.loads((run.folder / "config.json").read_text())
    state, metadata = read_weights(run.folder / "best.safetensors")
    config["train"]["pretrained"] = "/home/somebody/weights.safetensors"
    other = shutil.copytree(run.folder, tmp_path / "run")
    write_json(other / "config.json", config)
    write_weights(other / "best.safetensors", state, metadata)
    keep.keep_weights(Run(other), faces, tmp_path / "out" / "a.safetensors")
    for path in (tmp_path / "out").iterdir():
        assert b"/home/somebody" not in path.read_bytes()


def test_the_files_name_the_data_that_they_learned_from(kept, run, faces):
    (known,) = json.loads(read_metadata(kept)["learned_from"])
    assert known == {
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "split": faces.manifest["split"],
    }
    (known,) = started_from(replace(run.train_config, pretrained=str(DEFAULT)))
    assert (known["dataset"], known["split"]) == ("fer2013", {"official": True})
    card = " ".join(DEFAULT.with_name(keep.CARD).read_text(encoding="utf-8").split())
    assert f"(fingerprint `{known['fingerprint'][:16]}`)" in card


def test_command_line(run, faces, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "a.safetensors"
    keep.main([str(run.folder), "--out=~/a.safetensors"])
    assert out.exists()
    assert run.name in capsys.readouterr().out
    with pytest.raises(SystemExit):
        keep.main([str(tmp_path), "--out", str(out)])
    assert "not a run folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        keep.main([str(run.folder)])  # else it would replace the file of the package
    assert "required: --out" in capsys.readouterr().err


def test_the_weights_of_the_package_are_small_and_have_a_card_of_real_data():
    assert DEFAULT.stat().st_size < keep.LIMIT
    text = DEFAULT.with_name(keep.CARD).read_text(encoding="utf-8")
    assert "sample data" not in text
    assert "    python -m fer_lib.train attention_cnn --dataset fer2013 --data-dir DIR" in text
    assert re.search(r"\| test \| 3,589 \| \d\d\.\d\d%", text)


def test_the_card_of_the_package_describes_the_file_beside_it():
    text = " ".join(DEFAULT.with_name(keep.CARD).read_text(encoding="utf-8").split())
    assert f"{DEFAULT.stat().st_size:,} bytes, SHA-256 `{sha256(DEFAULT)}`" in text
    use = json.loads(read_metadata(DEFAULT)["use"])
    assert f"calibrated by the temperature {use['temperature']:.3f}, fitted" in text
    assert f"sure from a probability of {use['threshold']:.3f} on" in text
