"""Train the epochs of one run and write its files, so that a killed run can be resumed."""

from typing import Any

from torch import nn

from fer_lib import plots
from fer_lib.batches import training_rows
from fer_lib.checkpoints import Background, load_weights, save_weights, snapshot
from fer_lib.data import FaceSet
from fer_lib.data.refined import refined_by
from fer_lib.epochs import in_common, keep, one_epoch, resume
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.evaluate.abstention import operating_point
from fer_lib.files import write_json
from fer_lib.learner import Learner
from fer_lib.provenance import describe_environment, processor
from fer_lib.runs import Run, record_resume
from fer_lib.starts import learned_from

FEW = 50  # steps of a whole training; with fewer, a network has hardly begun to learn
FROM_MODEL = ", or start from a trained model with pretrained=FILE"


ACCURACY = {"best": "valid_accuracy", "unaveraged": "valid_accuracy_unaveraged"}
"""Weights that a run keeps at their best epoch -> the column of `metrics.csv` with their accuracy.

"best" are those of the moving average if there is one, and then "unaveraged" are the others.
"""


def best_epoch(rows: list[dict[str, Any]], name: str = "best") -> int:
    """Return the epoch, counted from 0, with the best validation accuracy; of equals, the first."""
    return max(range(len(rows)), key=lambda epoch: rows[epoch].get(ACCURACY[name], 0))


