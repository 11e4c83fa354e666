"""Exact copies, found by hash, and near copies, compared with brute force."""

import numpy as np
import pytest

from fer_lib.data.copies import copy_groups, near_copies


def brute_force(images: np.ndarray, threshold: float) -> dict[tuple[int, int], bool]:
    """Return the pairs whose correlation reaches the threshold, and whether each is mirrored."""
    found = {}
    for i in range(len(images)):
        for j in range(i + 1, len(images)):
            sides = [
                np.corrcoef(images[i].ravel(), other.ravel())[0, 1]
                for other in (images[j], images[j][..., ::-1])
            ]
            if max(sides) >= threshold:
                found[i, j] = bool(np.argmax(sides))
    return found


def test_copies_share_a_group_number_in_order_of_appearance(smooth_noise):
    images = smooth_noise(5)[[0, 1, 0, 2, 1]]
    assert copy_groups(images).tolist() == [0, 1, 0, 2, 1]
    assert copy_groups(images[::-1]).tolist() == [0, 1, 2, 0, 2]  # a view, not contiguous
    assert copy_groups(images[:0]).shape == (0,)


def test_images_that_differ_in_one_pixel_are_not_copies(smooth_noise):
    images = smooth_noise(1).repeat(2, 0)
    images[1, 0, 47, 47] ^= 1
    assert copy_groups(images).tolist() == [0, 1]


@pytest.mark.parametrize(("side", "channels"), [(48, 1), (100, 3), (52, 1), (8, 1)])
def test_near_copies_agree_with_brute_force(side, channels, smooth_noise):
    images = smooth_noise(40, side, channels)
    images[7] = images[3] // 2 + 30  # darker, less contrast
    images[20] = images[11][..., ::-1]  # mirrored
    images[30, :, : side // 6] = 255  # a watermark
    images[31] = images[30]
    images[31, :, : side // 6] = 0
    noise = np.random.default_rng(1).normal(0, 12, images[15].shape)
    images[35] = np.clip(images[15][..., ::-1] + noise, 0, 255)
    near = near_copies(images)

    expected = brute_force(images, 0.92)
    assert {(3, 7), (11, 20), (15, 35)} <= set(expected)
    assert {tuple(pair): side for pair, side in zip(near.pairs, near.mirrored, strict=True)} == (
        expected
    )
    for (i, j), mirrored, r in zip(*near, strict=True):
        other = images[j][..., ::-1] if mirrored else images[j]
        assert r == pytest.approx(np.corrcoef(images[i].ravel(), other.ravel())[0, 1], abs=1e-5)


def test_exact_copies_are_not_near_copies_and_each_group_is_compared_once(smooth_noise):
    images = smooth_noise(10)
    images[[4, 6]] = images[2]
    images[9] = images[2] // 2
    assert near_copies(images).pairs.tolist() == [[2, 9]]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_symmetric_pair_counts_once_with_its_higher_correlation(mirrored, smooth_noise):
    images = smooth_noise(6)
    images[0] = np.maximum(images[0], images[0][..., ::-1])
    images[0, :, :6] = images[1, :, :6]  # not quite symmetric
    images[1] = (images[0][..., ::-1] if mirrored else images[0]) // 2
    near = near_copies(images, 0.8)
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.8
    assert np.corrcoef(images[0].ravel(), images[1][..., ::-1].ravel())[0, 1] > 0.8
    assert near.pairs.tolist() == [[0, 1]]
    assert near.mirrored.tolist() == [mirrored]
    assert near.correlation[0] > 0.999


def test_a_flat_image_has_no_near_copies(smooth_noise):
    images = smooth_noise(4)
    images[2], images[3] = 7, 8
    assert not len(near_copies(images).pairs)


def test_near_copies_are_found_across_blocks(smooth_noise):
    """There are more images than one block of the matrix product contains."""
    images = smooth_noise(2200, 16)
    images[2150] = images[5][..., ::-1]
    images[1030] = images[1023] // 2
    images[2100] = images[1500] // 2
    near = near_copies(images, 0.97)
    assert near.pairs.tolist() == [[5, 2150], [1023, 1030], [1500, 2100]]
    assert near.mirrored.tolist() == [True, False, False]
