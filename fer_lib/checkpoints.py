"""Weights and training states on disk, written whole and checked when read."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer_lib.config import TrainConfig
from fer_lib.files import InputError, first_line, replacing
from fer_lib.models import create_model
from fer_lib.models.weights import load_into, read_weights, write_weights


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
    model: nn.Module,
    config: TrainConfig,
    classes: Iterable[str],
    image: Iterable[int] = (1, 48, 48),
) -> None:
    """Write weights as safetensors, with what it takes to build and use the model in the metadata.

    Args:
        image: (C, H, W) of the images that it was trained on.
    """
    metadata = {
        "image": json.dumps(list(image)),
        "model": config.model,
        "options": json.dumps(config.options),
        "classes": json.dumps(list(classes)),
        "train": json.dumps(config.to_dict()),
    }
    write_weights(path, model.state_dict(), metadata)


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
