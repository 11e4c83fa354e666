"""The training loop: one for all models, on one process or several.

    python -m fer_lib.train baseline_cnn --dataset fer2013 --data-dir DIR
    accelerate launch --num_processes 2 -m fer_lib.train attention_cnn --set epochs=10

The data lie on the device as uint8, every epoch is drawn from (seed, epoch) alone, and metrics stay
on the device until the epoch ends. A run that is killed resumes at its last finished epoch and ends
with the same numbers as one that was not.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fer_lib.augment import Prepare, mix
from fer_lib.batches import Batches, probabilities, targets
from fer_lib.checkpoints import load_into, load_state, load_weights, save_state, save_weights
from fer_lib.data import FaceSet, load_faces
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import InputError, write_json
from fer_lib.losses import SoftCrossEntropy, inverse_frequency, log_prior
from fer_lib.models import MODULES, create_model
from fer_lib.optim import choose_precision, parameter_groups, schedules
from fer_lib.recipes import PRESETS, TrainConfig, recipe
from fer_lib.runs import Run, find_run, start_run, write_metrics


def train(
    config: TrainConfig, faces: FaceSet, *, runs: str | None = None, progress: bool = False
) -> Run:
    """Train a model, or resume or return the run of this config on these data.

    Args:
        runs: folder of all runs; None for `runs/` at home.
        progress: a bar for each epoch instead of one line.

    Raises:
        InputError: the config and the data do not fit.
        FloatingPointError: the loss became infinite or NaN; the last good epoch is kept.
    """
    return Trainer(config, faces, runs, progress).fit()


def training_rows(faces: FaceSet, config: TrainConfig) -> np.ndarray:
    """Rows of the training images used: all, or `config.limit` of them drawn by the seed."""
    rows = faces.where("train")
    if config.limit is None or config.limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(config.seed).permutation(rows)[: config.limit])


class Trainer:
    """State of one training; `fit()` runs it to the end."""

    def __init__(
        self, config: TrainConfig, faces: FaceSet, runs: str | None = None, progress: bool = False
    ):
        self.config, self.faces, self.progress = config, faces, progress
        self.precision = choose_precision(config)
        self.accelerator = Accelerator(
            mixed_precision=self.precision,
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=bool(config.frozen))
            ],
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.run = self.find_or_start(runs)
        self.epoch, self.best, self.best_epoch, self.rows = 0, -1.0, -1, []
        if not self.run.finished:
            self.set_up_data()
            self.set_up_model()
            self.restore()

    def find_or_start(self, runs: str | None) -> Run:
        """The main process finds or makes the folder; the others are told its name."""
        folder = [None]
        if self.main:
            run = find_run(self.config, self.faces.fingerprint, runs) or start_run(
                self.config,
                self.faces,
                runs,
                device=self.device.type,
                precision=self.precision,
                processes=self.accelerator.num_processes,
            )
            folder = [str(run.folder)]
        return Run(broadcast_object_list(folder)[0])

    def set_up_data(self) -> None:
        faces, device = self.faces, self.device
        rows = training_rows(faces, self.config)
        if not len(rows) or not len(faces.where("valid")):
            raise InputError(f"{faces.name} has no training or no validation images")
        soft = torch.from_numpy(targets(faces, rows, self.config.labels)).to(device)
        self.batches = Batches(
            torch.from_numpy(faces.images[rows]).to(device),
            soft,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        self.held_out = {
            split: torch.from_numpy(faces.images[faces.where(split)]).to(device)
            for split in ("valid", "test")
        }
        self.valid_labels = torch.from_numpy(faces.labels[faces.where("valid")]).to(device)
        tau = self.config.logit_adjustment
        self.criterion = SoftCrossEntropy(
            weight=inverse_frequency(soft) if self.config.class_weights else None,
            smoothing=self.config.label_smoothing,
            adjustment=tau * log_prior(soft) if tau else None,
        )

    def set_up_model(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        classes = len(self.faces.classes)
        core = create_model(config.model, num_classes=classes, **config.options)
        self.core = core.to(self.device, memory_format=torch.channels_last)
        self.prepare = Prepare(core.pretrained_cfg, self.device)
        self.ema = (
            ModelEmaV3(core, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        )
        fused = {"fused": True} if config.optimizer == "adamw" else {}
        raw = create_optimizer_v2(
            parameter_groups(core, config),
            opt=config.optimizer,
            lr=config.lr,
            momentum=config.momentum,
            **fused,
        )
        self.schedule, self.plateau = schedules(config, raw, len(self.batches))
        model = torch.compile(core) if config.compile else core
        self.model, self.optimizer = self.accelerator.prepare(model, raw)

    def fit(self) -> Run:
        """Train the epochs that are left, then evaluate the best weights and finish the run."""
        if self.run.finished:
            return self.run
        while self.epoch < self.config.epochs and not self.patience_is_over():
            row = self.one_epoch()
            self.keep(row)
        self.accelerator.wait_for_everyone()
        self.finish()
        self.accelerator.wait_for_everyone()
        return self.run

    def patience_is_over(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.epoch - 1 - self.best_epoch >= patience

    def one_epoch(self) -> dict[str, Any]:
        """Train an epoch and validate; return its row of `metrics.csv`."""
        start = time.perf_counter()
        lr = self.optimizer.param_groups[0]["lr"]
        trained = self.train_epoch()
        seconds = time.perf_counter() - start
        valid = self.validate()
        if self.plateau and self.epoch + 1 > self.config.warmup_epochs:
            self.plateau.step(valid["valid_accuracy"])
        return {
            "epoch": self.epoch + 1,
            **trained,
            **valid,
            "lr": lr,
            "train_seconds": round(seconds, 3),
            "seconds": round(time.perf_counter() - start, 3),
        }

    def train_epoch(self) -> dict[str, float]:
        config, epoch, steps = self.config, self.epoch, len(self.batches)
        self.freeze(config.frozen_at(epoch))
        # Dropout draws from torch's own generator, the rest from this one: both by epoch and rank.
        seed = (config.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        losses = torch.zeros(steps, device=self.device)
        extra: dict[str, Tensor] = {}
        correct = torch.zeros(2, device=self.device, dtype=torch.int64)  # right, seen
        for step, (images, soft) in enumerate(self.bar(self.batches.epoch(epoch), steps)):
            for part, answer in zip(
                images.chunk(config.accumulate), soft.chunk(config.accumulate), strict=True
            ):
                x = self.prepare(part, config.augmentation, generator)
                x, answer = mix(x, answer, generator, mixup=config.mixup, cutmix=config.cutmix)
                logits, loss = self.step(x, answer, extra)
                losses[step] += loss / config.accumulate
                correct[0] += (logits.argmax(1) == answer.argmax(1)).sum()
                correct[1] += len(x)
        losses = self.accelerator.reduce(losses, "mean").cpu()
        self.check_finite(losses)
        correct = self.accelerator.reduce(correct, "sum").tolist()
        return {
            "train_loss": losses.mean().item(),
            "train_accuracy": correct[0] / correct[1],
            "train_images": correct[1],
            **{name: value.item() / (steps * config.accumulate) for name, value in extra.items()},
        }

    def step(self, x: Tensor, answer: Tensor, extra: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Forward, backward and update, without a synchronisation of the device."""
        with self.accelerator.accumulate(self.model):
            logits = self.model(x.contiguous(memory_format=torch.channels_last))
            loss = self.criterion(logits, answer)
            if hasattr(self.core, "auxiliary_losses"):
                for name, value in self.core.auxiliary_losses(answer).items():
                    extra[name] = extra.get(name, 0) + value.detach()
                    loss = loss + value
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.clip_grad:
                self.accelerator.clip_grad_norm_(self.core.parameters(), self.config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.schedule.step()
                if self.ema:
                    self.ema.update(self.core, self.schedule.last_epoch)
        return logits.detach(), loss.detach()

    def freeze(self, names: tuple[str, ...]) -> None:
        """Training mode and gradients for all but the modules and parameters named."""
        inside = lambda name: any(name == f or name.startswith(f + ".") for f in names)  # noqa: E731
        self.model.train()
        for name, module in self.core.named_modules():
            if inside(name):
                module.eval()
        for name, parameter in self.core.named_parameters():
            parameter.requires_grad_(not inside(name))

    def check_finite(self, losses: Tensor) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = int(bad[0])
            raise FloatingPointError(
                f"{self.run.folder}: the loss became {losses[step].item()} at step {step + 1} of "
                f"epoch {self.epoch + 1}; the state after epoch {self.epoch} is kept. Lower lr "
                f"({self.config.lr}), set clip_grad, or train with precision=no"
            )

    def predict(self, images: Tensor, model: nn.Module, precision: str) -> Tensor:
        """Probabilities of all images, shared among the processes; each gets the whole."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = probabilities(model, images[rank::world], self.prepare, precision=precision)
        if world == 1:
            return mine
        whole = mine.new_zeros(len(images), mine.shape[1])
        for other, part in enumerate(gather_object([mine.cpu()])):
            whole[other::world] = part.to(whole.device)
        return whole

    def validate(self) -> dict[str, float]:
        model = self.ema.module if self.ema else self.core
        for buffer in model.buffers():  # batch statistics are those of the main process
            broadcast(buffer)
        p = self.predict(self.held_out["valid"], model, self.precision)
        loss = nn.functional.nll_loss(p.clamp(min=1e-12).log(), self.valid_labels)
        accuracy = (p.argmax(1) == self.valid_labels).float().mean()
        return {
            "valid_loss": loss.item(),
            "valid_accuracy": accuracy.item(),
            "valid_images": len(p),
        }

    def bar(self, batches: Any, steps: int) -> Any:
        if not (self.progress and self.main):
            return batches
        from tqdm.auto import tqdm

        title = f"{self.config.model} {self.epoch + 1}/{self.config.epochs}"
        return tqdm(batches, total=steps, desc=title, leave=False)

    def keep(self, row: dict[str, Any]) -> None:
        """Save best weights, resumable state and metrics, in this order, each all or nothing."""
        self.rows.append(row)
        self.epoch += 1
        better = row["valid_accuracy"] > self.best
        if better:
            self.best, self.best_epoch = row["valid_accuracy"], self.epoch - 1
        if self.main:
            folder = self.run.folder
            if better:
                model = self.ema.module if self.ema else self.core
                save_weights(folder / "best.safetensors", model, self.config, self.faces.classes)
            save_state(folder / "checkpoint" / "state.pt", self.state())
            write_metrics(folder / "metrics.csv", self.rows)
            print(
                f"{self.config.model} epoch {self.epoch}/{self.config.epochs}: "
                f"loss {row['train_loss']:.3f}, validation {row['valid_accuracy']:.2%}"
                f"{' (best)' if better else ''}, {row['seconds']:.1f} s",
                flush=True,
            )

    def state(self) -> dict[str, Any]:
        return {
            "model": self.core.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "plateau": self.plateau.state_dict() if self.plateau else None,
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "rows": self.rows,
        }

    def restore(self) -> None:
        """Continue after the last finished epoch, where there is one."""
        path = self.run.folder / "checkpoint" / "state.pt"
        if not path.exists():
            return
        state = load_state(path, self.device)
        load_into(self.core, state["model"], path)
        if self.ema:
            load_into(self.ema.module, state["ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
        for key in ("epoch", "best", "best_epoch", "rows"):
            setattr(self, key, state[key])
        if self.main:
            print(f"{self.run.name} resumes after epoch {self.epoch}", flush=True)

    def finish(self) -> None:
        """Score the best weights on validation and test, and write the results, last of all."""
        folder, faces = self.run.folder, self.faces
        best = load_weights(folder / "best.safetensors").to(self.device)
        p = {
            split: self.predict(images, best, "no").cpu().numpy()
            for split, images in self.held_out.items()
        }
        if self.main:
            predictions = Predictions.of(faces, p["valid"], p["test"])
            save_predictions(folder / "predictions.npz", predictions)
            write_results(self.run, faces, predictions, self.rows)


def write_results(
    run: Run, faces: FaceSet, predictions: Predictions, rows: list[dict[str, Any]]
) -> None:
    """Write the figures and `results.json` of a run whose predictions are saved."""
    from fer_lib import plots

    best = max(rows, key=lambda row: row["valid_accuracy"])
    seconds = sum(row["train_seconds"] for row in rows)
    config, test = run.train_config, evaluate(faces, predictions, "test")
    results = {
        "model": config.model,
        "recipe": config.recipe,
        "preset": config.preset,
        "seed": config.seed,
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "mark": faces.mark,
        "classes": list(faces.classes),
        "parameters": sum(p.numel() for p in run.load_model().parameters()),
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "train_images": rows[0]["train_images"],
        "train_seconds": round(seconds, 2),
        "images_per_second": round(sum(row["train_images"] for row in rows) / seconds, 1),
        "valid": evaluate(faces, predictions, "valid"),
        "test": test,
    }
    plots.learning_curves(rows, run.folder, mark=faces.mark)
    figure = plots.confusion_matrix(test["full"]["confusion"], faces.classes, mark=faces.mark)
    plots.save(figure, run.folder / "confusion_matrix.png")
    write_json(run.folder / "results.json", results)


def main(arguments: list[str] | None = None) -> None:
    """Command line; an error of the user's ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("model", choices=sorted(MODULES))
    parser.add_argument(
        "--dataset", default="sample", help="sample, fer2013, ferplus, rafdb, or a name"
    )
    parser.add_argument(
        "--data-dir", help="folder or file of the data; default: data/<dataset>, then Kaggle"
    )
    parser.add_argument("--recipe", default="ours", choices=("ours", "published"))
    parser.add_argument(
        "--preset", choices=PRESETS, help="default: sample for drawn faces, else full"
    )
    parser.add_argument("--labels", default="original", choices=("original", "votes"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", help="folder of all runs; default: runs/")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of TrainConfig to change",
    )
    args = parser.parse_args(arguments)
    try:
        preset = args.preset or ("sample" if args.dataset == "sample" else "full")
        changes = {"seed": args.seed, "labels": args.labels} | dict(map(setting, args.set))
        config = recipe(args.model, args.recipe, preset, **changes)
        run = train(config, load_faces(args.dataset, args.data_dir), runs=args.runs)
    except InputError as error:
        parser.error(str(error))
    except FloatingPointError as error:
        sys.exit(f"error: {error}")
    if Accelerator().is_main_process:
        accuracy = run.results["test"]["full"]["accuracy"]
        print(f"{run.folder}: test accuracy {accuracy:.2%} {run.results['mark']}".rstrip())


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value as JSON where it is that, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    main()
