"""Validation and test images on the device, and a model's predictions for them.

The module neither reads nor writes files.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.batches import placed, probabilities
from fer_lib.data.faceset import FaceSet


class HeldOut:
    """Validation and test images, predicted by all processes together.

    Args:
        flip: average the predictions for each image and its mirror image.

    Attributes:
        images: (N, C, H, W) uint8 of the splits "valid" and "test".
        labels: (N,) int64 of the validation images; the labels of the test images are not kept.
    """

    def __init__(self, faces: FaceSet, accelerator: Accelerator, prepare: Prepare, *, flip: bool):
        self.accelerator, self.prepare, self.flip = accelerator, prepare, flip
        self.images = {
            split: placed(torch.from_numpy(faces.images[faces.where(split)]), accelerator.device)
            for split in ("valid", "test")
        }
        labels = torch.from_numpy(faces.labels[faces.where("valid")])
        self.labels = labels.to(accelerator.device)

    def predict(
        self, split: str, model: nn.Module, precision: str, flip: bool | None = None
    ) -> Tensor:
        """Predict the class probabilities of all images of a split.

        Args:
            flip: replaces the `flip` of the constructor; None keeps it.

        Returns:
            (N, K) float32; every process gets all rows.
        """
        images = self.images[split]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = probabilities(
            model,
            images[rank::world],
            self.prepare,
            precision=precision,
            flip=self.flip if flip is None else flip,
        )
        if world == 1:
            return mine
        whole = mine.new_zeros(len(images), mine.shape[1])
        for other, part in enumerate(gather_object([mine.cpu()])):
            whole[other::world] = part.to(whole.device)
        return whole

    def validate(self, model: nn.Module, precision: str) -> dict[str, float]:
        """Score a model on the validation images.

        Returns:
            `valid_loss` (mean negative log-likelihood, nats), `valid_accuracy` (0 to 1) and
            `valid_images` (their number).
        """
        for buffer in model.buffers():  # use the batch statistics of the main process
            broadcast(buffer)
        p = self.predict("valid", model, precision)
        loss = nn.functional.nll_loss(p.clamp(min=1e-12).log(), self.labels)
        return {
            "valid_loss": loss.item(),
            "valid_accuracy": (p.argmax(1) == self.labels).float().mean().item(),
            "valid_images": len(p),
        }
