"""What a weights file says about its network in addition to the weights."""

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
    """What must be known about a network in order to use it.

    Attributes:
        name: the name that users see.
        classes: names of the K classes, in the order of the outputs.
        image: (C, H, W) of the images that the network was trained on.
        flip: whether a prediction is the mean of those for an image and for its mirror image.
        temperature: divides the logits to calibrate the probabilities; 1 changes nothing.
        threshold: the least probability at which a prediction counts as sure; infinite if none
            ever does, None if the threshold is not known.
    """

    name: str
    classes: tuple[str, ...]
    image: tuple[int, int, int] = (1, 48, 48)
    flip: bool = False
    temperature: float = 1.0
    threshold: float | None = None


def tempered(p: Tensor, temperature: float) -> Tensor:
    """Divide the logits of probabilities (N, K) by a temperature; 1 changes nothing.

    Returns:
        Probabilities (N, K).
    """
    return p if temperature == 1 else (p.clamp_min(1e-12).log() / temperature).softmax(1)


def describe(path: Path) -> Description:
    """Read the description of the network in a safetensors file.

    If the file itself has no calibration, that of the `results.json` beside it in a run folder is
    taken.

    Raises:
        InputError: the file cannot be read, was not written by this project, or comes from a
            pretraining and so contains no classifier.
    """
    metadata = read_metadata(path)
    if "model" not in metadata:
        own = own_start(str(path)) == "pretraining"
        raise InputError(
            f"{path} comes from a pretraining: train a classifier on it first"
            if own
            else f"{path} does not say which model it is of: it was not written by fer_lib"
        )
    known = json.loads(metadata.get("use", "{}"))
    results = path.with_name("results.json")
    if not known and results.exists():
        known = read_json(results).get("use") or {}
    never = math.inf if known else None  # no threshold gives the accuracy that sure answers need
    threshold = known.get("threshold")
    return Description(
        name=metadata.get("name") or f"{metadata['model']} ({path.parent.name})",
        classes=tuple(json.loads(metadata["classes"])),
        image=tuple(json.loads(metadata.get("image", "[1, 48, 48]"))),
        flip=json.loads(metadata.get("train", "{}")).get("flip_tta", False),
        temperature=known.get("temperature", 1.0),
        threshold=never if threshold is None else threshold,
    )
