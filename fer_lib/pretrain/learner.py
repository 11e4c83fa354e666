"""The learner of a pretraining: autoencoder, optimizer, schedule and images on the device."""

from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

from fer_lib.augment import Prepare
from fer_lib.batches import Batches, autocast, largest_batch, placed, training_rows
from fer_lib.data import FaceSet
from fer_lib.device import choose_precision, free_memory, keep_memory, processes
from fer_lib.epochs import load_parts, require_finite, with_bar
from fer_lib.graph import RecordedStep, recordable
from fer_lib.models.weights import load_into
from fer_lib.optim import schedules
from fer_lib.pretrain.autoencoder import build_autoencoder, mask_noise
from fer_lib.pretrain.config import PretrainConfig


class MaskedLearner:
    """An autoencoder in training; it uses only the images of the faces, and no files.

    Attributes:
        images: images of "train" and of "valid", (N, C, H, W) uint8, on the device.
        noise: (validation images, patches), which decides their masks. It is the same in every
            epoch and for every seed, so that all validation losses can be compared.
    """

    def __init__(self, config: PretrainConfig, faces: FaceSet, *, progress: bool = False):
        keep_memory()
        self.config, self.progress = config, progress
        self.device, self.precision = processes().device, choose_precision(config.precision)
        free_memory(self.device)
        faces.require("train", "valid")
        rows = {
            "train": training_rows(faces, config.limit, config.seed),
            "valid": faces.where("valid"),
        }
        self.images = {
            split: placed(torch.from_numpy(faces.images[some]), self.device)
            for split, some in rows.items()
        }
        self.batches = Batches(
            self.images["train"],
            torch.zeros(len(rows["train"]), 0, device=self.device),  # there are no targets
            batch_size=config.batch_size,
            seed=config.seed,
        )
        self.noise = mask_noise(len(rows["valid"]), config.patches, seed=0).to(self.device)
        self.prepare = Prepare(config.pretrained_cfg, self.device)
        torch.manual_seed(config.seed)
        self.model = build_autoencoder(config, self.device.type).to(self.device)
        self.optimizer = torch.optim.AdamW(
            param_groups_weight_decay(self.model, config.weight_decay),
            lr=config.lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.schedule, _ = schedules(config.training, self.optimizer, len(self.batches))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.generator = torch.Generator(self.device)
        record = recordable(config.training, self.model, self.precision)
        self.recorded = RecordedStep(self.optimizer, self.generator) if record else None

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of the masked patches.

        With `norm_pix_loss`, predicting the mean of each patch gives nearly 1.
        """
        with autocast(self.device, self.precision):
            return self.model(x, noise=noise).loss

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch.

        Args:
            epoch: number of the epoch, counted from 0.

        Returns:
            `train_loss` and `train_images`, for a row of `metrics.csv`.

        Raises:
            FloatingPointError: the loss was infinite or NaN at a step.
        """
        config = self.config
        self.generator.manual_seed(config.seed * 1_000_003 + epoch)
        losses = torch.zeros(len(self.batches), device=self.device)
        self.model.train()
        advance = partial(self.recorded, self.train_step) if self.recorded else self.train_step
        for step, (images, nothing) in enumerate(with_bar(self, epoch, "pretraining")):
            losses[step] = advance(images, nothing)["loss"]
            self.schedule.step()
        require_finite(losses, epoch)
        seen = len(losses) * self.batches.batch_size
        return {"train_loss": losses.mean().item(), "train_images": seen}

    def train_step(self, images: Tensor, _: Tensor) -> dict[str, Tensor]:
        """Augment a batch, hide patches and take a training step; return the "loss"."""
        x = self.prepare(images, self.config.augmentation, self.generator)
        size = (len(x), self.config.patches)
        loss = self.loss(x, torch.rand(size, generator=self.generator, device=self.device))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return {"loss": loss.detach()}

    @torch.inference_mode()
    def validate(self) -> dict[str, Any]:
        """Return the loss on the validation images, which are not augmented, and their number."""
        self.model.eval()
        images, total = self.images["valid"], torch.zeros((), device=self.device)
        size = largest_batch(self.prepare)
        for some, noise in zip(images.split(size), self.noise.split(size), strict=True):
            total += self.loss(self.prepare(some), noise) * len(some)
        return {"valid_loss": total.item() / len(images), "valid_images": len(images)}

    def parts(self) -> dict[str, Any]:
        """Return by name what has a state to save, besides the model."""
        return {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def state_dict(self) -> dict[str, Any]:
        parts = {"model": self.model} | self.parts()
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Restore what `state_dict` returned; InputError, with `source`, if it does not fit."""
        load_into(self.model, state["model"], source)
        load_parts(self.parts(), state, source)
