"""Finding copies of an image: byte-identical ones by hash, near ones by correlation."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NEAR = 0.92
"""Correlation from which two images count as near copies, see docs/experiments.md."""

CELLS = 12  # cells on each side of the small pictures in which candidates are searched


def copy_groups(images: np.ndarray) -> np.ndarray:
    """Number the groups of byte-identical images.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        (N,) int64: the group of each image. Groups are numbered from 0 in order of appearance.
    """
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(np.ascontiguousarray(i), digest_size=16).digest() for i in images)
    return np.fromiter((seen.setdefault(d, len(seen)) for d in digests), np.int64, len(images))


class NearCopies(NamedTuple):
    """Pairs of images that are nearly the same picture; row k of every array is the same pair.

    Attributes:
        pairs: (P, 2) int64 row numbers, the lower one first; the pairs are sorted.
        mirrored: (P,) bool, whether the second image must be mirrored to look like the first.
        correlation: (P,) float32 in 0..1, correlation of all pixels.
    """

    pairs: np.ndarray
    mirrored: np.ndarray
    correlation: np.ndarray


def near_copies(images: np.ndarray, threshold: float = NEAR) -> NearCopies:
    """Find pairs of different images whose pixels correlate, as they are or with one mirrored.

    Pearson's correlation over all pixels ignores brightness and contrast, and changes little with a
    watermark, a re-encoding or a crop moved by one pixel; a crop moved further is not found. Of
    each group of byte-identical images only the first is compared. An image with the same value in
    all pixels is no near copy of any other.

    Candidates are the pairs whose 12x12 means have a correlation that reaches the threshold; as a
    rule, it is higher than that of all pixels. The candidates are then confirmed at full size. This
    is several times faster than comparing all pairs at full size.

    Args:
        images: (N, C, H, W) uint8.
        threshold: correlation from which two images count as near copies.
    """
    _, first = np.unique(copy_groups(images), return_index=True)
    distinct = images[first]
    upright = _unit(_means(distinct))
    found = []
    for mirrored in (False, True):
        other = _unit(_means(distinct[..., ::-1])) if mirrored else upright
        for pairs in _candidates(upright, other, threshold):
            correlation = _correlation(distinct, pairs, mirrored)
            keep = correlation >= threshold
            found.append((pairs[keep], np.full(keep.sum(), mirrored), correlation[keep]))
    pairs, flags, correlation = (np.concatenate(column) for column in zip(*found, strict=True))
    # A symmetric face may be found both ways: the stronger correlation, sorted first, is kept.
    order = np.lexsort((-correlation, pairs[:, 1], pairs[:, 0]))
    pairs, keep = np.unique(pairs[order], axis=0, return_index=True)
    return NearCopies(first[pairs], flags[order][keep], correlation[order][keep])


def _means(images: np.ndarray) -> np.ndarray:
    """Return means of about `CELLS` x `CELLS` squares, over the channels too: (N, h, w) float32."""
    n, c, height, width = images.shape
    side = max(1, min(height, width) // CELLS)
    h, w = height // side, width // side
    top, left = (height - h * side) // 2, (width - w * side) // 2
    middle = images[:, :, top : top + h * side, left : left + w * side]
    return middle.reshape(n, c, h, side, w, side).mean((1, 3, 5), dtype=np.float32)


def _unit(images: np.ndarray) -> np.ndarray:
    """Return each image as a row of mean 0 and norm 1: a dot product is then a correlation."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def _candidates(a: np.ndarray, b: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """Yield, block by block, the pairs (P, 2) of rows i < j with a[i] @ b[j] >= threshold."""
    block = 1024
    for start in range(0, len(a), block):
        product = a[start : start + block] @ b[start:].T
        row, column = np.divmod(np.flatnonzero(product >= threshold), product.shape[1])
        yield np.stack([row, column], 1)[column > row] + start
    yield np.empty((0, 2), np.int64)


def _correlation(images: np.ndarray, pairs: np.ndarray, mirrored: bool) -> np.ndarray:
    """Return the correlation of each pair at full size, (P,) float32."""
    result = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), 256):
        left, right = pairs[start : start + 256].T
        other = images[right][..., ::-1] if mirrored else images[right]
        product = np.einsum("nd,nd->n", _unit(images[left]), _unit(other))
        result[start : start + 256] = np.clip(product, -1, 1)
    return result
