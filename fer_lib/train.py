"""The training loop: one for all models, on one process or several.

    python -m fer_lib.train baseline_cnn --dataset fer2013 --data-dir DIR --preset full
    torchrun --nproc_per_node 2 -m fer_lib.train attention_cnn --set epochs=10

The data lie on the device as uint8, every epoch is drawn from (seed, epoch) alone, and metrics stay
on the device until the epoch ends. A run that is killed resumes at its last finished epoch and, on
the same CPU, ends with the same numbers as one that was not.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn

from fer_lib.batches import training_rows
from fer_lib.checkpoints import load_state, load_weights, save_state, save_weights
from fer_lib.config import RECIPE_NAMES, TrainConfig, add_arguments, parse_settings
from fer_lib.data import FaceSet, load_faces
from fer_lib.evaluate import Predictions, save_predictions
from fer_lib.files import InputError, locked
from fer_lib.learner import Learner
from fer_lib.models import MODULES
from fer_lib.optim import processes
from fer_lib.provenance import code_digest
from fer_lib.recipes import RECIPES, default_preset, recipe
from fer_lib.runs import Run, find_run, runs_folder, start_run, write_metrics, write_results


def train(
    config: TrainConfig,
    faces: FaceSet,
    *,
    runs: str | None = None,
    progress: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a model, or resume or return the run of this config on these data.

    Args:
        runs: folder of all runs; None for `runs/` at home.
        progress: a bar for each epoch.
        quiet: no line after each epoch, nor for a finished run.

    Raises:
        InputError: the config and the data do not fit, the faces were changed after loading, or
            another process trains this very run.
        FloatingPointError: the loss became infinite or NaN; the last good epoch is kept.
    """
    faces.require_unchanged()
    run = find(config, faces, runs)
    if run and run.config["environment"].get("code") != code_digest():
        processes().print(
            f"{run.name} was {'trained' if run.finished else 'begun'} by other code, which may "
            "give other numbers; delete its folder to train it again"
        )
    if run and run.finished:
        if not quiet:
            there = (run.folder / "best.safetensors").exists()
            note = (
                "" if there else "; its weights are not here: delete its folder to train it again"
            )
            processes().print(f"loaded {run.name}, a finished run of these settings and data{note}")
        return run
    resumes = run is not None and state_path(run).exists()
    learner = Learner(config, faces, progress=progress, resumes=resumes)  # refuses what misfits
    if not processes().is_main_process:
        return Training(find(config, faces, runs), learner, faces, quiet).fit()
    with locked(runs_folder(runs) / ".lock", "starting a run"):
        run = find_run(config, faces, runs) or start_run(config, faces, runs)
    with locked(run.folder / ".lock", f"training {run.folder}"):
        find(config, faces, runs)  # tells the other processes
        return Training(run, learner, faces, quiet).fit()


def state_path(run: Run) -> Path:
    """The file from which a run resumes."""
    return run.folder / "checkpoint" / "state.pt"


def find(config: TrainConfig, faces: FaceSet, runs: str | None) -> Run | None:
    """The run of this config on these data, as the main process finds it, told to all."""
    folder = [None]
    if processes().is_main_process and (run := find_run(config, faces, runs)):
        folder = [str(run.folder)]
    (path,) = broadcast_object_list(folder)
    return Run(path) if path else None


def fine_tuning(
    run: Run, name: str = "finetune", preset: str | None = None, **changes: Any
) -> TrainConfig:
    """The config of a training that starts from a finished run's best weights.

    Model, preset and labels are those of the run where nothing else is said; of the recipe's
    options only those of the head count, such as its dropout.

    Args:
        name: the recipe, "published", "ours" or, where there is one, "finetune".
        preset: None: that of the run.
        changes: settings of the training, as `recipe` takes them.

    Raises:
        InputError: the run is unfinished, or its model has no such recipe.
    """
    if not run.finished:
        raise InputError(f"{run.folder} is unfinished: train it to its end first")
    old = run.train_config
    config = recipe(old.model, name, preset or old.preset, **{"labels": old.labels} | changes)
    options = dict(RECIPES[old.model, name].get("options", {}))
    options.pop("backbone_options", None)
    options = old.options | options | changes.get("options", {})
    return replace(config, options=options, pretrained=str(run.weights))


