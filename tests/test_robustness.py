"""Tests of views and damaged images, with a model whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ticks
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.evaluate import robustness
from fer_lib.evaluate.corruptions import CORRUPTIONS, corrupt
from fer_lib.evaluate.robustness import (
    VIEWS,
    compare_views,
    crops,
    damage_passes,
    damaged,
    view_passes,
)

CFG = {"input_size": (1, 48, 48), "mean": (0.5,), "std": (0.5,)}


class Corner(nn.Module):
    """Classifies images by the brightness of the upper left quarter, which a view may move."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        level = x[:, 0, :24, :24].mean((1, 2))
        return torch.stack([-6 * level, torch.zeros_like(level), 6 * level], 1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    rng = np.random.default_rng(0)
    quarters = rng.integers(0, 256, (120, 1, 2, 2)).repeat(24, 2).repeat(24, 3)
    return torch.from_numpy(quarters.astype(np.uint8))


@pytest.fixture
def model() -> Corner:
    return Corner()


def test_ten_crops_are_corners_middle_and_their_mirror_images(images):
    some = images[:2]
    top_left, top_right, bottom_left, bottom_right, middle, *mirrored = crops(some)
    assert torch.equal(top_left, some[..., :44, :44])
    assert torch.equal(top_right, some[..., :44, 4:])
    assert torch.equal(bottom_left, some[..., 4:, :44])
    assert torch.equal(bottom_right, some[..., 4:, 4:])
    assert torch.equal(middle, some[..., 2:46, 2:46])
    assert len(mirrored) == 5
    assert torch.equal(mirrored[4], middle.flip(3))


def test_a_view_is_the_mean_of_its_passes(model, images):
    prepare = Prepare(CFG)
    labels = probabilities(model, images, prepare).argmax(1).numpy()  # one view is always right
    labels[:30] = (labels[:30] + 1) % 3
    found = compare_views(model, images, labels, prepare)
    one = probabilities(model, images, prepare)
    expected = {
        "one": one,
        "mirror": probabilities(model, images, prepare, flip=True),
        "ten_crop": sum(probabilities(model, view, prepare) for view in crops(images)) / 10,
    }
    for name, p in expected.items():
        right = p.numpy().argmax(1) == labels
        assert found[name]["accuracy"] == pytest.approx(right.mean())
        own = p[range(120), labels].log()
        assert found[name]["nll"] == pytest.approx(-own.mean().item(), rel=1e-5)
        assert found[name]["n"] == 120
        assert found[name]["milliseconds"] > 0
    assert [found[name]["passes"] for name in VIEWS] == [1, 2, 10]
    assert found["mirror"]["accuracy"] < found["one"]["accuracy"]


def test_the_clock_stops_when_the_answers_of_all_passes_are_on_the_cpu(model, images, monkeypatch):
    seen, fetch = [], Tensor.cpu

    def cpu(tensor):
        seen.append(len(tensor))
        return fetch(tensor)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    monkeypatch.setattr(robustness, "time", SimpleNamespace(perf_counter=ticks(seen)))
    compare_views(model, images, np.zeros(120, int), Prepare(CFG))
    assert seen == [*[120] * len(VIEWS), *["clock", 120, "clock"] * len(VIEWS)]  # warm-up first


def test_every_shape_of_every_view_is_warmed_up_before_timing(model, monkeypatch):
    seen = []

    class Noted(Prepare):
        def __call__(self, images):
            seen.append(tuple(images.shape))
            return super().__call__(images)

    monkeypatch.setattr(robustness, "time", SimpleNamespace(perf_counter=ticks(seen)))
    images = torch.zeros(2 * 512 + 8, 1, 48, 48, dtype=torch.uint8)
    compare_views(model, images, np.zeros(len(images), int), Noted(CFG))
    begun = seen.index("clock")
    warmed, timed = seen[:begun], set(seen[begun:]) - {"clock"}
    assert timed == {(n, 1, side, side) for n in (512, 8) for side in (48, 44)}
    assert timed == set(warmed)
    assert len(warmed) == 2 * len(VIEWS)  # a full batch and the last one, not all of them


def test_other_views_are_tested_against_one_view(model, images):
    prepare = Prepare(CFG)
    labels = probabilities(model, images, prepare).argmax(1).numpy()
    labels[:30] = (labels[:30] + 1) % 3
    found = compare_views(model, images, labels, prepare)
    one = probabilities(model, images, prepare).argmax(1).numpy() == labels
    mirror = probabilities(model, images, prepare, flip=True).argmax(1).numpy() == labels
    row = found["mirror"]
    assert (row["only_this"], row["only_one"]) == ((mirror & ~one).sum(), (one & ~mirror).sum())
    assert row["only_this"] + row["only_one"] > 0
    table = [[0, row["only_this"]], [row["only_one"], 0]]
    assert row["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    p_values = [found[name]["p"] for name in ("mirror", "ten_crop")]
    corrected = [found[name]["p_holm"] for name in ("mirror", "ten_crop")]
    np.testing.assert_allclose(corrected, multipletests(p_values, method="holm")[1])
    assert "p" not in found["one"]


@pytest.mark.parametrize("kind", ["brightness", "occlusion"])
@pytest.mark.parametrize("flip", [False, True])
def test_damage_is_scored_at_each_severity(model, images, flip, kind):
    prepare = Prepare(CFG)
    labels = probabilities(model, images, prepare, flip=flip).argmax(1).numpy()
    rows = damaged(model, images, labels, prepare, kind, flip=flip, seed=3)
    assert [row["severity"] for row in rows] == list(CORRUPTIONS[kind].severities)
    for row in rows:
        worse = corrupt(images, kind, row["severity"], seed=3)
        answers = probabilities(model, worse, prepare, flip=flip).argmax(1).numpy()
        assert row["accuracy"] == (answers == labels).mean()
        assert row["unit"] == CORRUPTIONS[kind].unit
    assert rows[2]["accuracy"] < rows[0]["accuracy"] <= 1


def test_small_images_are_not_scored_at_resolutions_that_they_do_not_exceed(model, images):
    rows = damaged(model, images[..., :24, :24], np.zeros(120, int), Prepare(CFG), "resolution")
    assert [row["severity"] for row in rows] == [16, 12, 8]


def test_numbers_of_passes_match_the_images_that_the_model_sees(model, images):
    """The number of images that are evaluated on a CPU depends on them."""
    prepare, labels = Prepare(CFG), np.zeros(120, int)
    for flip in (False, True):
        model.seen = 0
        for kind in CORRUPTIONS:
            damaged(model, images, labels, prepare, kind, flip=flip)
        assert model.seen == 120 * damage_passes(flip)
    model.seen = 0
    compare_views(model, images, labels, prepare)
    assert model.seen == 120 * view_passes()
