"""ONNX: each model family can be exported and agrees with PyTorch, for any number of faces."""

import json
import math
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from fer_lib.checkpoints import save_weights
from fer_lib.data.drawing import draw
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.models import MODULES, create_model
from fer_lib.models.moe import ATTENTIONS, SparseExperts
from fer_lib.predict import Predictor
from fer_lib.predict.description import Description
from fer_lib.predict.onnx import AllExperts, parsed, providers, write_onnx, written
from fer_lib.predict.predictor import Torch
from fer_lib.recipes import merged_options, recipe

needs_onnx = "the export needs it: pip install -e '.[demo]'"
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=needs_onnx)


@pytest.fixture(scope="module")
def faces():
    """256 drawn faces, (256, 1, 48, 48)."""
    return draw(np.arange(256) % 7, 1)


def shallow(name: str) -> dict[str, Any]:
    """Return the sample preset's options with one block; more blocks add no other operators."""
    options = recipe(name, "ours", "sample").options
    if name.endswith("_cnn") and not name.startswith("vit"):
        return options
    inner = "backbone_options" in options
    return merged_options(options, {"backbone_options": {"depth": 1}} if inner else {"depth": 1})


@pytest.mark.parametrize("name", MODULES)
def test_onnx_agrees_with_torch_on_256_faces(name, faces, fitted, tmp_path):
    """The export must not change the model."""
    model = fitted(create_model(name, **shallow(name)))
    before = {name: type(part) for name, part in model.named_modules()}
    about = Description(name, EMOTIONS, flip=True, temperature=1.5, threshold=0.4)
    ours = Predictor(Torch(model, about, torch.device("cpu")), about)
    write_onnx(tmp_path / "model.onnx", ours)
    other = Predictor.from_file(tmp_path / "model.onnx")
    expected = ours.probabilities(faces)
    assert expected.std(0).max() > 0.03  # else agreement would prove nothing
    for n in (256, 1, 3):
        found = other.probabilities(faces[:n])
        np.testing.assert_allclose(found, expected[:n], atol=TOLERANCE, rtol=0)
    assert {name: type(part) for name, part in model.named_modules()} == before
    assert other.about == about
    assert other.model is None


@pytest.mark.parametrize("attention", sorted(ATTENTIONS.keys() - {"mha"}))  # mha is the default
def test_other_attentions_agree_with_torch_for_any_batch_size(attention, faces, fitted, tmp_path):
    options = shallow("vit_moe") | {"attention": attention}
    about = Description("vit_moe", EMOTIONS)
    model = fitted(create_model("vit_moe", **options))
    ours = Predictor(Torch(model, about, torch.device("cpu")), about)
    write_onnx(tmp_path / "model.onnx", ours)
    other = Predictor.from_file(tmp_path / "model.onnx")
    for n in (1, 5):
        found, expected = (one.probabilities(faces[:n]) for one in (other, ours))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_all_experts_agree_with_sparse_experts():
    torch.manual_seed(0)
    sparse = SparseExperts(8, hidden=16, experts=4, top_k=2)
    x = torch.randn(12, 8)
    with torch.no_grad():
        (y, routing), (z, other) = sparse(x), AllExperts(sparse)(x)
    assert len(routing.chosen.unique()) > 2
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(routing.gates, other.gates)


@pytest.mark.parametrize("threshold", [math.inf, None])
def test_a_threshold_that_is_no_probability_survives_the_export(tmp_path, threshold):
    model = create_model("baseline_cnn", width=8)
    about = Description("x", EMOTIONS, threshold=threshold)
    write_onnx(tmp_path / "a.onnx", Predictor(Torch(model, about, torch.device("cpu")), about))
    assert Predictor.from_file(tmp_path / "a.onnx").about == about


def test_the_description_in_a_file_is_valid_json_and_that_of_older_files_is_still_read():
    about = Description("x", EMOTIONS, threshold=math.inf)
    fields = json.loads(written(about), parse_constant=pytest.fail)
    assert fields["threshold"] > 1  # for other programs: no probability reaches it
    assert parsed(json.dumps(fields | {"threshold": math.inf})) == about


def test_missing_damaged_and_foreign_files_are_refused(tmp_path, fitted):
    import onnx

    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.onnx"):
            Predictor.from_file(tmp_path / f"{name}.onnx")
    node = onnx.helper.make_node("Identity", ["faces"], ["probabilities"])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in ("faces", "probabilities")]
    graph = onnx.helper.make_graph([node], "other", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    other = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    (tmp_path / "other.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(InputError, match="not exported by fer_lib"):
        Predictor.from_file(tmp_path / "other.onnx")


def test_only_providers_that_round_like_torch_are_used(monkeypatch):
    import onnxruntime

    here = ["Tensorrt", "CUDA", "CoreML", "CPU"]
    found = [f"{name}ExecutionProvider" for name in here]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert providers() == [
        ("CUDAExecutionProvider", {"use_tf32": 0}),
        ("CPUExecutionProvider", {}),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert providers() == [("CPUExecutionProvider", {})]


def test_an_onnx_file_is_not_exported_again(tmp_path):
    about = Description("an ONNX file", EMOTIONS, threshold=0.5)
    with pytest.raises(InputError, match="already"):
        write_onnx(tmp_path / "a.onnx", Predictor(lambda images: images, about))


@pytest.fixture
def weights_file(tmp_path):
    config = recipe("baseline_cnn", "ours", "sample", options={"width": 8})
    model = create_model(config.model, **config.options)
    save_weights(tmp_path / "best.safetensors", model.state_dict(), config, EMOTIONS)
    return tmp_path / "best.safetensors"


def test_a_weights_file_is_exported_without_a_warning(weights_file, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_onnx(tmp_path / "a.onnx", Predictor.from_file(weights_file))


def test_an_onnx_file_refuses_faces_of_another_shape(weights_file, tmp_path):
    write_onnx(tmp_path / "a.onnx", Predictor.from_file(weights_file))
    predictor = Predictor.from_file(tmp_path / "a.onnx")
    for shape in ((1, 64, 64), (3, 48, 48)):
        with pytest.raises(InputError) as caught:
            predictor.probabilities(np.zeros((2, *shape), np.uint8))
        assert str(caught.value) == (
            f"{tmp_path / 'a.onnx'} is an ONNX file, whose faces are (1, 48, 48), not {shape}: "
            "resize or convert them"
        )


def test_a_network_that_the_exporter_refuses_is_named(weights_file, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such operator\nand many lines more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError, match=r"cannot be exported to ONNX \(no such operator\): use"):
        write_onnx(tmp_path / "a.onnx", Predictor.from_file(weights_file))


def test_missing_packages_are_named(weights_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnx is missing: pip install onnx"):
        write_onnx(tmp_path / "a.onnx", Predictor.from_file(weights_file))
    with pytest.raises(InputError, match="needs onnxruntime: pip install onnx"):
        Predictor.from_file(tmp_path / "a.onnx")
