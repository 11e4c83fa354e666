"""The models of the project, registered with timm and built by one `create_model`.

Contract, the same for all of them:

* `forward(x)` takes float (B, C, H, W), already resized and normalised by the model's own
  `pretrained_cfg` (timm's convention: `input_size`, `mean`, `std`), and returns logits
  (B, classes).
* A model with more to say than logits has a method `auxiliary_losses(targets)`, called once after
  each training forward pass with the soft targets (B, classes). It returns name -> scalar,
  already weighted, which the training loop adds to the loss and logs by name.
* `get_classifier()` returns the head, as in timm.
"""

from importlib import import_module
from typing import Any

from torch import nn

from fer_lib.files import InputError

MODULES = {
    "baseline_cnn": "cnn",
    "attention_cnn": "cnn",
}
"""Model name -> module of this package that registers it with timm."""


def create_model(
    name: str, *, num_classes: int = 7, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a model, at its published size unless `options` say otherwise.

    Args:
        name: one of `MODULES`.
        num_classes: 7, or 8 with contempt.
        pretrained: load pretrained weights; an error where there are none, never a random start.
        options: keyword arguments of the model's constructor.

    Raises:
        InputError: the name is unknown, the model does not take one of the options, or there are no
            pretrained weights.
    """
    if name not in MODULES:
        raise InputError(f"model {name!r} is unknown: use one of {', '.join(MODULES)}")
    import timm  # loads in seconds, so only when a model is wanted

    import_module(f"fer_lib.models.{MODULES[name]}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
    except TypeError as error:
        raise InputError(f"{name} does not take these options ({error})") from error
    except RuntimeError as error:
        if not pretrained:
            raise
        raise InputError(f"pretrained weights of {name} cannot be had ({error})") from error