class Training:
    """The epochs of one run and its files; `fit()` goes to the end from wherever it stands."""

    def __init__(self, run: Run, learner: Learner, faces: FaceSet, quiet: bool):
        self.run, self.learner, self.faces, self.quiet = run, learner, faces, quiet
        self.config, self.main = learner.config, learner.accelerator.is_main_process
        self.rows: list[dict[str, Any]] = []
        self.state_path = state_path(run)
        if self.main:
            for leftover in run.folder.rglob(".*.partial.*"):  # of a process killed while writing
                leftover.unlink()
        if self.state_path.exists():
            state = load_state(self.state_path, self.learner.device)
            self.rows = state.pop("rows")
            self.learner.load_state_dict(state, str(self.state_path))
            self.say(f"{run.name} resumes after epoch {len(self.rows)}")
            begun = run.config["environment"]["precision"]
            if begun != learner.precision:
                self.say(f"it was begun in precision {begun} and goes on in {learner.precision}")
        if self.main:
            self.settle()
        if mute := len(faces.where("train")) - len(
            training_rows(faces, None, 0, self.config.labels)
        ):
            self.say(f"{mute:,} training faces have no emotion vote and are left out")

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)

    def fit(self) -> Run:
        """Train the epochs that are left, then score the best weights and finish the run."""
        while len(self.rows) < self.config.epochs and not self.patience_is_over():
            self.rows.append(self.one_epoch(len(self.rows)))
            self.keep()
        self.learner.accelerator.wait_for_everyone()
        self.finish()
        self.learner.accelerator.wait_for_everyone()
        return self.run

    def best_epoch(self) -> int:
        """Epoch with the best validation accuracy, from 0, the first of equals."""
        return max(range(len(self.rows)), key=lambda epoch: self.rows[epoch]["valid_accuracy"])

    def patience_is_over(self) -> bool:
        patience = self.config.patience
        return bool(
            self.rows
            and patience is not None
            and len(self.rows) - 1 - self.best_epoch() >= patience
        )

    def one_epoch(self, epoch: int) -> dict[str, Any]:
        """Train an epoch and validate; return its row of `metrics.csv`."""
        start = time.perf_counter()
        lr = max(group["lr"] for group in self.learner.optimizer.param_groups)
        try:
            trained = self.learner.train_epoch(epoch)
        except FloatingPointError as error:
            raise FloatingPointError(f"{self.run.folder}: {error}") from None
        seconds = time.perf_counter() - start
        valid = self.learner.validate()
        if not math.isfinite(valid["valid_loss"]):  # after a last step that none followed
            raise FloatingPointError(
                f"{self.run.folder}: the validation loss became {valid['valid_loss']} in epoch "
                f"{epoch + 1}. Lower lr ({self.config.lr}), set clip_grad, or train with "
                "precision=no"
            )
        if self.learner.plateau and epoch + 1 > self.config.warmup_epochs:
            self.learner.plateau.step(valid[self.config.plateau_metric])
        return {
            "epoch": epoch + 1,
            **trained,
            **valid,
            "lr": lr,
            "train_seconds": round(seconds, 3),
            "seconds": round(time.perf_counter() - start, 3),
        }

    def settle(self) -> None:
        """Make the weights of the last recorded epoch the best, and delete those of a later one.

        Where a process was killed between the two, or before the epoch was recorded.
        """
        for path in self.run.folder.glob("epoch-*.safetensors"):
            if path.stem == f"epoch-{len(self.rows)}":
                path.replace(self.run.folder / "best.safetensors")
            else:
                path.unlink()

    def keep(self) -> None:
        """Save weights, if they are the best, metrics and resumable state, each all or nothing.

        The best weights replace the former ones only when the state knows of their epoch: killed
        before that, the next process repeats it, which on a GPU may not be the best again.
        """
        row, best = self.rows[-1], self.best_epoch() == len(self.rows) - 1
        if self.main:
            folder, faces = self.run.folder, self.faces
            if best:
                save_weights(
                    folder / f"epoch-{len(self.rows)}.safetensors",
                    self.learner.kept,
                    self.config,
                    faces.classes,
                    faces.images.shape[1:],
                )
            write_metrics(folder / "metrics.csv", self.rows)
            save_state(self.state_path, self.learner.state_dict() | {"rows": self.rows})
            self.settle()
        line = (
            f"{self.config.model} epoch {row['epoch']}/{self.config.epochs}: "
            f"loss {row['train_loss']:.3f}, validation {row['valid_accuracy']:.2%}"
            f"{' (best)' if best else ''}, {row['seconds']:.1f} s {self.faces.mark}"
        )
        if not self.quiet:
            self.say(line.rstrip())

    def finish(self) -> None:
        """Score the best weights on validation and test, and write the results, last of all."""
        folder, faces = self.run.folder, self.faces
        best = load_weights(folder / "best.safetensors").to(self.learner.device)
        predictions = self.predictions(best)
        one_view = self.predictions(best, flip=False) if self.config.flip_tta else None
        if self.main:
            save_predictions(folder / "predictions.npz", predictions)
            write_results(self.run, faces, predictions, self.rows, best, one_view)

    def predictions(self, model: nn.Module, flip: bool | None = None) -> Predictions:
        """Of the validation and test images, in float32, by all processes together."""
        p = [
            self.learner.held_out.predict(split, model, "no", flip).cpu().numpy()
            for split in ("valid", "test")
        ]
        return Predictions.of(self.faces, *p)


def main(arguments: list[str] | None = None) -> None:
    """Command line; an error of the user's ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("model", choices=sorted(MODULES))
    add_arguments(parser, "TrainConfig")
    parser.add_argument("--recipe", default=None, choices=RECIPE_NAMES, help="default: ours")
    parser.add_argument(
        "--from-run",
        metavar="FOLDER",
        help="start from the best weights of this finished run; default recipe: finetune",
    )
    parser.add_argument(
        "--labels",
        help="original, votes, refined_RULE or refined_RULE:soft; default: original, or those of "
        "--from-run",
    )
    args = parser.parse_args(arguments)
    try:
        changes = {"seed": args.seed} | parse_settings(args.set)
        if args.labels:
            changes = {"labels": args.labels} | changes
        if args.from_run:
            run = Run(args.from_run)
            if run.train_config.model != args.model:
                raise InputError(f"{run.folder} is of {run.train_config.model}, not {args.model}")
            config = fine_tuning(run, args.recipe or "finetune", args.preset, **changes)
        elif args.recipe == "finetune":
            raise InputError("the recipe finetune goes on from a finished run: give --from-run")
        else:
            preset = args.preset or default_preset(args.dataset)
            config = recipe(args.model, args.recipe or "ours", preset, **changes)
        with processes().main_process_first():  # which writes the cache that the others read
            faces = load_faces(args.dataset, args.data_dir, say=processes().print)
        run = train(config, faces, runs=args.runs)
    except (InputError, FloatingPointError) as error:
        parser.error(str(error))
    if processes().is_main_process:
        accuracy = run.results["test"]["full"]["accuracy"]
        print(f"{run.folder}: test accuracy {accuracy:.2%} {run.results['mark']}".rstrip())


if __name__ == "__main__":
    main()
