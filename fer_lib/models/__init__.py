"""The models of the project, registered with timm and built by one `create_model`.

Contract, the same for all of them:

* `forward(x)` takes float (B, C, H, W), already resized and normalised by the model's own
  `pretrained_cfg` (timm's convention: `input_size`, `mean`, `std`), and returns logits
  (B, classes).
* A model with more to say than logits has a method `auxiliary_losses(targets)`, called once after
  each training forward pass with the soft targets (B, classes). It returns name -> scalar,
  already weighted, which the training loop adds to the loss and logs by name.
* It may also have `statistics()`: name -> scalar of the same forward pass, which is logged only.
  None of these names is "loss" or "right".
* A module whose shapes depend on values on the device, or that waits for some, says so by
  `static_shapes = False`: its training steps are not recorded (`fer_lib.graph`).
* `get_classifier()` returns the head, as in timm; `group_matcher()` orders its layers.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from fer_lib.files import InputError, first_line

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
"""Model name -> module of this package that registers it with timm."""


def create_model(
    name: str, *, num_classes: int = 7, pretrained: bool | str | Path = False, **options: Any
) -> nn.Module:
    """Build a model, at its published size unless `options` say otherwise.

    Args:
        name: one of `MODULES`.
        num_classes: 7, or 8 with contempt.
        pretrained: what its weights start from: False, at random; True, the pretrained weights of
            its backbone from their hub; or a safetensors file, of that backbone or of a finished
            run (`fer_lib.models.weights.load_start`). An error where they cannot be had, never a
            random start instead.
        options: keyword arguments of the model's constructor.

    Raises:
        InputError: the name is unknown, the model does not take one of the options, or the
            pretrained weights cannot be had or do not fit.
    """
    if name not in MODULES:
        raise InputError(f"model {name!r} is unknown: use one of {', '.join(MODULES)}")
    if options.get("in_chans", 1) not in (1, 3):
        raise InputError(f"in_chans is 1 (grey) or 3 (RGB), not {options['in_chans']!r}")
    import timm  # loads in seconds, so only when a model is wanted

    import_module(f"fer_lib.models.{MODULES[name]}")
    from_hub = pretrained is True
    try:
        model = timm.create_model(name, pretrained=from_hub, num_classes=num_classes, **options)
    except InputError:
        raise
    except Exception as error:  # a constructor may raise anything for a value that it cannot use
        reason = first_line(error)
        if from_hub and isinstance(error, RuntimeError | OSError):
            raise InputError(_why_not_from_hub(name, reason)) from error
        if not options:
            raise  # a fault of ours
        raise InputError(f"{name} does not take these options ({reason})") from error
    if isinstance(pretrained, str | Path):
        from fer_lib.models.weights import load_start

        load_start(model, pretrained, name)
    return model


def _why_not_from_hub(name: str, reason: str) -> str:
    """One sentence on pretrained weights that could not be had, from the first line of an error."""
    if reason.startswith("No pretrained weights exist"):
        return f"{name} has no pretrained weights: use pretrained=False"
    if "loading state_dict" in reason:
        return (
            f"the pretrained weights do not fit these options of {name}: leave out what changes "
            "the size of the backbone, or use pretrained=False"
        )
    return (
        f"the pretrained weights of {name} cannot be had ({reason}): run it again where "
        "huggingface.co can be reached, or give pretrained=FILE.safetensors, or ask for random "
        "weights by pretrained=False"
    )
