"""Augment a whole batch on its device, with separate random draws for each image.

Flip, rotation, shift, scale, crop and the resize to the model's input are one affine map and one
`grid_sample`; photometric changes, noise and erasing follow. torchvision's v2 transforms draw once
for a batch; kornia draws for each image, but takes no generator, and about twice as long
for the same operations (benchmarks/README.md has the command). So the project has its own.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fer_lib.files import InputError

HOLES, HOLE = 4, 1 / 8
"""Number of squares of coarse dropout, and the side of one, as a share of the image's side."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for each training image; by default nothing.

    Attributes:
        flip: probability of a mirrored image.
        affine: probability of the rotation, shift and scale below.
        rotate: largest rotation, degrees.
        translate: largest shift, share of the side.
        scale: range of the zoom; above 1 enlarges the face.
        crop: range of the share of the area that a random resized crop keeps; (1, 1) for none. The
            crop's sides are in a ratio of 3:4 to 4:3, as far as they fit into the image.
        photometric: probability of the brightness and contrast changes.
        brightness: largest change, share of the full range.
        contrast: largest relative change about the image's mean.
        noise: probability of Gaussian noise.
        noise_std: standard deviation of the noise, share of the full range.
        dropout: probability of coarse dropout, which sets `HOLES` squares of the image to the
            data's mean.
        erase: probability of random erasing: after normalisation, one rectangle is filled with
            normal noise (https://arxiv.org/abs/1708.04896).
    """

    flip: float = 0.0
    affine: float = 0.0
    rotate: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] = (1.0, 1.0)
    photometric: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    noise_std: float = 0.05
    dropout: float = 0.0
    erase: float = 0.0

    def __post_init__(self):
        for one in fields(self):
            value, pair = getattr(self, one.name), one.name in ("scale", "crop")
            numbers = value if pair and isinstance(value, tuple) else (value,)
            if len(numbers) != 1 + pair or not all(map(_is_number, numbers)):
                kind = "two numbers, low first, both" if pair else "a number,"
                raise InputError(f"augmentation {one.name} must be {kind} 0 or more, not {value!r}")
            if pair and not 0 < value[0] <= value[1]:
                raise InputError(
                    f"augmentation {one.name} must be a range above 0, low first, not {value}"
                )
        shares = ("flip", "affine", "translate", "photometric", "brightness", "contrast", "noise")
        for name in (*shares, "dropout", "erase"):
            if getattr(self, name) > 1:
                raise InputError(f"augmentation {name} is at most 1, not {getattr(self, name)}")
        if self.crop[1] > 1:
            raise InputError(
                f"augmentation crop must be at most 1, which is the whole area, not {self.crop}"
            )


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number (not a bool) of at least 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


class Draw:
    """Random numbers for `n` images from one generator, on its device."""

    def __init__(self, n: int, generator: Generator):
        self.n, self.generator, self.device = n, generator, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw (n, *shape) float32 uniformly between `low` and `high`."""
        size = (self.n, *shape)
        return low + (high - low) * torch.rand(size, generator=self.generator, device=self.device)

    def normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def happens(self, probability: float) -> Tensor:
        """Draw (n,) bool, each True with this probability."""
        return self.uniform(0, 1) < probability


def affine_maps(config: Augmentation, draw: Draw) -> Tensor:
    """Draw one map from output to input coordinates for each image: (n, 2, 3) float32.

    Coordinates run from -1 to 1 across the image, as `affine_grid` expects.
    """
    on = draw.happens(config.affine)
    mirror = torch.where(draw.happens(config.flip), -1.0, 1.0)
    angle = torch.where(on, draw.uniform(-1, 1) * math.radians(config.rotate), 0.0)
    zoom = torch.where(on, draw.uniform(*config.scale), 1.0)
    shift = torch.where(on[:, None], 2 * config.translate * draw.uniform(-1, 1, 2), 0.0)
    # A random resized crop zooms each side and shifts, with the window kept inside the image.
    area = draw.uniform(*config.crop)
    ratio = 1.0
    if config.crop[0] < 1:  # no side is longer than the image's: area <= ratio <= 1 / area
        most = (-area.log()).clamp(0, math.log(4 / 3))
        ratio = torch.exp(draw.uniform(-1, 1) * most)
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    shift = shift + draw.uniform(-1, 1, 2) * (1 - torch.stack([width, height], dim=1))
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = [cosine * width * mirror, -sine * height, shift[:, 0]]
    rows += [sine * width * mirror, cosine * height, shift[:, 1]]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def warp(images: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample (B, C, H, W) images through (B, 2, 3) maps, bilinearly and with repeated edges.

    Returns:
        (B, C, *size).
    """
    grid = F.affine_grid(maps, [len(images), images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def photometric(images: Tensor, config: Augmentation, draw: Draw) -> Tensor:
    """Change brightness and contrast of (B, C, H, W) images in 0..1."""
    on = draw.happens(config.photometric)
    factor = 1 + torch.where(on, draw.uniform(-1, 1) * config.contrast, 0.0)
    offset = torch.where(on, draw.uniform(-1, 1) * config.brightness, 0.0)
    mean = images.mean((1, 2, 3), keepdim=True)
    wide = (-1, 1, 1, 1)
    return ((images - mean) * factor.view(wide) + mean + offset.view(wide)).clamp_(0, 1)


def noise(images: Tensor, config: Augmentation, draw: Draw) -> Tensor:
    """Add Gaussian noise to some of the (B, C, H, W) images in 0..1."""
    deviation = draw.happens(config.noise) * config.noise_std
    return (images + draw.normal(images.shape) * deviation.view(-1, 1, 1, 1)).clamp_(0, 1)


def rectangles(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: torch.Size
) -> Tensor:
    """Return masks (B, 1, *size) bool: is a pixel's centre inside any of an image's R rectangles?

    Args:
        top, left, height, width: (B, R), in shares of the image's side.
    """
    rows = (torch.arange(size[0], device=top.device) + 0.5) / size[0]
    columns = (torch.arange(size[1], device=top.device) + 0.5) / size[1]
    inside_rows = (rows >= top[..., None]) & (rows < (top + height)[..., None])  # (B, R, H)
    inside_columns = (columns >= left[..., None]) & (columns < (left + width)[..., None])
    return (inside_rows[..., :, None] & inside_columns[..., None, :]).any(1, keepdim=True)


def coarse_dropout(images: Tensor, config: Augmentation, draw: Draw) -> Tensor:
    """Set squares of some normalised (B, C, H, W) images to 0, the mean of the data.

    As Cutout, https://arxiv.org/abs/1708.04552, but with several squares.
    """
    corner = draw.uniform(0, 1 - HOLE, HOLES, 2)
    side = torch.full_like(corner[..., 0], HOLE) * draw.happens(config.dropout)[:, None]
    mask = rectangles(corner[..., 0], corner[..., 1], side, side, images.shape[2:])
    return images.masked_fill_(mask, 0.0)


def erase(images: Tensor, config: Augmentation, draw: Draw) -> Tensor:
    """Fill one rectangle of some normalised (B, C, H, W) images with standard normal noise.

    It has 2 to 33 % of the image's area (up to 40 % in the paper), and sides in a ratio of 0.3 to
    3.3, as in the paper.
    """
    area = draw.uniform(0.02, 0.33)
    ratio = torch.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
    height = (area * ratio).sqrt().clamp(max=1.0) * draw.happens(config.erase)
    width = (area / ratio).sqrt().clamp(max=1.0)
    top, left = draw.uniform(0, 1) * (1 - height), draw.uniform(0, 1) * (1 - width)
    box = (side[:, None] for side in (top, left, height, width))
    return torch.where(rectangles(*box, images.shape[2:]), draw.normal(images.shape), images)


class Prepare:
    """Turn uint8 images into what a model takes: channels, size, augmentation, normalisation.

    Call it with (B, c, h, w) uint8 to get (B, C, H, W) float32. Without a config or without a
    generator, nothing is drawn, as validation and test require.

    Args:
        pretrained_cfg: the model's, with `input_size` (C, H, W), and `mean` and `std` (C,) of
            values in 0..1.
        device: the model's device, to which images from elsewhere are moved.
    """

    def __init__(self, pretrained_cfg: dict, device: torch.device | str = "cpu"):
        self.channels, *size = pretrained_cfg["input_size"]
        self.size, self.device = tuple(size), torch.device(device)
        column = lambda key: torch.tensor(pretrained_cfg[key], device=device).view(-1, 1, 1)
        self.mean, self.std = column("mean"), column("std")
        self.luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(-1, 1, 1)

    def __call__(
        self,
        images: Tensor,
        config: Augmentation | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        x = self.grey(images.to(self.device).float().div_(255))
        if config is None or generator is None:
            return (self.resize(x) - self.mean) / self.std
        draw = Draw(len(x), generator)
        if self.size[0] < x.shape[2]:  # grid_sample alone would alias, and validation does not
            x = self.resize(x)
        x = warp(x, affine_maps(config, draw), self.size)
        if config.photometric:
            x = photometric(x, config, draw)
        if config.noise:
            x = noise(x, config, draw)
        x = (x - self.mean) / self.std
        if config.dropout:
            x = coarse_dropout(x, config, draw)
        return erase(x, config, draw) if config.erase else x

    def grey(self, x: Tensor) -> Tensor:
        """Convert RGB to grey (ITU-R 601-2 luma, as in PIL) if the model takes one channel.

        (B, 3, h, w) -> (B, 1, h, w). The opposite needs no code: a grey image minus three means has
        three channels.
        """
        if x.shape[1] <= self.channels:
            return x
        return (x * self.luma).sum(1, keepdim=True)

    def resize(self, x: Tensor) -> Tensor:
        """Resize (B, C, h, w) to the model's (H, W), with antialiasing if images become smaller."""
        if x.shape[2:] == self.size:
            return x
        smaller = self.size[0] < x.shape[2]
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=smaller)


def mix(
    images: Tensor, targets: Tensor, generator: Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix each image with a random image of its batch, and their targets by the same shares.

    If both methods are on, each image gets one of them with equal chance. The share that an image
    keeps is drawn for each image from Beta(alpha, alpha). mixup: https://arxiv.org/abs/1710.09412;
    CutMix: https://arxiv.org/abs/1905.04899 (the target's share is the exact share of pixels kept).

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) float, hard or soft; every row keeps its sum.
        generator: a generator on the device of the images.
        mixup, cutmix: alpha of the Beta distribution; 0 turns the method off.

    Returns:
        The mixed images and targets, in the same shapes.
    """
    if not mixup and not cutmix:
        return images, targets
    draw = Draw(len(images), generator)
    partner = draw.uniform(0, 1).argsort()
    cut = draw.happens(0.5 if mixup and cutmix else float(bool(cutmix)))
    share = torch.where(cut, beta(cutmix, draw), beta(mixup, draw))  # what the image keeps
    side = (1 - share).sqrt()
    centre = draw.uniform(0, 1, 2)
    low = (centre - side[:, None] / 2).clamp(0, 1)
    high = (centre + side[:, None] / 2).clamp(0, 1)
    height, width = (high - low).unbind(1)
    box = rectangles(*(v[:, None] for v in (low[:, 0], low[:, 1], height, width)), images.shape[2:])
    kept = torch.where(cut[:, None, None, None], 1.0 - box.float(), share[:, None, None, None])
    images = images * kept + images[partner] * (1 - kept)
    kept = kept.mean((1, 2, 3))[:, None]
    return images, targets * kept + targets[partner] * (1 - kept)


def beta(alpha: float, draw: Draw) -> Tensor:
    """Draw (n,) float32 from Beta(alpha, alpha); ones if alpha is 0.

    It calls the kernel of `torch.distributions.Beta`, which itself takes no generator.
    """
    if not alpha:
        return torch.ones(draw.n, device=draw.device)
    concentration = torch.full((draw.n, 2), alpha, device=draw.device)
    return torch._sample_dirichlet(concentration, generator=draw.generator)[:, 0]
