"""What learns: model, optimizer, schedule and batches on the device. Knows nothing of files."""

import gc
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fer_lib.augment import Prepare, mix
from fer_lib.batches import Batches, placed, targets, training_rows
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.device import choose_precision, keep_memory, plain_attention, processes
from fer_lib.epochs import require_finite, with_bar
from fer_lib.files import InputError
from fer_lib.graph import RecordedStep, recordable
from fer_lib.held_out import HeldOut
from fer_lib.losses import SoftCrossEntropy
from fer_lib.models import create_model
from fer_lib.models.weights import load_into
from fer_lib.optim import create_optimizer, freeze, layers, schedules


class Learner:
    """One model in training; knows nothing of files, nor which model it is.

    Args:
        progress: a bar for each epoch.
        resumes: a state will be loaded, so the model need not be given its first weights.

    Attributes:
        core: the bare model; `ema`: its moving average, or None.
        held_out: the images of "valid" and "test", by which it is validated and scored.
    """

    def __init__(
        self, config: TrainConfig, faces: FaceSet, *, progress: bool = False, resumes: bool = False
    ):
        keep_memory()
        self.config, self.progress = config, progress
        self.precision = choose_precision(config.precision)
        device = processes().device
        if device.type == "cuda":
            # In mixed precision accelerate binds a model to itself: the weights of a training that
            # has ended stay on the device until such cycles are looked for.
            gc.collect()
        # Several trainings of one process may differ in precision; accelerate's state is global.
        AcceleratorState._reset_state()
        unused = DistributedDataParallelKwargs(find_unused_parameters=bool(config.frozen_layers))
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
        config, device = self.config, self.device
        faces.require("train", "valid", "test")
        rows = training_rows(faces, config.limit, config.seed, config.labels)
        if not len(rows):
            raise InputError(f"no training image of {faces.name} has an emotion vote")
        soft = torch.from_numpy(targets(faces, rows, config.labels)).to(device)
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
            soft,
            smoothing=config.label_smoothing,
            weighted=config.class_weights,
            tau=config.logit_adjustment,
        )

    def set_up_model(self, classes: int, resumes: bool) -> None:
        config = self.config
        # A state that is loaded afterwards holds all weights: no hub and no file is asked again.
        pretrained = False if resumes else config.pretrained
        torch.manual_seed(config.seed)
        core = create_model(
            config.model, num_classes=classes, pretrained=pretrained, **config.options
        )
        if config.frozen_layers >= (depth := len(layers(core))):
            raise InputError(
                f"{config.model} has {depth} layers, the last with the head, so frozen_layers is "
                f"at most {depth - 1}, not {config.frozen_layers}"
            )
        if self.device.type == "cpu" and self.precision == "bf16":
            plain_attention(core)
        self.core = core.to(self.device, memory_format=torch.channels_last)
        self.prepare = Prepare(core.pretrained_cfg, self.device)
        self.ema = (
            ModelEmaV3(core, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        )
        raw = create_optimizer(core, config)
        self.schedule, self.plateau = schedules(config, raw, len(self.batches))
        model = core
        if config.compile:
            model = torch.compile(core)
        self.model, self.optimizer = self.accelerator.prepare(model, raw)
        self.recorded: RecordedStep | None = None
        if recordable(config, core, self.precision):
            self.recorded = RecordedStep(self.optimizer, self.generator)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, counted from 0; its part of a row of `metrics.csv`.

        Raises:
            FloatingPointError: the loss was infinite or NaN at a step.
        """
        config, steps = self.config, len(self.batches)
        self.model.train()
        freeze(self.core, config.frozen_at(epoch))
        # Dropout draws from torch's own generator, the rest from this one: both by epoch and rank.
        seed = (config.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        losses = torch.zeros(steps, device=self.device)
        sums: dict[str, Tensor] = {}
        advance = partial(self.recorded, self.one_batch) if self.recorded else self.one_batch
        for step, (images, soft) in enumerate(with_bar(self, epoch, config.model)):
            done = advance(images, soft)
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

    def one_batch(self, images: Tensor, soft: Tensor) -> dict[str, Tensor]:
        """Augment a batch and learn from it, in `accumulate` parts.

        An image is mixed with another of its part, so parts of few images mix less than the batch.

        Returns:
            "loss": mean over the batch; "right": right answers, int64; and the sums over the parts
            of whatever else the model has to say.
        """
        config, extra = self.config, {}
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device, dtype=torch.int64)
        for part, answer in zip(
            images.chunk(config.accumulate), soft.chunk(config.accumulate), strict=True
        ):
            x = self.prepare(part, config.augmentation, self.generator)
            x, answer = mix(x, answer, self.generator, mixup=config.mixup, cutmix=config.cutmix)
            logits, part_loss = self.step(x, answer, extra)
            loss += part_loss / config.accumulate
            right += (logits.argmax(1) == answer.argmax(1)).sum()
        return {"loss": loss, "right": right, **extra}

    def step(self, x: Tensor, answer: Tensor, extra: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Forward, backward and update; nothing of the loop's own waits for the device."""
        with self.accelerator.accumulate(self.model):
            logits = self.model(x.contiguous(memory_format=torch.channels_last))
            loss = self.criterion(logits, answer)
            logged = {}
            if hasattr(self.core, "auxiliary_losses"):
                logged |= self.core.auxiliary_losses(answer)
                loss = sum(logged.values(), loss)
            if hasattr(self.core, "statistics"):
                logged |= self.core.statistics()
            for name, value in logged.items():
                extra[name] = extra.get(name, 0) + value.detach()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.clip_grad:
                self.accelerator.clip_grad_norm_(self.core.parameters(), self.config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return logits.detach(), loss.detach()

    @property
    def kept(self) -> nn.Module:
        """The weights that are validated and saved: the moving average where there is one."""
        return self.ema.module if self.ema else self.core

    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation images; the rest of a row of `metrics.csv`.

        With a moving average it is that of the average, and the accuracy of the weights themselves
        stands beside it.
        """
        row = self.held_out.validate(self.kept, self.precision)
        if self.ema:
            itself = self.held_out.validate(self.core, self.precision)
            row["valid_accuracy_unaveraged"] = itself["valid_accuracy"]
        return row

    def parts(self) -> dict[str, Any]:
        """What has a state of its own, by name. Draws have none: they follow from the epoch."""
        every = {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "plateau": self.plateau,
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in every.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        models = {"model": self.core.state_dict()}
        if self.ema:
            models["ema"] = self.ema.module.state_dict()
        return models | {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Inverse of `state_dict`; InputError, naming `source`, where it is of another model."""
        load_into(self.core, state["model"], source)
        if self.ema:
            load_into(self.ema.module, state["ema"], source)
        for name, part in self.parts().items():
            if name == "scaler" and name not in state:  # begun where there is no need for one
                continue
            try:
                part.load_state_dict(state[name])
            except (KeyError, ValueError) as error:  # another precision, or other code
                raise InputError(
                    f"{source} does not fit the {name} ({error}): delete its run folder, or train "
                    "as it was begun"
                ) from error
