"""Test that augmentation draws for each image separately, by the seed, and within its limits."""

import math

import numpy as np
import pytest
import torch

from fer_lib import augment
from fer_lib.augment import Augmentation, Draw, Prepare, mix
from fer_lib.files import InputError

GREY = {"input_size": (1, 48, 48), "mean": (0.5,), "std": (0.5,)}
EVERYTHING = Augmentation(
    flip=0.5,
    affine=0.7,
    rotate=15,
    translate=0.1,
    scale=(0.85, 1.15),
    crop=(0.85, 1),
    photometric=0.5,
    brightness=0.2,
    contrast=0.2,
    noise=0.2,
    dropout=0.3,
    erase=0.25,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def copies(n=64):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 48, 48), np.uint8))
    return image.expand(n, -1, -1, -1).contiguous()


@pytest.mark.parametrize(
    "config",
    [
        Augmentation(flip=0.5),
        Augmentation(affine=1, rotate=15),
        Augmentation(affine=1, translate=0.1),
        Augmentation(affine=1, scale=(0.8, 1.2)),
        Augmentation(crop=(0.5, 1)),
        Augmentation(photometric=1, brightness=0.2),
        Augmentation(photometric=1, contrast=0.2),
        Augmentation(noise=1),
        Augmentation(dropout=1),
        Augmentation(erase=1),
        EVERYTHING,
    ],
)
def test_each_image_has_its_own_draw_which_follows_from_the_seed(config):
    prepare = Prepare(GREY)
    first = prepare(copies(), config, generator(1))
    assert torch.equal(first, prepare(copies(), config, generator(1)))
    assert not torch.equal(first, prepare(copies(), config, generator(2)))
    # All 64 inputs are the same image, so a draw shared by the batch would give equal outputs.
    distinct = len(torch.unique(first.flatten(1), dim=0))
    assert distinct == 2 if config == Augmentation(flip=0.5) else distinct > 32


def test_nothing_is_drawn_without_a_generator_or_by_default():
    prepare = Prepare(GREY)
    plain = (copies(2).float() / 255 - 0.5) / 0.5
    assert torch.equal(prepare(copies(2)), plain)
    torch.testing.assert_close(prepare(copies(2), Augmentation(), generator()), plain)


def test_flip_mirrors():
    prepare = Prepare(GREY)
    out = prepare(copies(4), Augmentation(flip=1.0), generator())
    torch.testing.assert_close(out, prepare(copies(4)).flip(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        *({"affine": 0.7, "rotate": 15}, {"affine": 0.7, "translate": 0.1}),
        *({"affine": 0.7, "scale": (0.5, 0.8)}, {"photometric": 0.7, "brightness": 0.2}),
        *({"photometric": 0.7, "contrast": 0.2}, {"noise": 0.7}, {"dropout": 0.7}, {"erase": 0.7}),
    ],
)
def test_probability_is_the_share_of_images_changed(changes):
    out = Prepare(GREY)(copies(2000), Augmentation(**changes), generator())
    changed = (out - Prepare(GREY)(copies(1))).abs().amax((1, 2, 3)) > 1e-3
    assert abs(changed.float().mean().item() - 0.7) < 0.04


@pytest.mark.parametrize(("zoom", "side"), [(2.0, 32), (0.5, 8)])
def test_scale_zooms_about_the_centre(zoom, side):
    square = torch.zeros(1, 1, 48, 48)
    square[..., 16:32, 16:32] = 1
    config = Augmentation(affine=1, scale=(zoom, zoom))
    maps = augment.affine_maps(config, Draw(1, generator()))
    assert abs(augment.warp(square, maps, (48, 48)).sum().sqrt() - side) < 0.5


def test_rotation_and_shift_stay_within_their_limits():
    config = Augmentation(affine=1, rotate=15, translate=0.1)
    maps = augment.affine_maps(config, Draw(5000, generator()))
    angles = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]) * 180 / math.pi
    shifts = maps[:, :, 2]
    for sign in (-1, 1):  # to both sides
        assert 14.5 < (sign * angles).max() <= 15.001
        assert 0.19 < (sign * shifts).max() <= 0.2001  # coordinates run from -1 to 1


def test_rotated_images_are_neither_sheared_nor_stretched_if_they_are_mirrored_too():
    config = Augmentation(flip=0.5, affine=1, rotate=30)
    turned = augment.affine_maps(config, Draw(100, generator()))[:, :, :2]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(2).expand(100, 2, 2))
    assert turned.det().round().unique().tolist() == [-1, 1]


