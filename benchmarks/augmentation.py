"""Compare our augmentation with kornia's, of a whole batch, and torchvision's, image by image.

All apply the same operations, equally often, from uint8 images on the device to normalised float32.
Flip and affine map are equally strong; for brightness, the others multiply where ours adds.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch
from measure import drawn, in_turn, rate, table
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fer_lib.augment import Augmentation, Prepare
from fer_lib.models.cnn import grey_48

AFFINE = Augmentation(flip=0.5, affine=0.8, rotate=12, translate=0.08, scale=(0.9, 1.15))
PHOTOMETRIC = replace(AFFINE, photometric=0.5, brightness=0.2, contrast=0.2, noise=0.2)


def kornia_pipeline(draw: Augmentation) -> Callable[[Tensor], Tensor]:
    """Build the operations of `draw` in kornia, which applies them to a whole batch."""
    import kornia.augmentation as K

    steps = [
        K.RandomHorizontalFlip(p=draw.flip),
        K.RandomAffine(
            draw.rotate,
            translate=(draw.translate, draw.translate),
            scale=draw.scale,
            padding_mode="border",
            p=draw.affine,
        ),
    ]
    if draw.photometric:
        steps += [
            K.RandomBrightness((1 - draw.brightness, 1 + draw.brightness), p=draw.photometric),
            K.RandomContrast((1 - draw.contrast, 1 + draw.contrast), p=draw.photometric),
            K.RandomGaussianNoise(std=draw.noise_std, p=draw.noise),
        ]
    steps.append(K.Normalize(grey_48["mean"], grey_48["std"]))
    run = K.AugmentationSequential(*steps)
    return lambda images: run(images.float() / 255)


def single_pipeline(draw: Augmentation) -> Callable[[Tensor], Tensor]:
    """Build the operations of `draw` in torchvision: image by image, as it draws once per call."""
    affine = v2.RandomAffine(
        draw.rotate,
        (draw.translate, draw.translate),
        draw.scale,
        interpolation=InterpolationMode.BILINEAR,
    )
    steps = [
        v2.RandomHorizontalFlip(draw.flip),
        v2.RandomApply([affine], draw.affine),
        v2.ToDtype(torch.float32, scale=True),
    ]
    if draw.photometric:
        colour = v2.ColorJitter(draw.brightness, draw.contrast)
        steps.append(v2.RandomApply([colour], draw.photometric))
        steps.append(v2.RandomApply([v2.GaussianNoise(sigma=draw.noise_std)], draw.noise))
    run = v2.Compose([*steps, v2.Normalize(grey_48["mean"], grey_48["std"])])
    return lambda images: torch.stack([run(image) for image in images])


def compare_augmentation(images: int, rounds: int) -> str:
    """Measure our augmentation against torchvision's and kornia's, in batches of 64 and 256.

    Args:
        images: number of drawn faces.
        rounds: rounds that count.

    Returns:
        A heading and a Markdown table for each of the two; without kornia, a remark instead.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faces = torch.from_numpy(drawn(images).images[:images]).to(device)
    prepare, generator = Prepare(grey_48, device), torch.Generator(device).manual_seed(0)
    others = {"torchvision v2": single_pipeline}
    if find_spec("kornia"):
        others["kornia"] = kornia_pipeline
    rows: dict[str, dict] = {name: {} for name in others}
    for name, draw in (("flip, affine", AFFINE), ("and brightness, contrast, noise", PHOTOMETRIC)):
        pipelines = {key: make(draw) for key, make in others.items()}
        pipelines["ours"] = lambda some, draw=draw: prepare(some, draw, generator)
        for size in (64, 256):
            parts = {
                key: lambda run=run, size=size: sum(len(run(part)) for part in faces.split(size))
                for key, run in pipelines.items()
            }
            timed = {key: partial(rate, part, device) for key, part in parts.items()}
            rates = in_turn(timed, rounds)
            for key in others:
                rows[key][f"{name}, {size}"] = (rates["ours"], rates[key])
    tables = [table(lines, "ours", key) for key, lines in rows.items()]
    if "kornia" not in others:
        tables.append("kornia is not installed, so it was not measured: pip install kornia")
    title = (
        f"augmentation alone, {images:,} faces, {rounds} rounds, images/s on {device.type}, "
        f"{torch.get_num_threads()} threads"
    )
    return "\n\n".join([title, *tables])
