"""Damage images as a bad camera, bad light or a hand in front of the face does.

Each kind of damage has a severity with a physical unit. Lengths are pixels of a 48 x 48 face and
grow with the image; only the severity of `resolution` is a number of pixels whatever the size of
the image. Images are uint8 before and after. All random draws follow from the seed. They are made
on the CPU, so they are the same on every device, and they are the same for every severity of a
kind.

The idea is from ImageNet-C (https://arxiv.org/abs/1903.12261), whose own levels are meant for
photographs of 224 pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.functional import gaussian_blur

from fer_lib.augment import rectangles, warp
from fer_lib.batches import exact_convolutions
from fer_lib.files import InputError

SIDE = 48


@dataclass(frozen=True)
class Corruption:
    """A kind of damage.

    Attributes:
        apply: function that takes images as float (N, C, H, W) in 0..255, a severity and a
            generator, and returns the damaged images.
        unit: unit of the severity.
        severities: from mild to strong.
        clean: severity that leaves an image unchanged; None for the height of the image.
    """

    apply: Callable[[Tensor, float, Generator], Tensor]
    unit: str
    severities: tuple[float, ...]
    clean: float | None = 0


def blur(images: Tensor, deviation: float, _: Generator) -> Tensor:
    """Blur images with a Gaussian, like a lens out of focus."""
    deviation *= images.shape[2] / SIDE
    # The padding reflects the image, so it must be narrower than a side.
    radius = min(math.ceil(3 * deviation), min(images.shape[2:]) - 1)
    return gaussian_blur(images, 2 * radius + 1, deviation)


def noise(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Add Gaussian noise, independent in every pixel and channel, like a sensor in the dark."""
    return images + deviation * torch.randn(images.shape, generator=generator).to(images.device)


def brightness(images: Tensor, levels: float, _: Generator) -> Tensor:
    """Make every pixel lighter (levels above 0) or darker; `corrupt` clips values out of range."""
    return images + levels


def occlusion(images: Tensor, side: float, generator: Generator) -> Tensor:
    """Cover a square at a random place inside the image with the image's mean grey."""
    share = side / SIDE
    corner = torch.rand(len(images), 1, 2, generator=generator).to(images.device) * (1 - share)
    extent = torch.full_like(corner[..., 0], share)
    mask = rectangles(corner[..., 0], corner[..., 1], extent, extent, images.shape[2:])
    return torch.where(mask, images.mean((1, 2, 3), keepdim=True), images)


def rotation(images: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn images about their middle, each to a random side; edge pixels are repeated."""
    left = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    angle = torch.where(left, -1.0, 1.0) * math.radians(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = images.shape[2:]
    rows = [cosine, -sine * height / width, zero, sine * width / height, cosine, zero]
    return warp(images, torch.stack(rows, dim=1).view(-1, 2, 3), (height, width))


def resolution(images: Tensor, side: float, _: Generator) -> Tensor:
    """Shrink images to a height of `side` pixels and enlarge them again."""
    height, width = size = tuple(images.shape[2:])
    small = [round(side), max(1, round(side * width / height))]
    shrunk = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(shrunk, size, mode="bilinear")


CORRUPTIONS = {
    "blur": Corruption(blur, "pixels (standard deviation)", (0.5, 1, 1.5, 2, 3)),
    "noise": Corruption(noise, "grey levels (standard deviation)", (10, 20, 30, 45, 60)),
    "brightness": Corruption(brightness, "grey levels", (-50, 50, -100, 100)),
    "occlusion": Corruption(occlusion, "pixels (side)", (8, 12, 16, 20, 24)),
    "rotation": Corruption(rotation, "degrees", (10, 20, 30, 45, 60)),
    "resolution": Corruption(resolution, "pixels (side)", (32, 24, 16, 12, 8), clean=None),
}


def undamaged(name: str, images: Tensor) -> float:
    """Return the severity of a kind at which images (N, C, H, W) stay unchanged."""
    clean = CORRUPTIONS[name].clean
    return images.shape[2] if clean is None else clean


def corrupt(images: Tensor, name: str, severity: float, *, seed: int = 0) -> Tensor:
    """Return damaged copies of uint8 images (N, C, H, W), on their device.

    Args:
        name: a key of `CORRUPTIONS`.
        severity: in the unit of the kind; the severity from `undamaged` changes nothing.

    Raises:
        InputError: `name` is unknown.
    """
    if name not in CORRUPTIONS:
        raise InputError(f"corruption {name!r} is unknown: use one of {', '.join(CORRUPTIONS)}")
    kind = CORRUPTIONS[name]
    if severity == undamaged(name, images):
        return images.clone()
    generator = torch.Generator().manual_seed(seed)
    with exact_convolutions():  # a blur is a convolution
        damaged = kind.apply(images.float(), severity, generator)
    return damaged.round().clamp(0, 255).to(torch.uint8)
