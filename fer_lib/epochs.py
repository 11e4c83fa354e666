"""What the epochs of every training have in common, with labels or without: rows, bar, files."""

import math
import time
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fer_lib.checkpoints import load_state, save_state
from fer_lib.config import Settings
from fer_lib.data.faceset import FaceSet
from fer_lib.device import processes
from fer_lib.runs import RunFolder, write_metrics


def resume(run: RunFolder, learner: Any) -> list[dict[str, Any]]:
    """Give a learner the state of a run's last epoch; the rows of the epochs so far, [] for none.

    What a process that was killed while writing has left behind is deleted.
    """
    if processes().is_main_process:
        for leftover in run.folder.rglob(".*.partial.*"):
            leftover.unlink()
    if not run.state_path.exists():
        return []
    state = load_state(run.state_path, learner.device)
    rows = state.pop("rows")
    learner.load_state_dict(state, str(run.state_path))
    return rows


def one_epoch(run: RunFolder, learner: Any, epoch: int) -> dict[str, Any]:
    """Train an epoch, counted from 0, and validate; its row of `metrics.csv`.

    Raises:
        FloatingPointError: the training or the validation loss became infinite or NaN.
    """
    start = time.perf_counter()
    lr = max(group["lr"] for group in learner.optimizer.param_groups)
    try:
        trained = learner.train_epoch(epoch)
        seconds = time.perf_counter() - start
        valid = learner.validate()
        if not math.isfinite(loss := valid["valid_loss"]):  # after a last step that none followed
            raise FloatingPointError(f"the validation loss became {loss} in epoch {epoch + 1}")
    except FloatingPointError as error:
        clip = " set clip_grad," * hasattr(learner.config, "clip_grad")
        raise FloatingPointError(
            f"{run.folder}: {error}. Lower lr ({learner.config.lr}),{clip} or train with "
            "precision=no"
        ) from None
    return {
        "epoch": epoch + 1,
        **trained,
        **valid,
        "lr": lr,
        "train_seconds": round(seconds, 3),
        "seconds": round(time.perf_counter() - start, 3),
    }


def require_finite(losses: Tensor, epoch: int) -> None:
    """FloatingPointError, with the step, where one of an epoch's losses is infinite or NaN."""
    for step, loss in enumerate(losses.tolist(), start=1):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at step {step} of epoch {epoch + 1}")


def with_bar(learner: Any, epoch: int, title: str) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches of an epoch, with a progress bar where one is wanted."""
    batches = learner.batches.epoch(epoch)
    if not (learner.progress and processes().is_main_process):
        return batches
    from tqdm.auto import tqdm

    title = f"{title} {epoch + 1}/{learner.config.epochs}"
    return tqdm(batches, total=len(learner.batches), desc=title, leave=False)


def keep(run: RunFolder, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write metrics and resumable state; killed in between, the next process repeats the epoch."""
    write_metrics(run.folder / "metrics.csv", rows)
    save_state(run.state_path, state | {"rows": rows})


def in_common(
    config: Settings, faces: FaceSet, rows: list[dict[str, Any]], how: str = "trained"
) -> dict[str, Any]:
    """What the `results.json` of every training says."""
    seconds = sum(row["train_seconds"] for row in rows)
    marks = [faces.mark] if faces.mark else []
    if config.limit is not None and config.limit < len(faces.where("train")):
        marks.append(f"{how} on {config.limit:,} images")
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
