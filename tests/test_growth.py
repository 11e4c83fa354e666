"""The growth benchmark measures the given sizes, and goes on if one runs out of memory."""

import pytest
import torch
from forked import CONTEXT
from PIL import Image

from fer_lib.config import TrainConfig
from fer_lib.data.sample import make_sample


@pytest.fixture
def growth(monkeypatch):
    import growth
    import measure

    for module in (growth, measure):
        monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(measure, "get_context", lambda method: CONTEXT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return growth


@pytest.fixture(scope="module")
def faces():
    return make_sample(100)


def config(model="baseline_cnn", **changes):
    return TrainConfig(model, schedule="constant", batch_size=8, **changes)


def test_a_point_trains_with_its_batch_size_side_and_number_of_images(growth, faces):
    point = growth.Point(config(options={"width": 4}), faces, 32)
    seen = []
    point.learner.model.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    cost = point.cost(0.01, 1000, False)
    batches = point.learner.batches
    assert len(batches.images) == len(batches.targets) == 1000
    few = len(faces.where("train"))
    assert torch.equal(batches.images[0], batches.images[few])
    assert torch.equal(batches.targets[1], batches.targets[few + 1])
    assert set(seen) == {torch.Size((8, 1, 32, 32))}
    assert len(seen) >= 2 + 2 + 2
    assert cost.speed > 0
    assert 0 < cost.order < 1
    assert cost.memory >= cost.before > 10**8
    assert cost.place == "cpu"


def test_steps_begin_again_at_the_start_of_the_order_when_it_ends(growth):
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    steps = growth.Steps(images, torch.zeros(20, 7), batch_size=8)
    assert steps.draw() == 20
    steps.steps = 5
    seen = torch.cat([some.flatten() for some, _ in steps.epoch(0)])
    assert len(seen) == 40
    assert torch.equal(seen[:20], seen[20:])
    assert sorted(seen[:20].tolist()) == list(range(20))


def test_a_vit_is_built_for_the_input_side_and_a_cnn_takes_any(growth, faces):
    assert growth.patch_size("baseline_cnn") is None
    assert growth.patch_size("vit_patch") == 4
    point = growth.Point(config("vit_patch", options={"img_size": 24, "depth": 1}), faces, 24)
    assert point.learner.prepare.size == (24, 24)
    assert point.learner.core.patch_embed.num_patches == 36
    assert point.cost(0.01, 80, True).speed > 0


def test_tables_and_figure_with_a_point_out_of_memory(growth, monkeypatch, tmp_path, capsys):
    def measured(faces, seconds, model, **size):
        if size.get("batch_size") == 64:
            return None
        return growth.Cost(1234.5, 2 * 10**9, 10**9, 0.002, "cpu")

    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr(growth, "DRAWN", 80)
    out = tmp_path / "growth.png"
    growth.main(["--batch-sizes", "16", "64", "--repeats", "1", "2", "--out", str(out)])
    text = capsys.readouterr().out
    assert "drawn faces (sample data)" in text
    assert "| baseline_cnn | 16 | cpu | 1,234.5 | 2.00 | 0.2 % |" in text
    assert text.count("out of memory") == 2
    assert "| baseline_cnn | 57,418 |" in text
    assert "| vit_tiny | 57,418 |" not in text
    assert min(Image.open(out).size) > 500


def test_a_point_is_measured_in_a_process_and_may_run_out_of_memory(growth, faces):
    assert growth.measured(faces, 0.01, "baseline_cnn", batch_size=8, images=100).speed > 0
    assert growth.measured(faces, 0.01, "baseline_cnn", batch_size=8, images=10**14) is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["--batch-sizes", "0"], "--batch-sizes must be"),
        (["--repeats", "-1"], "--repeats and --seconds above 0"),
        (["--sides", "50"], "--sides of vit_tiny must be multiples of 16"),
    ],
)
def test_impossible_sizes_are_refused(growth, bad, message, capsys, monkeypatch):
    monkeypatch.setattr(growth, "make_sample", None)
    with pytest.raises(SystemExit):
        growth.main(bad)
    assert message in capsys.readouterr().err
