"""Training targets, shuffled batches of uint8 faces on the device, and a model's predictions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.data.faceset import FaceSet
from fer_lib.data.ferplus import soft_targets
from fer_lib.data.refined import refined_targets
from fer_lib.files import InputError


def training_targets(faces: FaceSet, rows: np.ndarray, labels: str = "original") -> np.ndarray:
    """Return the training targets of some faces.

    Args:
        rows: row numbers of the faces; those of `training_rows` have a target each.
        labels: "original" (one-hot), "votes" (share of each emotion among the votes for
            emotions), or the name of refined labels, which only training images have (see
            `data.refined`).

    Returns:
        (len(rows), classes) float32; each row sums to 1.

    Raises:
        InputError: votes are asked for, but the data has none; or these faces have no such refined
            labels.
    """
    if labels == "original":
        return np.eye(len(faces.classes), dtype=np.float32)[faces.labels[rows]]
    if labels != "votes":
        return refined_targets(faces, rows, labels)
    if faces.votes is None:
        raise InputError(
            f"{faces.name} has no votes: train on labels original (--labels), or read "
            "fer2013 from fer2013.csv with fer2013new.csv beside it, since folders have no votes"
        )
    return soft_targets(faces.votes[rows], faces.classes)[0]


def training_rows(
    faces: FaceSet, limit: int | None, seed: int, labels: str = "original"
) -> np.ndarray:
    """Return the row numbers of the images to train on, in ascending order: (n,) int64.

    With `labels` "votes", images without an emotion vote are left out, as they have no target.

    Args:
        limit: number of images, drawn by the seed; None for all.
    """
    rows = faces.where("train")
    if labels == "votes" and faces.votes is not None:
        rows = rows[soft_targets(faces.votes[rows], faces.classes)[1]]
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])


def placed(images: Tensor, device: torch.device) -> Tensor:
    """Move images to the device, unless they would fill more than half of a GPU's free memory."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if images.nbytes > (torch.cuda.mem_get_info(device)[0] + cached) / 2:
            return images
    return images.to(device)


class Batches:
    """Shuffled batches of images and targets, on the device of the targets.

    The order of each epoch is drawn from (seed, epoch) alone, so that a resumed run sees the same
    batches. If there are several processes, each takes its share of every batch. The last,
    incomplete batch is dropped (`drop_last` of a DataLoader); it has other images in each epoch.

    Args:
        images: (N, C, H, W) uint8, on the device or on the host (see `placed`). On the host, each
            batch is gathered while the device computes the batch before it.
        targets: (N, K) float32.
        batch_size: images in a batch, over all processes; smaller if there are fewer images.
        rank: number of this process, counted from 0.
        processes: number of all processes.

    Raises:
        InputError: `batch_size` is not a multiple of `processes`, or there are fewer images than
            processes.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ):
        if batch_size % processes:
            raise InputError(f"batch_size {batch_size} must be a multiple of {processes} processes")
        largest = len(images) // processes * processes
        if not largest:
            raise InputError(
                f"{len(images)} training images are too few for {processes} processes: use more "
                "images or fewer processes"
            )
        self.images, self.targets, self.seed = images, targets, seed
        self.rank, self.processes = rank, processes
        self.batch_size = min(batch_size, largest)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def permutation(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch, the same in every process: (N,) int64."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.images), generator=generator)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's images (B, C, H, W) uint8 and targets (B, K) of each batch."""
        order = self.permutation(number)
        here, there = order.to(self.images.device), order.to(self.targets.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            share = slice(start + self.rank, start + self.batch_size, self.processes)
            images = self.images[here[share]]
            if self.images.device != self.targets.device:
                # Only a copy from page-locked memory does not wait for what the device computes.
                images = images.pin_memory().to(self.targets.device, non_blocking=True)
            yield images, self.targets[there[share]]


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
"""Name of a precision -> the dtype in which a model computes."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model computes in "bf16" or "fp16"; "no" changes nothing."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "no")


def exact_convolutions() -> AbstractContextManager:
    """Return a context in which a GPU convolves float32 in float32, not in TF32 (the default)."""
    now = torch.backends.cudnn
    same = {name: getattr(now, name) for name in ("enabled", "benchmark", "deterministic")}
    return now.flags(**same, allow_tf32=False)


def largest_batch(prepare: Prepare) -> int:
    """Return how many images a model takes at once if it does not learn from them.

    With inputs of up to 224×224 pixels 512, with larger ones as many as have so many pixels.
    """
    height, width = prepare.size
    return max(1, min(512, 512 * 224**2 // (height * width)))


@torch.inference_mode()
def probabilities(
    model: nn.Module,
    images: Tensor,
    prepare: Prepare,
    *,
    batch_size: int | None = None,
    precision: str = "no",
    flip: bool = False,
) -> Tensor:
    """Predict class probabilities, with the model in evaluation mode.

    Nothing is random, and the result for an image does not depend on the other images.

    Args:
        images: (N, C, H, W) uint8.
        batch_size: None: `largest_batch`.
        precision: "bf16", "fp16" or "no": float32 without TF32, in a GPU's convolutions too.
        flip: average the probabilities of each image and its mirror image (test-time
            augmentation).

    Returns:
        (N, K) float32, on the model's device.
    """
    model.eval()
    parts = []
    for some in images.split(batch_size or largest_batch(prepare)):
        views = (some, some.flip(3)) if flip else (some,)
        with autocast(prepare.device, precision), exact_convolutions():
            logits = [
                model(prepare(view).contiguous(memory_format=torch.channels_last)) for view in views
            ]
        parts.append(torch.stack(logits).float().softmax(2).mean(0))
    return torch.cat(parts)