def test_what_a_map_shows_outside_the_image_repeats_its_edge():
    config = Augmentation(affine=1, rotate=45, translate=0.5)
    maps = augment.affine_maps(config, Draw(64, generator()))
    white = torch.ones(64, 1, 48, 48)
    torch.testing.assert_close(augment.warp(white, maps, (48, 48)), white)


def test_crop_has_the_given_area_and_moves_inside_the_image():
    maps = augment.affine_maps(Augmentation(crop=(0.25, 0.25)), Draw(1000, generator()))
    width, height = maps[:, 0, 0], maps[:, 1, 1]
    torch.testing.assert_close(width * height, torch.full((1000,), 0.25))
    ratio = width / height
    assert 0.749 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.334
    for side, shift in ((width, maps[:, 0, 2]), (height, maps[:, 1, 2])):
        for sign in (-1, 1):  # some windows reach the edge, on both sides
            assert 0.98 < (side + sign * shift).max() <= 1.0001


def test_a_large_crop_keeps_its_share_of_the_area_and_fits_into_the_image():
    """A ratio of 4:3 would make one side of a window of this area longer than the image's."""
    maps = augment.affine_maps(Augmentation(crop=(0.85, 1)), Draw(5000, generator()))
    width, height = maps[:, 0, 0], maps[:, 1, 1]
    area = width * height
    assert 0.8499 < area.min() < 0.851
    assert abs(area.mean().item() - 0.925) < 0.003
    assert area.max() <= 1.0001
    assert (width / height).log().std() > 0.03
    for side, shift in ((width, maps[:, 0, 2]), (height, maps[:, 1, 2])):
        assert (side + shift.abs()).max() <= 1.0001


def test_photometric_change_and_noise_have_the_given_size_and_stay_in_range():
    grey = torch.full((4000, 1, 4, 4), 0.5)
    config = Augmentation(photometric=1, brightness=0.2, noise=1, noise_std=0.05)
    brighter = augment.photometric(grey, config, Draw(4000, generator())).mean((1, 2, 3)) - 0.5
    for sign in (-1, 1):
        assert 0.19 < (sign * brighter).max() <= 0.2001
    noisy = augment.noise(grey, config, Draw(4000, generator()))
    assert abs(noisy.std().item() - 0.05) < 0.001
    white = augment.photometric(torch.ones(100, 1, 4, 4), config, Draw(100, generator()))
    assert white.max() <= 1


def test_contrast_changes_by_the_given_share_about_the_mean():
    stripes = torch.full((4000, 1, 4, 4), 0.4)
    stripes[..., ::2] = 0.6
    stripes[::2] += 0.2  # each image has its own mean
    config = Augmentation(photometric=1, contrast=0.2)
    out = augment.photometric(stripes, config, Draw(4000, generator()))
    factor = (out.amax((1, 2, 3)) - out.amin((1, 2, 3))) / 0.2
    assert 0.799 < factor.min() < 0.81
    assert 1.19 < factor.max() < 1.201
    torch.testing.assert_close(out.mean((1, 2, 3)), stripes.mean((1, 2, 3)))


def test_erasing_fills_2_to_33_percent_with_standard_normal_noise():
    out = augment.erase(
        torch.full((2000, 1, 48, 48), 9.0), Augmentation(erase=1), Draw(2000, generator())
    )
    erased = (out != 9).float().mean((1, 2, 3))
    assert 0.01 < erased.min() < 0.03
    assert 0.31 < erased.max() < 0.36
    assert (out != 9).any(0).all()  # anywhere in the image
    height, width = ((out != 9).any(side).sum((1, 2)) for side in (3, 2))
    assert (height / width).min() < 0.36
    assert (height / width).max() > 2.8
    assert abs(out[out != 9].std().item() - 1) < 0.01


def test_coarse_dropout_sets_holes_to_the_mean():
    config = Augmentation(dropout=1)
    out = augment.coarse_dropout(torch.ones(500, 1, 48, 48), config, Draw(500, generator()))
    share = (out == 0).float().mean((1, 2, 3))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert share.max() <= 4 / 64 + 0.02
    assert share.min() >= 1 / 64 - 0.005
    assert 0.058 < share.mean() < 4 / 64  # squares overlap, but none is cut by the edge
    for side in (2, 3):  # anywhere in the image
        assert (out == 0).any(0).any(side - 1).all()


def test_holes_are_as_frequent_at_opposite_edges():
    """A pixel tested at its corner would put holes half a pixel too low, and none in row 0."""
    images, config = torch.ones(10_000, 1, 16, 16), Augmentation(dropout=1)
    holes = augment.coarse_dropout(images, config, Draw(10_000, generator())) == 0
    share = holes.float().mean((0, 1))
    assert 0.01 < share[0].mean() < 0.025
    for axis in (0, 1):
        torch.testing.assert_close(share, share.flip(axis), atol=0.02, rtol=0)


