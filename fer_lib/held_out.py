"""Held-out images on the device, and what a model makes of them. Knows nothing of files."""

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
        flip: average each prediction with that of the mirror image.

    Attributes:
        images: uint8 (N, C, H, W) of "valid" and "test".
        labels: int64 (N,) of the validation images; those of the test images are not known here.
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
        """Probabilities (N, K) of all images of a split; each process gets the whole.

        Args:
            flip: other than that of all predictions; None: that.
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
        """Loss (nats) and accuracy on the validation images, and how many they are."""
        for buffer in model.buffers():  # batch statistics are those of the main process
            broadcast(buffer)
        p = self.predict("valid", model, precision)
        loss = nn.functional.nll_loss(p.clamp(min=1e-12).log(), self.labels)
        return {
            "valid_loss": loss.item(),
            "valid_accuracy": (p.argmax(1) == self.labels).float().mean().item(),
            "valid_images": len(p),
        }
