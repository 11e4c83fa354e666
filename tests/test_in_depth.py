"""Tests of a run's evaluation.json: its parts, when they are recomputed, missing weights."""

import copy
import io
import json
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_lib import from_weights, in_depth
from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.data import load_faces
from fer_lib.evaluate import evaluate, load_predictions
from fer_lib.evaluate.corruptions import CORRUPTIONS
from fer_lib.evaluate.robustness import VIEWS
from fer_lib.explain import routing, spatial_gates
from fer_lib.files import InputError
from fer_lib.in_depth import FROM_WEIGHTS, evaluate_in_depth, main
from fer_lib.recipes import recipe
from fer_lib.runs import Run
from fer_lib.train import train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def faces(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(home))
        return load_faces("sample-10-600", say=lambda line: None)


@pytest.fixture(scope="module")
def trained(home, faces) -> Run:
    changes = {"epochs": 2, "options": {"width": 8}}
    config = recipe("attention_cnn", "ours", "sample", **changes)
    return train(config, faces, runs=str(home / "runs"), quiet=True)


@pytest.fixture(scope="module")
def routed(home, faces) -> Run:
    """A run of a tiny vit_moe."""
    sizes = {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
    options = {"backbone_options": sizes, "img_size": 48, "in_chans": 1}
    config = recipe("vit_moe", "ours", "sample", epochs=1, options=options, pretrained=False)
    return train(config, faces, runs=str(home / "runs"), quiet=True)


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A copy of the trained run that a test may change."""
    return Run(shutil.copytree(trained.folder, tmp_path / trained.name))


@pytest.fixture(scope="module")
def whole(trained, faces, home):
    """Another copy of the trained run, its evaluation, and what was printed."""
    copy = Run(shutil.copytree(trained.folder, home / "whole" / trained.name))
    with redirect_stdout(io.StringIO()) as printed:
        return copy, evaluate_in_depth(copy, faces), printed.getvalue()


def written(run: Run) -> dict:
    return json.loads((run.folder / "evaluation.json").read_text())


def test_the_file_contains_every_part(whole, faces):
    run, found, said = whole
    assert found == written(run)
    scored = evaluate(faces, load_predictions(run.folder / "predictions.npz"))
    assert {key: found[key] for key in scored} == scored
    assert found["mark"] == "sample data"
    assert found["calibration"]["before"]["nll"] == pytest.approx(found["full"]["nll"])
    assert found["coverage"][0]["accuracy"] == found["full"]["accuracy"]
    assert sum(row["n"] for row in found["accuracy_by_agreement"]) <= found["test_images"] == 60
    assert set(found["views"]) == set(VIEWS)
    assert set(found["robustness"]) == set(CORRUPTIONS)
    for curve in found["robustness"].values():
        assert curve[0]["accuracy"] == found["full"]["accuracy"]  # undamaged
        assert all(row["n"] == 60 and row["low"] <= row["accuracy"] for row in curve)
    model, images = run.load_model(), faces.images[faces.where("test")]
    gates = spatial_gates(model, Prepare(model.pretrained_cfg)(torch.from_numpy(images)))
    for mean, stage in zip(found["gates"]["maps"], gates, strict=True):
        np.testing.assert_allclose(mean, stage.mean(0), atol=1e-4)
    covered = found["gates"]["covered"]
    assert list(covered) == ["none", "left", "right"]
    assert covered["none"] == {key: found["views"]["one"][key] for key in covered["none"]}
    assert found["computed"]["mark"] == ""
    assert "computed, on all 60 test images" in said
    assert said.count("\n") == 1


def test_every_key_of_the_file_is_documented(whole):
    _, found, _ = whole
    for key in found:
        assert f"`{key}`" in in_depth.__doc__, key
    for key in found["computed"]:
        assert f"`{key}`" in in_depth.__doc__, key


def test_computed_parts_are_loaded_from_the_file(whole, faces, monkeypatch, capsys):
    run, found, _ = whole
    monkeypatch.setattr(from_weights, "compare_views", None)
    monkeypatch.setattr(from_weights, "damaged", None)
    assert evaluate_in_depth(run, faces) == found
    said = capsys.readouterr().out
    assert "loaded from evaluation.json, on all 60 test images" in said
    assert "other code" not in said
    assert evaluate_in_depth(run, faces, images=20) == found


def test_complete_results_of_other_code_are_kept_and_reported(whole, faces, run, capsys):
    found = copy.deepcopy(whole[1])
    path = run.folder / "evaluation.json"
    path.write_text(json.dumps(found | {"computed": found["computed"] | {"code": "0"}}))
    assert evaluate_in_depth(run, faces)["views"] == found["views"]
    assert "by other code" in capsys.readouterr().out
    del found["robustness"]["blur"]  # incomplete, so nothing of it is kept
    path.write_text(json.dumps(found | {"computed": found["computed"] | {"code": "0"}}))
    anew = evaluate_in_depth(run, faces)
    assert set(anew["robustness"]) == set(CORRUPTIONS)
    assert anew["computed"]["code"] == found["computed"]["code"]


def test_an_interrupted_evaluation_resumes(whole, faces, run, monkeypatch):
    _, found, _ = whole
    real, done = from_weights.damaged, []

    def stop_at_the_third(*arguments, **keywords):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[4])
        return real(*arguments, **keywords)

    monkeypatch.setattr(from_weights, "damaged", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate_in_depth(run, faces)
    assert list(written(run)["robustness"]) == done == list(CORRUPTIONS)[:2]
    again = []
    monkeypatch.setattr(
        from_weights, "damaged", lambda *a, **k: again.append(a[4]) or real(*a, **k)
    )
    monkeypatch.setattr(from_weights, "compare_views", None)
    repeated = evaluate_in_depth(run, faces)
    assert again == list(CORRUPTIONS)[2:]
    assert repeated["robustness"] == found["robustness"]


def test_halves_are_covered_and_the_last_gate_is_mirrored(trained, faces, monkeypatch):
    subject, real, seen = from_weights.Subject(trained, faces), from_weights.probabilities, []
    subject.take(60)
    conv, features = subject.model.stages[-1][-2].conv, torch.rand(1, 2, 12, 12)

    def note(model, images, prepare):
        seen.append((images, conv(features)))
        return real(model, images, prepare)

    monkeypatch.setattr(from_weights, "probabilities", note)
    found = subject.gates()
    (none, left, right, again), gates = zip(*seen, strict=True)
    grey = torch.full_like(none, 128)
    assert torch.equal(none, subject.images)
    assert torch.equal(left, torch.cat([grey[..., :24], none[..., 24:]], 3))
    assert torch.equal(right, torch.cat([none[..., :24], grey[..., 24:]], 3))
    assert torch.equal(again, none)
    for gate, wanted in zip(gates, [gates[0]] * 3 + [gates[0].flip(-1)], strict=True):
        assert torch.equal(gate, wanted)
    assert not torch.equal(gates[0], gates[3])
    assert set(found["mirrored"]) == {*found["covered"]["none"], "changed"}


def test_only_the_gates_are_computed_if_other_code_computed_the_rest(whole, faces, run, capsys):
    found = copy.deepcopy(whole[1])
    found["computed"]["code"] = "0"
    del found["gates"]
    (run.folder / "evaluation.json").write_text(json.dumps(found))
    again = evaluate_in_depth(run, faces, images=20)
    assert capsys.readouterr().out.startswith("gates: computed, on all 60 test images")
    assert again["gates"] == whole[1]["gates"]
    assert again == found | {"gates": again["gates"]}


def test_gates_are_computed_without_tf32(trained, faces, monkeypatch):
    subject, real, exact = from_weights.Subject(trained, faces), from_weights.spatial_gates, []
    subject.take(60)

    def note(model, x):
        exact.append(not torch.backends.cudnn.allow_tf32)
        return real(model, x)

    monkeypatch.setattr(from_weights, "spatial_gates", note)
    with torch.backends.cudnn.flags(allow_tf32=True):
        subject.gates()
    assert exact == [True]


def test_the_routes_of_each_class_are_computed_also_after_all_else(
    routed, faces, monkeypatch, capsys
):
    found, rows = evaluate_in_depth(routed, faces, images=20), faces.where("test")
    rows = rows[np.sort(np.random.default_rng(from_weights.SEED).permutation(len(rows))[:20])]
    model = routed.load_model()
    gates = routing(model, Prepare(model.pretrained_cfg)(torch.from_numpy(faces.images[rows])))
    assert set(found["experts"]) == {faces.classes[label] for label in faces.labels[rows]}
    for number, name in enumerate(faces.classes):
        if name in found["experts"]:
            routes = (gates[faces.labels[rows] == number] > 0).sum(0).numpy()
            np.testing.assert_allclose(found["experts"][name], routes / routes.sum())
    assert "`experts`" in in_depth.__doc__
    assert "gates" not in found
    assert written(routed) == found
    path = routed.folder / "evaluation.json"
    path.write_text(json.dumps({key: part for key, part in found.items() if key != "experts"}))
    monkeypatch.setattr(from_weights, "compare_views", None)
    monkeypatch.setattr(from_weights, "damaged", None)
    capsys.readouterr()
    assert evaluate_in_depth(routed, faces, images=20) == found
    assert capsys.readouterr().out.startswith("experts: computed, on 20 of 60 test images")
    assert evaluate_in_depth(routed, faces, images=20) == found
    assert "loaded from evaluation.json" in capsys.readouterr().out
    path.write_text(json.dumps({key: part for key, part in found.items() if key != "experts"}))
    monkeypatch.setattr(from_weights, "CPU_WORK", 0)
    assert "views" in evaluate_in_depth(routed, faces)
    said = capsys.readouterr().out
    assert said.startswith(f"experts of {routed.name} would take long on this CPU and are left out")


@pytest.mark.parametrize("lost", ["views", "robustness", "gates"])
def test_a_missing_part_is_computed(whole, faces, run, lost):
    _, found, _ = whole
    path = run.folder / "evaluation.json"
    path.write_text(json.dumps({key: part for key, part in found.items() if key != lost}))
    again = evaluate_in_depth(run, faces)
    assert again[lost].keys() == found[lost].keys()
    assert lost == "views" or again[lost] == found[lost]  # views have times


def test_parts_are_recomputed_for_other_weights_or_more_images(faces, run):
    first = evaluate_in_depth(run, faces, images=20)
    assert first["computed"]["mark"] == "20 of 60 test images"
    assert {row["n"] for row in first["robustness"]["blur"]} == {20}
    assert first["full"]["n"] == 60
    more = evaluate_in_depth(run, faces, images=40)
    assert more["computed"]["images"] == more["views"]["one"]["n"] == 40
    path = run.folder / "evaluation.json"
    changed = written(run)
    changed["computed"]["weights_sha256"] = "0" * 64
    changed["views"] = {"one": {}}
    path.write_text(json.dumps(changed))
    anew = evaluate_in_depth(run, faces, images=40)
    assert anew["views"]["one"]["n"] == 40


def test_without_weights_only_the_parts_from_predictions_are_computed(whole, faces, run, capsys):
    _, found, _ = whole
    (run.folder / "best.safetensors").unlink()
    alone = evaluate_in_depth(run, faces)
    said = capsys.readouterr().out
    assert alone == {key: found[key] for key in found if key not in FROM_WEIGHTS}
    assert said.count("\n") == 1
    assert "have been deleted" in said
    assert "left out" in said


def test_without_weights_parts_that_are_empty_are_dropped(faces, run):
    evaluate_in_depth(run, faces, images=20)
    begun = written(run) | {"views": {}, "robustness": {}, "gates": {}}
    (run.folder / "evaluation.json").write_text(json.dumps(begun))
    (run.folder / "best.safetensors").unlink()
    found = evaluate_in_depth(run, faces)
    assert not set(FROM_WEIGHTS) & set(found)
    assert written(run) == found


def test_weights_may_be_deleted_after_the_evaluation(faces, run, capsys):
    first = evaluate_in_depth(run, faces, images=20)
    (run.folder / "best.safetensors").unlink()
    assert evaluate_in_depth(run, faces) == first
    assert "computed before" in capsys.readouterr().out


def test_a_cpu_that_is_too_slow_leaves_out_the_parts_from_weights(faces, run, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    subject = from_weights.Subject(run, faces)
    assert subject.affordable() == 60
    monkeypatch.setattr(from_weights, "CPU_WORK", 1e6)
    assert subject.affordable() == 0
    found = evaluate_in_depth(run, faces)
    assert not set(FROM_WEIGHTS) & set(found)
    assert "left out" in capsys.readouterr().out
    assert written(run) == found


@pytest.mark.parametrize("fixture", ["trained", "routed"])
def test_the_work_of_all_parts_counts_for_what_a_cpu_can_do(faces, request, monkeypatch, fixture):
    run = request.getfixturevalue(fixture)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    subject, seen = from_weights.Subject(run, faces), []
    subject.flip, images = True, torch.from_numpy(faces.images[faces.where("test")])
    kept = probabilities(subject.model, images, subject.prepare, flip=True).numpy()
    monkeypatch.setattr(from_weights, "aligned", lambda *_: kept)
    with FlopCounterMode(display=False) as counter:
        subject.model(subject.prepare(images[:1]))
    subject.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    subject.take(60)
    subject.views()
    for compute in subject.own_parts.values():
        compute()
    for kind in CORRUPTIONS:
        subject.robustness(kind)
    work = sum(seen) * counter.get_total_flops()
    monkeypatch.setattr(from_weights, "CPU_WORK", work)
    assert subject.affordable() == 60
    monkeypatch.setattr(from_weights, "CPU_WORK", 0.999 * work)
    assert subject.affordable() == 0


def test_a_slow_cpu_keeps_earlier_results_only_of_the_same_weights(faces, run, monkeypatch):
    first = evaluate_in_depth(run, faces, images=20)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(from_weights, "CPU_WORK", 1e6)
    unfinished = {"robustness": {"blur": first["robustness"]["blur"]}}
    path = run.folder / "evaluation.json"
    path.write_text(json.dumps(first | unfinished))
    assert evaluate_in_depth(run, faces) == first | unfinished
    assert written(run) == first | unfinished
    other = first["computed"] | {"weights_sha256": "0" * 64}
    path.write_text(json.dumps(first | unfinished | {"computed": other}))
    found = evaluate_in_depth(run, faces)
    assert not set(FROM_WEIGHTS) & set(found)


def test_bad_input_is_refused(faces, run):
    with pytest.raises(InputError, match="images must be 1 or more"):
        evaluate_in_depth(run, faces, images=0)
    rolled = dict(np.load(run.folder / "predictions.npz"))
    rolled["test_probabilities"] = np.roll(rolled["test_probabilities"], 1, axis=1)
    np.savez(run.folder / "predictions.npz", **rolled)
    with pytest.raises(InputError, match=r"best\.safetensors does not predict"):
        evaluate_in_depth(run, faces, images=20)
    with pytest.raises(InputError, match=r"trained on other data than this sample.*: give its own"):
        evaluate_in_depth(run, faces.subset(np.arange(500)))


def test_a_full_gpu_is_reported(faces, run, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr(in_depth, "Subject", full)
    with pytest.raises(InputError, match=r"^evaluating in depth: the GPU has too little free"):
        evaluate_in_depth(run, faces)


def test_the_command_evaluates_a_run(home, run, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(home))
    main([str(run.folder), "--images", "20"])
    assert written(run)["computed"]["images"] == 20
    last = capsys.readouterr().out.splitlines()[-1]
    assert "ECE" in last
    assert "sample data" in last
    with pytest.raises(SystemExit):
        main([str(home / "nothing")])
    assert f"there is no {home / 'nothing'}: give the folder of a run" in capsys.readouterr().err


def test_the_command_checks_all_it_is_given_before_it_reads_data(trained, run, monkeypatch, capsys):
    monkeypatch.setattr(in_depth, "load_faces", None)  # it must not be called
    (run.folder / "results.json").unlink()
    for arguments, said in ((["--images", "0"], "images must be 1 or more"), ([], "is unfinished")):
        with pytest.raises(SystemExit):
            main([str(trained.folder), str(run.folder), *arguments])
        assert said in capsys.readouterr().err
