"""What a weights file says of its network beside the weights."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fer_lib.files import InputError, read_json
from fer_lib.models.weights import read_metadata
from fer_lib.recipes import own_start


@dataclass(frozen=True)
class Description:
    """What it takes to use a network.

    Attributes:
        name: for people.
        classes: K names, in the order of the outputs.
        image: (C, H, W) of the images that it was trained on.
        flip: a prediction is the mean of those of the image and of its mirror image.
        temperature: by which predictions are calibrated; 1 changes nothing.
        threshold: probability from which on a prediction counts as sure; infinite where none does,
            None where it is not known.
    """

    name: str
    classes: tuple[str, ...]
    image: tuple[int, int, int] = (1, 48, 48)
    flip: bool = False
    temperature: float = 1.0
    threshold: float | None = None


def tempered(p: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, K) with their logits divided by a temperature; 1 leaves them alone."""
    return p if temperature == 1 else (p.clamp_min(1e-12).log() / temperature).softmax(1)


def describe(path: Path) -> Description:
    """What a safetensors file says of itself, and where it lies in a run folder, the run.

    Raises:
        InputError: it cannot be read, or was not written by this project.
    """
    metadata = read_metadata(path)
    if "model" not in metadata:
        own = own_start(str(path)) == "pretraining"
        raise InputError(
            f"{path} is of a pretraining: train a classifier on it first"
            if own
            else f"{path} does not say which model it is of: it was not written by fer_lib"
        )
    known = json.loads(metadata.get("use", "{}"))
    results = path.with_name("results.json")
    if not known and results.exists():
        known = read_json(results).get("use") or {}
    never = math.inf if known else None  # no answer reached the accuracy that counts as sure
    threshold = known.get("threshold")
    return Description(
        name=metadata.get("name") or f"{metadata['model']} ({path.parent.name})",
        classes=tuple(json.loads(metadata["classes"])),
        image=tuple(json.loads(metadata.get("image", "[1, 48, 48]"))),
        flip=json.loads(metadata.get("train", "{}")).get("flip_tta", False),
        temperature=known.get("temperature", 1.0),
        threshold=never if threshold is None else threshold,
    )
