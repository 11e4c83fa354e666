"""The models of the project, registered with timm and built by `create_model`.

All models follow the same contract:

* `forward(x)` takes float images (B, C, H, W), already resized and normalised as the model's
  `pretrained_cfg` says (timm's convention: `input_size`, `mean`, `std`), and returns logits
  (B, classes).
* A model may have a method `auxiliary_losses(targets)`, which is called once after each training
  forward pass with the soft targets (B, classes). It returns weighted scalars by name, which the
  training loop adds to the loss and logs.
* A model may also have a method `statistics()`, which returns scalars of the same forward pass by
  name; they are only logged. No auxiliary loss or statistic is named "loss" or "right".
* A module whose shapes depend on values on the device, or that waits for such values, sets
  `static_shapes = False`; its training steps are then not recorded (`fer_lib.graph`).
* `get_classifier()` returns the head and `group_matcher()` orders the layers, as in timm.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from fer_lib.files import InputError, first_line
from fer_lib.models.weights import load_start

MODULES = {
    "baseline_cnn": "cnn",
    "attention_cnn": "cnn",
    "vit_patch": "vit",
    "vit_cnn": "vit",
    "vit_tiny": "vit",
    "vit_mae": "mae",
    "vit_moe": "moe",
    "grefel": "grefel",
}
"""Module of this package that registers each model with timm, by the name of the model."""


def create_model(
    name: str, *, num_classes: int = 7, pretrained: bool | str | Path = False, **options: Any
) -> nn.Module:
    """Build a model, at its published size unless `options` change it.

    Args:
        name: one of `MODULES`.
        num_classes: 7, or 8 with contempt.
        pretrained: where the weights come from: False for random weights; True for the pretrained
            weights of the backbone, from their hub; or a safetensors file with the weights of the
            backbone or of a finished run (see `fer_lib.models.weights.load_start`). Weights that
            cannot be loaded raise an error; they are never replaced by random ones.
        options: keyword arguments of the model's constructor.

    Raises:
        InputError: the name is unknown, the model does not take one of the options, or the
            pretrained weights cannot be loaded or do not fit.
    """
    if name not in MODULES:
        raise InputError(f"model {name!r} is unknown: use one of {', '.join(MODULES)}")
    if options.get("in_chans", 1) not in (1, 3):
        raise InputError(f"in_chans is 1 (grey) or 3 (RGB), not {options['in_chans']!r}")
    import timm  # takes seconds, so it is imported only when a model is built

    import_module(f"fer_lib.models.{MODULES[name]}")
    from_hub = pretrained is True
    try:
        model = timm.create_model(name, pretrained=from_hub, num_classes=num_classes, **options)
    except InputError:
        raise
    except Exception as error:  # a constructor may raise anything for an invalid value
        reason = first_line(error)
        if from_hub and isinstance(error, RuntimeError | OSError):
            raise InputError(_why_not_from_hub(name, reason)) from error
        if not options:
            raise  # an error in this package
        raise InputError(f"{name} does not take these options ({reason})") from error
    if isinstance(pretrained, str | Path):
        load_start(model, pretrained, name, num_classes)
    return model


def _why_not_from_hub(name: str, reason: str) -> str:
    """Explain in a sentence why pretrained weights were not loaded, given an error's first line."""
    if reason.startswith("No pretrained weights exist"):
        return f"{name} has no pretrained weights: use pretrained=False"
    if "loading state_dict" in reason:
        return (
            f"the pretrained weights do not fit these options of {name}: leave out the options "
            "that change the size of the backbone, or use pretrained=False"
        )
    return (
        f"the pretrained weights of {name} cannot be loaded ({reason}): try again with access to "
        "huggingface.co, give a file with pretrained=FILE.safetensors, or use random weights with "
        "pretrained=False"
    )
