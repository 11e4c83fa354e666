"""Corruptions: none at the clean severity, stronger at each severity, the same for a seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from fer_lib.data.drawing import draw
from fer_lib.evaluate.corruptions import CORRUPTIONS, corrupt, undamaged
from fer_lib.files import InputError

KINDS = pytest.mark.parametrize("kind", CORRUPTIONS)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """24 drawn faces."""
    return torch.from_numpy(draw(np.arange(24) % 7, seed=0))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels."""
    error = (a.float() - b.float()).square().mean()
    return float(20 * np.log10(255) - 10 * torch.log10(error))


@KINDS
def test_the_clean_severity_changes_nothing(images, kind):
    assert torch.equal(corrupt(images, kind, undamaged(kind, images)), images)
    assert undamaged(kind, images) == (48 if kind == "resolution" else 0)


@KINDS
def test_dtype_and_shape_are_kept_and_the_input_is_not_changed(images, kind):
    before = images.clone()
    for severity in CORRUPTIONS[kind].severities:
        worse = corrupt(images, kind, severity)
        assert worse.dtype == torch.uint8
        assert worse.shape == images.shape
        assert not torch.equal(worse, images)
    assert torch.equal(images, before)
    colour = images[:6].expand(-1, 3, -1, -1)
    assert corrupt(colour, kind, CORRUPTIONS[kind].severities[0]).shape == colour.shape


@KINDS
def test_random_damage_depends_only_on_the_seed(images, kind):
    severity = CORRUPTIONS[kind].severities[-1]
    torch.manual_seed(1)
    first = corrupt(images, kind, severity, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, corrupt(images, kind, severity, seed=3))
    drawn = kind in ("noise", "occlusion", "rotation")
    assert torch.equal(first, corrupt(images, kind, severity, seed=4)) != drawn


@KINDS
def test_every_severity_is_worse_than_the_one_before(images, kind):
    severities = CORRUPTIONS[kind].severities
    assert len(severities) in (4, 5)
    sides = [[s for s in severities if s * sign > 0] for sign in (1, -1)]  # brighter, darker
    for side in filter(None, sides):
        ratios = [psnr(images, corrupt(images, kind, severity)) for severity in side]
        assert ratios == sorted(ratios, reverse=True)
        assert ratios[0] > ratios[-1] + 2


def test_blur_is_the_same_as_in_scipy(images):
    found = corrupt(images, "blur", 1.5)[0, 0]
    whole = images[0, 0].numpy().astype(float)
    expected = ndimage.gaussian_filter(whole, 1.5, mode="mirror", radius=5)
    assert np.abs(found.numpy() - expected).max() < 1


def test_convolutions_do_not_use_tf32(images, monkeypatch):
    exact = []

    def apply(images, *_):
        exact.append(not torch.backends.cudnn.allow_tf32)
        return images

    monkeypatch.setitem(CORRUPTIONS, "blur", replace(CORRUPTIONS["blur"], apply=apply))
    with torch.backends.cudnn.flags(allow_tf32=True):
        corrupt(images, "blur", 1.5)
    assert exact == [True]


def test_noise_has_the_given_standard_deviation():
    grey = torch.full((40, 1, 48, 48), 128, dtype=torch.uint8)
    off = corrupt(grey, "noise", 20).float() - 128
    assert off.std().item() == pytest.approx(20, rel=0.02)
    assert off.mean().item() == pytest.approx(0, abs=0.3)


def test_brightness_shifts_grey_levels_and_clips_them(images):
    expected = (images.int() + 100).clamp(0, 255).to(torch.uint8)
    assert torch.equal(corrupt(images, "brightness", 100), expected)


def test_occlusion_covers_a_square_of_the_given_side(images):
    changed = (corrupt(images, "occlusion", 16) != images)[:, 0]
    for mask in changed:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        for places in (rows, columns):
            assert 14 <= int(places.max() - places.min()) + 1 <= 17
        assert mask.sum() > 0.9 * 16**2  # a covered pixel may have had the mean grey before
    places = {tuple(mask.nonzero()[0].tolist()) for mask in changed}
    assert len(places) > 20


def test_rotation_turns_half_of_the_images_to_each_side():
    """A white bar to the right of the middle ends above or below it."""
    bar = torch.zeros(200, 1, 48, 48, dtype=torch.uint8)
    bar[:, :, 23:25, 34:38] = 255
    turned = corrupt(bar, "rotation", 45)[:, 0].float()
    weight = turned.sum((1, 2))
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    y = (turned * rows).sum((1, 2)) / weight - 23.5
    x = (turned * columns).sum((1, 2)) / weight - 23.5
    expected = 12 * np.sin(np.pi / 4)  # the bar is 12 pixels from the middle
    assert torch.allclose(y.abs(), torch.tensor(expected).float(), atol=0.6)
    assert torch.allclose(x, torch.tensor(expected).float(), atol=0.6)
    assert 70 < (y > 0).sum() < 130


def test_resolution_removes_details_smaller_than_its_pixels():
    """Stripes one pixel wide vanish at half the resolution; a step at the middle stays."""
    stripes = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    stripes[..., ::2] = 255
    assert corrupt(stripes, "resolution", 24)[..., 2:-2].float().std() < 10
    step = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    step[..., 24:] = 255
    low = corrupt(step, "resolution", 8)
    assert low[..., :12].max() == 0
    assert low[..., 36:].min() == 255


@pytest.mark.parametrize("kind", [name for name in CORRUPTIONS if name != "noise"])
def test_lengths_grow_with_the_image(images, kind):
    """A face of twice the size is damaged in the same way."""
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    severity = CORRUPTIONS[kind].severities[2]
    shrunk = corrupt(large, kind, severity).float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    small = corrupt(images, kind, severity).float()
    assert (shrunk - small).abs().mean() < 0.35 * (small - images).abs().mean()


def test_an_unknown_kind_is_refused(images):
    with pytest.raises(InputError, match="use one of blur"):
        corrupt(images, "rain", 1)
