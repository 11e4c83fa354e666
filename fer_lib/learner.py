"""The learner: model, optimizer, schedule and batches on the device. It uses no run folder."""

from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fer_lib.augment import Prepare, mix
from fer_lib.batches import Batches, placed, training_rows, training_targets
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.device import choose_precision, free_memory, keep_memory, plain_attention, processes
from fer_lib.epochs import load_parts, require_finite, with_bar
from fer_lib.files import InputError
from fer_lib.graph import RecordedStep, recordable
from fer_lib.held_out import HeldOut
from fer_lib.losses import SoftCrossEntropy
from fer_lib.models import create_model
from fer_lib.models.weights import from_hub, load_into
from fer_lib.optim import create_optimizer, freeze, require_layers, schedules


class Learner:
    """One model in training. The code is the same for all models and uses no run folder.

    Args:
        progress: show a progress bar for each epoch.
        resumes: a saved state will be loaded, so pretrained weights are not loaded first.

    Attributes:
        core: the bare model, without the wrapper of torch.compile or of several processes.
        ema: the moving average of the model (timm's `ModelEmaV3`), or None.
        from_hub: what the run records of weights that were loaded from the hub; {} without these.
        held_out: the validation and test images, on which the model is validated and scored.

    Raises:
        InputError: the settings do not fit the faces, the model, the device or the number of
            processes, or the pretrained weights cannot be obtained.
    """

    def __init__(
        self, config: TrainConfig, faces: FaceSet, *, progress: bool = False, resumes: bool = False
    ):
        keep_memory()
        self.config, self.progress = config, progress
        self.precision = choose_precision(config.precision)
        device = processes().device
        free_memory(device)
        # Trainings in one process may differ in precision, but accelerate's state is global.
        AcceleratorState._reset_state()
        unused = DistributedDataParallelKwargs(find_unused_parameters=bool(config.unfreeze_every))
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=self.precision,
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[unused],
        )
        self.device = self.accelerator.device
        self.generator = torch.Generator(self.device)
        self.set_up_data(faces)
        self.set_up_model(len(faces.classes), resumes)
        self.held_out = HeldOut(faces, self.accelerator, self.prepare, flip=config.flip_tta)

    def set_up_data(self, faces: FaceSet) -> None:
        """Make the batches of training images and targets, and the loss for these targets."""
        config, device = self.config, self.device
        faces.require("train", "valid", "test")
        rows = training_rows(faces, config.limit, config.seed, config.labels)
        if not len(rows):
            raise InputError(f"no training image of {faces.name} has an emotion vote")
        soft = torch.from_numpy(training_targets(faces, rows, config.labels)).to(device)
        self.batches = Batches(
            placed(torch.from_numpy(faces.images[rows]), device),
            soft,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        parts = config.accumulate * self.accelerator.num_processes
        if self.batches.batch_size % parts:
            raise InputError(
                f"a batch of {self.batches.batch_size} images does not divide into accumulate="
                f"{config.accumulate} parts on {self.accelerator.num_processes} processes"
            )
        self.criterion = SoftCrossEntropy(
            soft, smoothing=config.label_smoothing, weighted=config.class_weights
        )

    def set_up_model(self, classes: int, resumes: bool) -> None:
        """Build the model, its moving average, its optimizer and its schedules."""
        config = self.config
        # The state that is loaded later contains all weights: no hub or weights file is needed.
        pretrained = False if resumes else config.pretrained
        torch.manual_seed(config.seed)
        core = create_model(
            config.model, num_classes=classes, pretrained=pretrained, **config.options
        )
        self.from_hub = from_hub(core) if pretrained is True else {}
        require_layers(core, config)
        if self.device.type == "cpu" and self.precision == "bf16":
            plain_attention(core)
        self.core = core.to(self.device, memory_format=torch.channels_last)
        self.prepare = Prepare(core.pretrained_cfg, self.device)
        self.ema = (
            ModelEmaV3(core, decay=config.ema_decay, use_warmup=config.ema_warmup)
            if config.ema_decay
            else None
        )
        raw = create_optimizer(core, config)
        self.schedule, self.plateau = schedules(config, raw, len(self.batches))
        if not config.unfreeze_every:  # then several GPUs need not exchange gradients of these
            freeze(core, config.frozen_layers)
        model = torch.compile(core) if config.compile else core
        self.model, self.optimizer = self.accelerator.prepare(model, raw)
        record = recordable(config, core, self.precision)
        self.recorded = RecordedStep(self.optimizer, self.generator) if record else None

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch.

        Args:
            epoch: number of the epoch, counted from 0.

        Returns:
            The training columns of a row of `metrics.csv`: `train_loss`, `train_accuracy`,
            `train_images`, and the mean of each auxiliary loss and statistic of the model.

        Raises:
            FloatingPointError: the loss was infinite or NaN at a step.
        """
        # Another learner of this process may have set another number, which accelerate's state has.
        self.accelerator.gradient_accumulation_steps = self.config.accumulate
        config, steps = self.config, len(self.batches)
        self.model.train()
        freeze(self.core, config.frozen_at(epoch))
        # Dropout draws from torch's global generator, the rest from self.generator; both are seeded
        # from the config's seed, the epoch and the rank, but not alike: equal seeds would give the
        # same numbers to both. (A CPU's generator takes the lowest 32 bits of a seed.)
        seed = (config.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index
        torch.manual_seed(seed)
        self.generator.manual_seed(seed + 2**62 + 2**31)
        losses = torch.zeros(steps, device=self.device)
        sums: dict[str, Tensor] = {}
        advance = partial(self.recorded, self.train_step) if self.recorded else self.train_step
        for step, (images, targets) in enumerate(with_bar(self, epoch, config.model)):
            done = advance(images, targets)
            losses[step] = done["loss"]
            for name, value in done.items():
                sums[name] = sums.get(name, 0) + value
            self.schedule.step()
            if self.ema:
                self.ema.update(self.core, self.schedule.last_epoch)
        losses = self.accelerator.reduce(losses, "mean").cpu()
        require_finite(losses, epoch)
        del sums["loss"]
        right = self.accelerator.reduce(sums.pop("right"), "sum").item()
        seen = steps * self.batches.batch_size
        return {
            "train_loss": losses.mean().item(),
            "train_accuracy": right / seen,
            "train_images": seen,
            **{
                name: self.accelerator.reduce(value, "mean").item() / (steps * config.accumulate)
                for name, value in sums.items()
            },
        }

    def train_step(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Augment a batch and train on it, in `config.accumulate` parts one after the other.

        An image is mixed with another image of its part, so small parts mix less than the whole
        batch would.

        Args:
            images: (B, C, H, W) uint8.
            targets: (B, K) float32.

        Returns:
            Scalars on the device: "loss", the mean over the batch; "right", the number of correct
            predictions, int64; and each auxiliary loss and statistic, summed over the parts.
        """
        config, logged = self.config, {}
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device, dtype=torch.int64)
        for part, target in zip(
            images.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True
        ):
            x = self.prepare(part, config.augmentation, self.generator)
            x, target = mix(x, target, self.generator, mixup=config.mixup, cutmix=config.cutmix)
            logits, part_loss = self.micro_step(x, target, logged)
            loss += part_loss / config.accumulate
            right += (logits.argmax(1) == target.argmax(1)).sum()
        return {"loss": loss, "right": right, **logged}

    def micro_step(
        self, x: Tensor, target: Tensor, logged: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run one part of a batch forward and backward, and update after the last part.

        The code here does not wait for the device; libraries and the model may.

        Args:
            x: (B, C, H, W) float32, the prepared images of the part.
            target: (B, K) float32.
            logged: auxiliary losses and statistics by name, to which those of this part are added.

        Returns:
            Logits (B, K) and the loss of the part, a scalar with the auxiliary losses in it.
        """
        with self.accelerator.accumulate(self.model):
            logits = self.model(x.contiguous(memory_format=torch.channels_last))
            loss = self.criterion(logits, target)
            mine = {}
            if hasattr(self.core, "auxiliary_losses"):
                mine |= self.core.auxiliary_losses(target)
                loss = sum(mine.values(), loss)
            if hasattr(self.core, "statistics"):
                mine |= self.core.statistics()
            for name, value in mine.items():
                logged[name] = logged.get(name, 0) + value.detach()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.clip_grad:
                self.accelerator.clip_grad_norm_(self.core.parameters(), self.config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return logits.detach(), loss.detach()

    @property
    def kept(self) -> nn.Module:
        """The model that is validated and saved: the moving average, or `core` without one."""
        return self.ema.module if self.ema else self.core

    def validate(self) -> dict[str, float]:
        """Compute loss and accuracy on the validation images, as a part of a row of `metrics.csv`.

        If there is a moving average, the scores are its own, and `valid_accuracy_unaveraged` is the
        accuracy of the weights themselves.
        """
        row = self.held_out.validate(self.kept, self.precision)
        if self.ema:
            itself = self.held_out.validate(self.core, self.precision)
            row["valid_accuracy_unaveraged"] = itself["valid_accuracy"]
        return row

    def parts(self) -> dict[str, Any]:
        """Return by name what has a state to save, besides the models.

        Random generators are not saved, as they are seeded anew in each epoch.
        """
        every = {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "plateau": self.plateau,
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in every.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to resume: the states of the models and of `parts`."""
        models = {"model": self.core.state_dict()}
        if self.ema:
            models["ema"] = self.ema.module.state_dict()
        return models | {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Restore what `state_dict` returned.

        Args:
            source: the file that the state was read from, for error messages.

        Raises:
            InputError: the state is of another model, or does not fit one of the `parts`.
        """
        load_into(self.core, state["model"], source)
        if self.ema:
            load_into(self.ema.module, state["ema"], source)
        load_parts(self.parts(), state, source)
