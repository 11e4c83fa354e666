"""What the epochs of all trainings share, with or without labels: metrics, progress, files."""

import math
import time
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fer_lib.batches import training_rows
from fer_lib.checkpoints import load_state, save_state
from fer_lib.config import Settings
from fer_lib.data.faceset import FaceSet
from fer_lib.device import enough_memory, processes
from fer_lib.files import InputError
from fer_lib.runs import RunFolder, write_metrics
from fer_lib.starts import may_know_test


def resume(run: RunFolder, learner: Any) -> list[dict[str, Any]]:
    """Restore a learner from the state that a run saved after its last epoch, and say so.

    Partly written files, which a killed process left behind, are deleted first.

    Returns:
        The rows of `metrics.csv` so far, one for each epoch; [] if no state was saved.

    Raises:
        InputError: the state is damaged or does not fit the learner.
    """
    if processes().is_main_process:
        for leftover in run.folder.rglob(".*.partial.*"):
            leftover.unlink()
    if not run.state_path.exists():
        return []
    state = load_state(run.state_path)
    rows = state.pop("rows")
    learner.load_state_dict(state, str(run.state_path))
    processes().print(f"{run.name} resumes after epoch {len(rows)}", flush=True)
    now = {"precision": learner.precision, "processes": processes().num_processes}
    for name, value in now.items():
        if (begun := run.config["environment"].get(name, value)) != value:
            processes().print(f"it was begun with {name}={begun} and goes on with {name}={value}")
    return rows


def load_parts(parts: dict[str, Any], state: dict[str, Any], source: str) -> None:
    """Restore the parts of a learner by name; InputError, with `source`, if one does not fit."""
    for name, part in parts.items():
        if name == "scaler" and not state.get(name):  # saved in a precision that needs none
            continue
        try:
            part.load_state_dict(state[name])
        except (KeyError, ValueError) as error:  # another precision, or other code
            raise InputError(
                f"{source} does not fit the {name} ({error}): delete its run folder, or resume "
                "with the code and precision that the run was begun with"
            ) from error


def less_memory(config: Settings) -> str:
    """Return which settings let a training need less memory of a GPU."""
    hint, least = f"lower batch_size ({config.batch_size})", getattr(config, "accumulate", None)
    share = config.batch_size // processes().num_processes
    parts = range(least + 1, share + 1) if least else ()
    if accumulate := next((n for n in parts if share % n == 0), None):
        hint += f" or split batches with accumulate={accumulate}"
    return hint


def one_epoch(run: RunFolder, learner: Any, epoch: int) -> dict[str, Any]:
    """Train for one epoch and validate.

    Args:
        epoch: number of the epoch, counted from 0.

    Returns:
        The epoch's row of `metrics.csv`. In it, `epoch` counts from 1, `lr` is the largest learning
        rate at the start, and `seconds` includes the validation, `train_seconds` does not.

    Raises:
        FloatingPointError: the training or the validation loss became infinite or NaN.
        InputError: the GPU has too little free memory, or the step cannot be recorded.
    """
    start = time.perf_counter()
    lr = max(group["lr"] for group in learner.optimizer.param_groups)
    try:
        with enough_memory(str(run.folder), less_memory(learner.config)):
            trained = learner.train_epoch(epoch)
            seconds = time.perf_counter() - start
            valid = learner.validate()
        # No training loss shows what the last step of the epoch did.
        if not math.isfinite(loss := valid["valid_loss"]):
            raise FloatingPointError(f"the validation loss became {loss} in epoch {epoch + 1}")
    except FloatingPointError as error:
        hints = [f"lower lr ({learner.config.lr})"]
        if getattr(learner.config, "clip_grad", 0) is None:
            hints.append("set clip_grad")
        if learner.precision != "no":
            hints.append("train with precision=no")
        raise FloatingPointError(f"{run.folder}: {error}: {' or '.join(hints)}") from None
    return {
        "epoch": epoch + 1,
        **trained,
        **valid,
        "lr": lr,
        "train_seconds": round(seconds, 3),
        "seconds": round(time.perf_counter() - start, 3),
    }


def require_finite(losses: Tensor, epoch: int) -> None:
    """Raise FloatingPointError, naming the step, if a loss of an epoch is infinite or NaN."""
    for step, loss in enumerate(losses.tolist(), start=1):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at step {step} of epoch {epoch + 1}")


def with_bar(learner: Any, epoch: int, title: str) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batches of an epoch, with a progress bar if the learner is to show one."""
    batches = learner.batches.epoch(epoch)
    if not (learner.progress and processes().is_main_process):
        return batches
    from tqdm.auto import tqdm

    title = f"{title} {epoch + 1}/{learner.config.epochs}"
    return tqdm(batches, total=len(learner.batches), desc=title, leave=False)


def keep(run: RunFolder, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write `metrics.csv` and the state to resume from.

    If the process is killed in between, the next one repeats the epoch.

    Args:
        state: what the learner's `state_dict` returned.
        rows: rows of `metrics.csv`, one for each epoch so far.
    """
    write_metrics(run.folder / "metrics.csv", rows)
    save_state(run.state_path, state | {"rows": rows})


OTHER_DATA = (
    "started from a run on other data, which may have learned from these test images or chose its "
    "epoch on some of them"
)


def in_common(
    config: Settings,
    faces: FaceSet,
    rows: list[dict[str, Any]],
    how: str = "trained",
    started_from: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the entries that the `results.json` of every training has.

    They are `preset`, `seed`, `dataset`, `fingerprint`, `mark`, `epochs`, `train_images` (in an
    epoch), `train_seconds` (of all epochs) and `images_per_second`.

    Args:
        rows: rows of `metrics.csv`, one for each epoch.
        how: the verb of the mark if training images were limited, "trained on 8,192 images".
        started_from: what `starts.started_from` returned when the run was begun.
    """
    seconds = sum(row["train_seconds"] for row in rows)
    marks = [faces.mark] if faces.mark else []
    labels = getattr(config, "labels", "original")
    used = len(training_rows(faces, config.limit, config.seed, labels))
    if used == config.limit < len(faces.where("train")):
        marks.append(f"{how} on {config.limit:,} images")
    if any(may_know_test(start, faces) for start in started_from):
        marks.append(OTHER_DATA)
    return {
        "preset": config.preset,
        "seed": config.seed,
        "dataset": faces.name,
        "fingerprint": faces.fingerprint,
        "mark": "; ".join(marks),
        "epochs": len(rows),
        "train_images": rows[0]["train_images"],
        "train_seconds": round(seconds, 2),
        "images_per_second": round(sum(row["train_images"] for row in rows) / seconds, 1),
    }
