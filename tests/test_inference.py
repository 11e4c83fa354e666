"""Test the inference benchmark, which compares torch and ONNX only if they agree."""

import re
from types import SimpleNamespace

import inference
import measure
import pytest
import torch

from fer_lib.data.sample import make_sample

needs_onnx = "the benchmark of inference needs it: pip install -e '.[onnx]'"
SMALL = ["--model", "baseline_cnn", "--images", "8", "--batch-sizes", "1", "4", "--rounds", "1"]


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    for module in (inference, measure):
        monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture
def exportable():
    for name in inference.NEEDED:
        pytest.importorskip(name, reason=needs_onnx)
    return inference


@pytest.fixture(scope="module")
def faces():
    return torch.from_numpy(make_sample(100).images)


def test_the_tables_have_rates_and_ratios_of_torch_and_onnx(exportable, capsys):
    exportable.main(SMALL)
    text = capsys.readouterr().out
    assert "drawn faces (sample data)" in text
    assert "1 threads" in text
    lines = [line for line in text.splitlines() if re.match(r"\| (torch|ONNX) \w+, ", line)]
    rows = [line.strip("| ").replace(",", "").split(" | ") for line in lines]
    for _, *rates, ratio in rows:
        rate, other, ratio = (float(text.split()[0]) for text in (*rates, ratio))
        rounded = 0.5 / rate + 0.5 / other  # share; the rates are printed as whole numbers
        assert ratio == pytest.approx(rate / other, abs=0.006, rel=0.02 + rounded)
    titles = [row[0] for row in rows]
    assert titles[:2] == ["torch float32 1", "torch float32 4"]
    assert titles[-1] == "ONNX float32 4"


def test_export_takes_any_batch_size(exportable, faces):
    cpu = torch.device("cpu")
    model = exportable.Fitted("baseline_cnn", faces[:32])
    onnx, ours = exportable.InOnnx(model, cpu), exportable.InTorch(model, cpu, "no")
    assert ours(faces, 50).std(0).min() > 0.05  # otherwise agreement would mean little
    for size in (1, 3, 5):
        torch.testing.assert_close(
            onnx(faces[:7], size), ours(faces[:7], 7), atol=exportable.TOLERANCE, rtol=0
        )


def test_a_graph_that_computes_another_function_is_refused(exportable, monkeypatch, capsys):
    export = exportable.export

    def brighter(graph):
        graph.prepare.mean = graph.prepare.mean + 0.02
        return export(graph)

    monkeypatch.setattr(exportable, "export", brighter)
    with pytest.raises(SystemExit, match="not the same function"):
        exportable.main(SMALL)
    assert "|" not in capsys.readouterr().out


def test_answers_are_read_after_the_device_is_synchronized(faces, monkeypatch):
    """A copy by torch does not wait for onnxruntime, which computes on another stream."""
    seen = []

    class Side:
        device = torch.device("cpu")

        def __call__(self, images, size):
            return SimpleNamespace(cpu=lambda: seen.append("read") or torch.zeros(size))

    monkeypatch.setattr(torch.cpu, "synchronize", lambda: seen.append("done"))
    assert inference.difference(Side(), Side(), faces) == 0
    assert seen == ["done", "read"] * 2


def test_agree_prints_the_difference_for_every_model(exportable, monkeypatch, capsys):
    monkeypatch.setattr(exportable, "MODULES", ["baseline_cnn"])
    monkeypatch.setattr(exportable, "AGREE", 100)
    exportable.main(["--agree"])
    found = re.findall(
        r"^(\w+): .* of 100 drawn faces differ by up to (\S+)$", capsys.readouterr().out, re.M
    )
    assert [name for name, _ in found] == ["baseline_cnn"]
    assert 0 < float(found[0][1]) < exportable.TOLERANCE


def test_fewer_images_than_the_largest_batch_are_refused(capsys):
    with pytest.raises(SystemExit):
        inference.main([*SMALL, "--images", "3"])
    assert "--images must be at least the largest batch" in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(inference, "find_spec", lambda name: name != "onnxruntime" or None)
    with pytest.raises(SystemExit):
        inference.main(SMALL)
    assert capsys.readouterr().err == ("onnxruntime missing: pip install -e '.[onnx]'\n")
