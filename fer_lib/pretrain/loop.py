"""The loop of a pretraining: it resumes after the last finished epoch and saves every epoch."""

from pathlib import Path
from typing import Any

from fer_lib.checkpoints import Background, snapshot
from fer_lib.data import FaceSet
from fer_lib.device import OTHERS, enough_memory, processes
from fer_lib.epochs import keep, one_epoch, resume
from fer_lib.files import InputError, locked
from fer_lib.pretrain.config import PretrainConfig
from fer_lib.pretrain.folder import (
    CODE,
    Pretraining,
    environment_of,
    find_pretraining,
    start_pretraining,
    write_autoencoder,
    write_results,
)
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.provenance import code_digest
from fer_lib.runs import record_resume, runs_folder


@enough_memory("pretraining", OTHERS)
def pretrain(
    config: PretrainConfig,
    faces: FaceSet,
    *,
    runs: str | Path | None = None,
    progress: bool = False,
) -> Pretraining:
    """Pretrain an autoencoder, or resume or return the pretraining of this config on these data.

    Training images are used without their labels, which only enter the fingerprint of the data.
    Validation images only measure the loss; test images are not used.

    Args:
        runs: folder of all runs, None for `runs/` in `fer_lib.files.home()`; pretrainings are in
            its folder `pretraining/`.
        progress: show a progress bar during each epoch; a line is always printed after it.

    Raises:
        InputError: the config and the data do not fit, the faces were changed after loading,
            another process is running this pretraining, this is one of several processes, the
            state to resume from is damaged or does not fit, or the GPU has too little free memory.
        FloatingPointError: the loss became infinite or NaN; the last good epoch is kept.
    """
    faces.require_unchanged()
    if processes().num_processes > 1:
        raise InputError("pretraining runs in one process: start it without torchrun or accelerate")
    root = runs_folder(runs) / "pretraining"
    run = find_pretraining(config, faces, root)
    if run and run.begun and run.config["environment"].get("code") != code_digest(CODE):
        how = "made" if run.finished else "begun"
        print(f"{run.name} was {how} by other code; delete it to pretrain again")
    if run and run.finished:
        print(f"loaded {run.name}, a finished pretraining of these settings and data")
        return run
    learner = MaskedLearner(config, faces, progress=progress)  # refuses data that do not fit
    with locked(root / ".lock", "starting a pretraining"):
        run = find_pretraining(config, faces, root) or start_pretraining(config, faces, root)
    with locked(run.folder / ".lock", f"pretraining {run.folder}"):
        # Another process may have finished it while this one built the network.
        return run if run.finished else fit(run, learner, faces)


def fit(run: Pretraining, learner: MaskedLearner, faces: FaceSet) -> Pretraining:
    """Train the remaining epochs, then write the weights and the results."""
    rows = resume(run, learner)
    record_resume(run, environment_of(learner.config), len(rows))
    with Background() as background:
        while len(rows) < learner.config.epochs:
            rows.append(one_epoch(run, learner, len(rows)))
            background(keep, run, snapshot(learner.state_dict()), list(rows))
            print(line(rows[-1], learner.config.epochs, faces.mark), flush=True)
    write_autoencoder(run, learner.model)
    write_results(run, faces, rows)
    run.forget_state()
    return run


def line(row: dict[str, Any], epochs: int, mark: str) -> str:
    """Return the line that is printed after an epoch."""
    return (
        f"pretraining epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, "
        f"validation {row['valid_loss']:.4f}, {row['seconds']:.1f} s {mark}"
    ).rstrip()
