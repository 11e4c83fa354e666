"""Weights and training states on disk: written whole, in the background; checked when read."""

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
    """Makes calls in a thread, one at a time and in order, while the caller goes on.

    Writing the state of a ViT-S takes a quarter of the time in which a GPU trains its epoch. A call
    waits for the one before, and raises what that raised; so does the end of the `with` block,
    which waits for the last one however the block is left; where it is left by an error, a failure
    of that last one is a note to it.
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
        elif self.last and (failed := self.last.exception()):
            error.add_note(f"besides, what was to be written before it was not: {failed}")


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a training state, of which no tensor is on a device nor changed by later steps."""
    return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), state)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable training state with torch.save, all or nothing."""
    buffer = io.BytesIO()
    torch.save(state, buffer)  # in memory first: on a full disk torch raises no OSError
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote; only tensors and plain values, no code is run."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
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
) -> None:
    """Write weights as safetensors, with what it takes to build and use the model in the metadata.

    Args:
        state: of a model, or of the moving average of one.
        image: (C, H, W) of the images that it was trained on.
    """
    metadata = {
        "image": json.dumps(list(image)),
        "model": config.model,
        "options": json.dumps(config.options),
        "classes": json.dumps(list(classes)),
        "train": json.dumps(config.to_dict()),
    }
    write_weights(path, state, metadata)


def load_weights(path: str | Path) -> nn.Module:
    """Build the model that a weights file describes and load it: CPU, evaluation mode.

    Touches no network: what the training started from is in the file already.

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