def test_erasing_and_coarse_dropout_are_applied_after_normalisation():
    prepare = Prepare(GREY)
    plain = prepare(copies(), Augmentation(), generator())
    erased, holed = (
        out[out != plain]
        for out in (
            prepare(copies(), Augmentation(erase=1), generator()),
            prepare(copies(), Augmentation(dropout=1), generator()),
        )
    )
    assert abs(erased.mean().item()) < 0.03  # -1, with std 2, if normalised afterwards
    assert abs(erased.std().item() - 1) < 0.03
    assert holed.unique().tolist() == [0]


def test_prepare_changes_size_and_channels():
    rgb = {"input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    grey = copies(2)
    out = Prepare(rgb)(grey)
    assert out.shape == (2, 3, 224, 224)
    torch.testing.assert_close(
        out, Prepare(rgb)(grey, Augmentation(), generator()), atol=2e-3, rtol=0
    )
    expected = (grey.float().mean() / 255 - torch.tensor(rgb["mean"])) / torch.tensor(rgb["std"])
    torch.testing.assert_close(out.mean((0, 2, 3)), expected, atol=0.02, rtol=0)
    colours = 255 * torch.eye(3, dtype=torch.uint8).view(3, 3, 1, 1).expand(3, 3, 48, 48)
    luma = Prepare(GREY)(colours).mean((1, 2, 3)) / 2 + 0.5
    assert luma.tolist() == pytest.approx([0.299, 0.587, 0.114], abs=1e-5)


@pytest.mark.parametrize(
    "how", [{"mixup": 0.2, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]
)
def test_mixed_targets_match_the_shares_of_the_pixels(how):
    n = 256
    images = torch.eye(n).view(n, n, 1, 1).expand(n, n, 16, 16).clone()  # channel i marks image i
    soft = torch.softmax(torch.randn(n, 7, generator=generator()), 1)
    mixed, answer = mix(images, soft, generator(3), **how)
    torch.testing.assert_close(answer.sum(1), torch.ones(n))
    shares = mixed.mean((2, 3))  # (n, n): share of each image in each result
    torch.testing.assert_close(answer, shares @ soft, atol=1e-4, rtol=0)
    assert len(shares.diagonal().mul(1000).round().unique()) > 20  # each image has its own share


def test_the_share_that_an_image_keeps_follows_the_beta_distribution_of_its_method():
    n = 1000
    marked = torch.arange(n).view(n, 1, 1, 1).expand(n, 1, 48, 48).float()
    mixed, answer = mix(marked, torch.eye(n), generator(), mixup=0.2, cutmix=1.0)
    kept, cut = answer.diagonal(), mixed.flatten(1).std(1) > 1e-3
    assert cut.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert kept[~cut].var().item() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.02)
    # Of a square of side s whose centre is anywhere, (s - s² / 4)² lies in the image; here s² is
    # uniform, so the mean is 0.321.
    assert kept[cut].mean().item() == pytest.approx(1 - 0.321, abs=0.03)
    partners = (answer - kept.diag()).argmax(1)
    assert len(partners.unique()) > 0.9 * n
    assert (partners.flip(0) != torch.arange(n)).float().mean() > 0.9


def test_reduced_images_are_the_same_in_training_and_validation():
    noise = torch.randint(0, 256, (4, 1, 224, 224), dtype=torch.uint8, generator=generator())
    plain, drawn = Prepare(GREY)(noise), Prepare(GREY)(noise, Augmentation(), generator())
    torch.testing.assert_close(drawn, plain, atol=1e-4, rtol=0)
    assert plain.std() < 0.15  # 0.58 before; pixels are averaged, not left out


def test_mix_returns_its_arguments_if_mixup_and_cutmix_are_0():
    x, y = torch.rand(2, 1, 4, 4), torch.rand(2, 7)
    assert mix(x, y, generator(), mixup=0, cutmix=0) == (x, y)


@pytest.mark.parametrize(
    "values",
    [
        *({"flip": 1.5}, {"flip": True}, {"translate": -0.1}, {"noise_std": -1}),
        *({"rotate": "x"}, {"rotate": float("inf")}),
        *({"scale": (1.2, 0.8)}, {"scale": (0.9,)}, {"scale": 0.9}),
        *({"crop": (0, 1)}, {"crop": (0.5, 2.0)}, {"crop": (0.5, "x")}),
    ],
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Augmentation(**values)