class Training:
    """The training of one run, from its last saved epoch (if there is one) to the end.

    Args:
        run: the folder to write to.
        learner: resumes from the state saved in `run`, if there is one.
        quiet: whether to leave out the lines on the device, refined labels and each epoch.

    Attributes:
        rows: the rows of `metrics.csv`, one per epoch so far.
    """

    def __init__(self, run: Run, learner: Learner, faces: FaceSet, quiet: bool):
        self.run, self.learner, self.faces, self.quiet = run, learner, faces, quiet
        self.config, self.main = learner.config, learner.accelerator.is_main_process
        self.rows = resume(run, learner)
        if self.main:
            now = describe_environment(self.config) | learner.from_hub
            record_resume(run, now, len(self.rows))
        if not quiet:
            where = f"{self.learner.device.type} ({processor()})"
            self.say(f"{run.name} trains on {where}, precision {self.learner.precision}")
            if told := refined_by(faces, self.config.labels):
                self.say(told)
            self.warn()
        if self.main:
            self.settle(len(self.rows))
        voted = training_rows(faces, None, 0, self.config.labels)
        if mute := len(faces.where("train")) - len(voted):
            self.say(f"{mute:,} training faces have no vote for any class and are left out")

    def warn(self) -> None:
        """Print a remark if there are few steps to learn from, or small networks for real faces."""
        if (steps := self.config.epochs * len(self.learner.batches)) < FEW:
            start = "" if self.config.pretrained else FROM_MODEL
            self.say(f"{steps} steps in all are few to learn from: raise epochs{start}")
        if self.config.preset == "sample" and "sample data" not in self.faces.mark:
            self.say("preset sample has small networks, for drawn faces: use quick or full")

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)

    def fit(self) -> Run:
        """Train the remaining epochs, score the best weights, and return the finished run."""
        with Background() as background:
            while len(self.rows) < self.config.epochs and not self.patience_is_over():
                self.rows.append(self.one_epoch(len(self.rows)))
                if self.main:
                    background(self.keep, snapshot(self.learner.state_dict()), list(self.rows))
                self.tell()
        self.learner.accelerator.wait_for_everyone()
        self.finish()
        self.learner.accelerator.wait_for_everyone()
        return self.run

    def patience_is_over(self) -> bool:
        if self.config.patience is None or not self.rows:
            return False
        return len(self.rows) - 1 - best_epoch(self.rows) >= self.config.patience

    def one_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, counted from 0, and validate; return its row of `metrics.csv`."""
        row = one_epoch(self.run, self.learner, epoch)
        if self.learner.plateau and epoch + 1 > self.config.warmup_epochs:
            self.learner.plateau.step(row[self.config.plateau_metric])
        return row

    def settle(self, epochs: int) -> None:
        """Make the weights of the last recorded epoch the best, and delete those of other epochs.

        When a run resumes, this finishes what a killed process left behind: weights of a recorded
        epoch that it did not rename, or weights of an epoch that it did not record.

        Args:
            epochs: number of recorded epochs.
        """
        for name in ACCURACY:
            for path in self.run.folder.glob(f"{name}-*.safetensors"):
                if path.stem == f"{name}-{epochs}":
                    path.replace(self.run.folder / f"{name}.safetensors")
                else:
                    path.unlink()

    def keep(self, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Save weights (those that are the best), metrics and state, each file all or nothing.

        The best weights replace the previous ones only after the state with their epoch is saved:
        if the process is killed earlier, the next one repeats the epoch, and on a GPU the repeated
        epoch may not be the best again.

        Args:
            state: a copy of the learner's state; the learner is already in the next epoch.
            rows: the rows of the epochs so far.
        """
        folder, faces, epoch = self.run.folder, self.faces, len(rows)
        weights = {"best": state.get("ema", state["model"])}
        if "ema" in state:
            weights["unaveraged"] = state["model"]
        for name, values in weights.items():
            if best_epoch(rows, name) == epoch - 1:
                path = folder / f"{name}-{epoch}.safetensors"
                about = (faces.classes, faces.images.shape[1:], learned_from(self.run.config))
                save_weights(path, values, self.config, *about)
        keep(self.run, state, rows)
        self.settle(epoch)

    def tell(self) -> None:
        """Print one line on the last epoch."""
        row, best = self.rows[-1], best_epoch(self.rows) == len(self.rows) - 1
        line = (
            f"{self.config.model} epoch {row['epoch']}/{self.config.epochs}: "
            f"loss {row['train_loss']:.3f}, validation {row['valid_accuracy']:.2%}"
            f"{' (best)' if best else ''}, {row['seconds']:.1f} s {self.faces.mark}"
        )
        if not self.quiet:
            self.say(line.rstrip())

    def finish(self) -> None:
        """Score the best weights on validation and test images, and write the results last.

        With a moving average the weights themselves are scored too, at their own best epoch. Their
        predictions are kept, but not they. Where predictions are means with those of the mirror
        image, those of the image alone are kept too.
        """
        folder, faces = self.run.folder, self.faces
        best = self.run.load_model().to(self.learner.device)
        predictions, more = self.predictions(best), {}
        if self.config.flip_tta:
            one_view = self.predictions(best, flip=False)
            more["one_view"] = {
                split: evaluate(faces, one_view, split)["full"]["accuracy"]
                for split in ("valid", "test")
            }
        if (path := folder / "unaveraged.safetensors").exists():
            unaveraged = self.predictions(load_weights(path).to(self.learner.device))
            more["unaveraged"] = {
                "best_epoch": best_epoch(self.rows, "unaveraged") + 1,
                "valid": evaluate(faces, unaveraged, "valid"),
                "test": evaluate(faces, unaveraged, "test"),
            }
        if self.main:
            save_predictions(folder / "predictions.npz", predictions)
            if "one_view" in more:
                save_predictions(folder / "predictions_one_view.npz", one_view)
            if "unaveraged" in more:
                save_predictions(folder / "predictions_unaveraged.npz", unaveraged)
            write_results(self.run, faces, predictions, self.rows, best, more)
            path.unlink(missing_ok=True)
            self.run.forget_state()

    def predictions(self, model: nn.Module, flip: bool | None = None) -> Predictions:
        """Predict the validation and test images in float32, in all processes together.

        Args:
            flip: whether to average with the mirror image; None: as the config says.
        """
        p = [
            self.learner.held_out.predict(split, model, "no", flip).cpu().numpy()
            for split in ("valid", "test")
        ]
        return Predictions.of(self.faces, *p)


def write_results(
    run: Run,
    faces: FaceSet,
    predictions: Predictions,
    rows: list[dict[str, Any]],
    model: nn.Module,
    more: dict[str, Any],
) -> None:
    """Write the figures and `results.json` of a run whose predictions are saved.

    Args:
        rows: the rows of `metrics.csv`.
        model: the best model; its parameters are counted.
        more: further entries of `results.json`.
    """
    config, test = run.train_config, evaluate(faces, predictions, "test")
    common = in_common(config, faces, rows, started_from=run.config.get("started_from", []))
    results = {
        "model": config.model,
        "recipe": config.recipe,
        "labels": config.labels,
        **common,
        "classes": list(faces.classes),
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": best_epoch(rows) + 1,
        "use": operating_point(faces, predictions),
        "valid": evaluate(faces, predictions, "valid"),
        "test": test,
        **more,
    }
    for name in ("loss", "accuracy"):
        figure = plots.learning_curve(rows, name, mark=common["mark"])
        plots.save(figure, run.folder / f"{name}_curve.png")
    figure = plots.confusion_matrix(test["full"]["confusion"], faces.classes, mark=common["mark"])
    plots.save(figure, run.folder / "confusion_matrix.png")
    write_json(run.folder / "results.json", results)
