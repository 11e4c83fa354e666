"""Evaluate a model on other versions of the same faces: further views, or damaged images."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import ten_crop

from fer_lib.augment import Prepare
from fer_lib.batches import largest_batch, probabilities
from fer_lib.evaluate import holm, mcnemar
from fer_lib.evaluate.calibration import accuracy
from fer_lib.evaluate.corruptions import CORRUPTIONS, corrupt

CROP = 11 / 12
"""Side of each of the ten crops, as a share of the image's side: 44 of 48 pixels."""


def crops(images: Tensor) -> tuple[Tensor, ...]:
    """Crop (N, C, H, W) images to corners and middle; return these five and their mirror images."""
    return ten_crop(images, [round(CROP * length) for length in images.shape[2:]])


VIEWS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "one": lambda images: (images,),
    "mirror": lambda images: (images, images.flip(3)),
    "ten_crop": crops,
}
"""Ways of looking at a face; a prediction is the mean of the probabilities over all views."""


def damage_passes(flip: bool) -> int:
    """Return how often `damaged` passes over the test images for all kinds of damage."""
    return sum(len(kind.severities) for kind in CORRUPTIONS.values()) * (2 if flip else 1)


def view_passes() -> int:
    """Return how often `compare_views` passes over the test images at most, warm-up included."""
    return len(VIEWS) + sum(len(view(torch.zeros(1, 1, 48, 48))) for view in VIEWS.values())


def compare_views(
    model: nn.Module, images: Tensor, labels: np.ndarray, prepare: Prepare
) -> dict[str, dict[str, Any]]:
    """Measure what test-time augmentation by each of `VIEWS` gains over one view, and its cost.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.

    Returns:
        For each of `VIEWS`: `passes` through the model, `milliseconds` per image (measured once, in
        batches, from pixels to probabilities), the entries of `accuracy`, `nll` (nats per image),
        and except for "one" the paired comparison with "one": `only_this`, `only_one` (number of
        images that only this, or only "one", has right), `p` (McNemar, exact), `p_holm` (corrected
        for the number of comparisons).
    """
    right, found = {}, {}
    # The first call of a shape allocates, compiles and plans: warm up with full and last batches.
    for some in {len(some): some for some in images.split(largest_batch(prepare))}.values():
        for view in VIEWS.values():
            probabilities(model, view(some)[-1], prepare).cpu()
    for name, view in VIEWS.items():
        start = time.perf_counter()
        views = view(images)
        p = torch.stack([probabilities(model, one, prepare) for one in views]).mean(0).cpu()
        seconds = time.perf_counter() - start
        right[name] = p.numpy().argmax(1) == labels
        own = p[torch.arange(len(p)), torch.from_numpy(labels)]
        found[name] = {
            "passes": len(views),
            "milliseconds": 1000 * seconds / len(images),
            **accuracy(right[name]),
            "nll": -own.clamp(min=1e-12).log().mean().item(),
        }
    others = [name for name in VIEWS if name != "one"]
    p_values = [mcnemar(right[name], right["one"]) for name in others]
    for name, p_value, corrected in zip(others, p_values, holm(p_values), strict=True):
        found[name] |= {
            "only_this": int((right[name] & ~right["one"]).sum()),
            "only_one": int((right["one"] & ~right[name]).sum()),
            "p": p_value,
            "p_holm": float(corrected),
        }
    return found


def damaged(
    model: nn.Module,
    images: Tensor,
    labels: np.ndarray,
    prepare: Prepare,
    kind: str,
    *,
    flip: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure the accuracy on images under one kind of damage, from mild to strong.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        kind: a key of `corruptions.CORRUPTIONS`.
        flip: average with the mirror image, as in `batches.probabilities`.
        seed: of the random draws of the damage.

    Returns:
        For each severity: `severity`, `unit`, and the entries of `accuracy`. Resolutions that are
        no damage, as the images have no more pixels, are left out.
    """
    rows = []
    for severity in CORRUPTIONS[kind].severities:
        if CORRUPTIONS[kind].clean is None and severity >= images.shape[2]:
            continue
        worse = corrupt(images, kind, severity, seed=seed)
        answers = probabilities(model, worse, prepare, flip=flip).argmax(1).cpu().numpy()
        level = {"severity": severity, "unit": CORRUPTIONS[kind].unit}
        rows.append(level | accuracy(answers == labels))
    return rows
