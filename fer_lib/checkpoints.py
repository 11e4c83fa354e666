"""Write and read weights and training states.

Files are written all or nothing, in the background if wanted, and checked when they are read.
"""

import io
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import nn

from fer_lib.config import TrainConfig
from fer_lib.files import InputError, first_line, replacing
from fer_lib.models import create_model
from fer_lib.models.weights import State, load_into, read_weights, write_weights


class Background:
    """Runs function calls in a thread, one at a time and in order, while the caller continues.

    Writing the state of a ViT-S takes a quarter of the time in which a GPU trains it for an epoch.
    Each call first waits for the previous one and raises the error that it raised. The end of the
    `with` block waits for the last call and does the same; but if the block itself ends with an
    error, an error of the last call is added to that one as a note.
    """

    def __enter__(self) -> "Background":
        self.thread = ThreadPoolExecutor(1)
        self.last: Future[None] | None = None
        return self

    def __call__(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.last:
            self.last.result()
        self.last = self.thread.submit(function, *arguments)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.thread.shutdown()
        if self.last and error is None:
            self.last.result()
        elif self.last and (failed := self.last.exception()) not in (None, error):
            error.add_note(f"in addition, writing in the background failed: {failed}")


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a training state to the CPU, where later steps cannot change it."""
    return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), state)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable training state with torch.save, all or nothing."""
    buffer = io.BytesIO()
    torch.save(state, buffer)  # in memory first: on a full disk torch raises no OSError
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote, to the CPU; who loads it moves what it needs.

    The file has only tensors and plain values, so that no code is run. An optimizer that counts its
    steps on the CPU would wait for the device at every step if the counts came back on a GPU.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files torch raises almost anything
        raise InputError(
            f"{path} is damaged ({first_line(error)}): delete the run folder "
            f"{path.parent.parent} and train again"
        ) from error


def save_weights(
    path: Path,
    state: State,
    config: TrainConfig,
    classes: Iterable[str],
    image: Iterable[int] = (1, 48, 48),
    learned_from: Iterable[dict[str, Any]] = (),
) -> None:
    """Write weights as safetensors, with metadata from which the model can be built and used.

    Args:
        state: state dict of a model, or of its moving average.
        classes: names of the classes, in the order of the logits.
        image: (C, H, W) of the images that the model was trained on.
        learned_from: as `starts.learned_from` returns it; without it, nobody can tell.
    """
    metadata = {
        "image": json.dumps(list(image)),
        "model": config.model,
        "options": json.dumps(config.options),
        "classes": json.dumps(list(classes)),
        "train": json.dumps(config.to_dict()),
        "learned_from": json.dumps(list(learned_from)),
    }
    write_weights(path, state, metadata)


def load_weights(path: str | Path) -> nn.Module:
    """Build the model that a weights file describes, and load its weights.

    It needs no network connection, as the file contains all weights, pretrained ones included.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        InputError: the file is missing, damaged, not of this project, or of another model.
    """
    state, metadata = read_weights(path)
    if "model" not in metadata:
        raise InputError(f"{path} does not say which model it is of: it was not written by fer_lib")
    classes = json.loads(metadata["classes"])
    model = create_model(
        metadata["model"], num_classes=len(classes), **json.loads(metadata["options"])
    )
    load_into(model, state, path)
    return model.eval()
