"""Read and write weights files, and start a model or its backbone from one."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_lib.files import InputError, expanded, replacing

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
"""Patterns of transformers' names, with timm's names for them, in the order of their use.

They cover ViTs and DINOv2, in files from the hub and in the layouts of transformers 5.
"""


def timm_state(state: State) -> State:
    """Rename the tensors of an encoder of transformers (ViT, ViT-MAE, DINOv2) to timm's names.

    The decoder and mask token of a masked autoencoder are left out, and so are a classifier and a
    pooler. Queries, keys and values are joined into one tensor, as in timm. A state that has timm's
    names is returned unchanged.
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
    """Read a safetensors file.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read only the metadata of a safetensors file; raises the same error as `read_weights`."""
    with opened(path) as file:
        return file.metadata() or {}


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file; InputError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(expanded(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read as weights ({error}): give a .safetensors file"
        ) from error


def write_weights(path: Path, state: State, metadata: dict[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, completely or not at all."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, metadata))


def load_into(model: nn.Module, state: State, path: str | Path) -> None:
    """Load a complete state dict into a model.

    Args:
        path: file that the state is from, for the error message.

    Raises:
        InputError: the state does not have the same tensors, of the same shapes, as the model.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if own != given:
        differs = sorted(name for name in own | given if own.get(name) != given.get(name))
        raise InputError(
            f"{path} is a checkpoint of another model than this {type(model).__name__}: "
            f"{len(differs)} tensors differ, the first is {differs[0]}; give the options of its "
            "run, or, if this resumes a run, delete that run's folder"
        )
    model.load_state_dict(state)


def load_start(model: nn.Module, path: str | Path, name: str, num_classes: int) -> None:
    """Start a model from a weights file: all of it from a run, or its backbone only.

    A run of the same model gives all of its weights. If that run had seven classes and this model
    has eight, *contempt* starts at random; in the opposite case it is left out. Classes have the
    same order everywhere, contempt last.

    The file of a backbone has timm's, DINOv2's or transformers' names, or comes from another model
    of this project. Everything in it besides the backbone (a head, a decoder) is left out. Position
    embeddings are resampled to the model's grid, and the first layer is adapted to its channels.
    The model gets float32 weights, whatever the precision of the file.

    Args:
        name: name of the model, of `fer_lib.models.MODULES`.
        num_classes: number of classes of the model.

    Raises:
        InputError: the file cannot be read, is a run of this model at another size, has blocks, or
            tensors in them, that the backbone has not, or lacks a tensor of the backbone (of the
            whole model, if that has no backbone).
    """
    state, metadata = read_weights(path)
    state = {key: tensor.float() for key, tensor in state.items()}
    backbone = getattr(model, "backbone", None)
    if metadata.get("model") == name or backbone is None:
        before = len(json.loads(metadata["classes"])) if "classes" in metadata else num_classes
        load_into(model, with_classes(state, model.state_dict(), before, num_classes), path)
        return
    if "model" in metadata:
        inside = "backbone."
        state = {k.removeprefix(inside): v for k, v in state.items() if k.startswith(inside)}
    state = adapted(timm_state(state), backbone, path)
    missing = sorted(set(backbone.state_dict()) - set(state))
    if missing:
        raise InputError(
            f"{path} does not contain this backbone: {len(missing)} of its tensors are missing or "
            f"have another shape, the first is {missing[0]}; use the backbone of the file"
        )
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})


def from_hub(model: nn.Module) -> dict[str, str | None]:
    """Return what a run records of the weights that its new model has from the hub.

    Returns:
        `pretrained_sha256`, over names and values of the backbone's tensors except those that are
        fitted to the model's images, and `pretrained_hub_id`, their name on the hub.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.backbone.state_dict().items()):
        if name.startswith(("pos_embed", "patch_embed.")):
            continue  # resized for the image's side and channels, with other rounding on other CPUs
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    known = model.backbone.pretrained_cfg.get("hf_hub_id")
    return {"pretrained_sha256": digest.hexdigest(), "pretrained_hub_id": known}


def with_classes(state: State, own: State, before: int, after: int) -> State:
    """Fit tensors for `before` classes to those of `own`, for `after`, which fill in the rest."""
    fitted = dict(state)
    for key, tensor in state.items():
        here = own.get(key, tensor)
        by_class = (*tensor.shape[:1], *here.shape[:1]) == (before, after)
        if by_class and here.shape[1:] == tensor.shape[1:]:
            fitted[key] = torch.cat([tensor, here[len(tensor) :]])[: len(here)]
    return fitted


def adapted(state: State, backbone: nn.Module, path: str | Path) -> State:
    """Return the tensors of a state that fit a timm ViT, adapted to its patches, grid, channels.

    Raises:
        InputError: the state has no patch embedding or no position embeddings, is for grey images
            and the ViT is not, or has tensors in its blocks that the ViT has not.
    """
    from timm.models import adapt_input_conv
    from timm.models.vision_transformer import checkpoint_filter_fn

    own = backbone.state_dict()
    first = "patch_embed.proj.weight"
    if first not in state or "pos_embed" not in state:
        raise InputError(f"{path} contains no vision transformer: {first} or pos_embed is missing")
    channels, had = own[first].shape[1], state[first].shape[1]
    if channels != had != 3:
        raise InputError(f"{path} is for images with in_chans={had}: set this option")
    if channels != had:
        state = state | {first: adapt_input_conv(channels, state[first])}
    state = checkpoint_filter_fn(state, backbone)
    if extra := sorted(name for name in state if name.startswith("blocks.") and name not in own):
        raise InputError(
            f"{path} has {len(extra)} tensors in its blocks that this backbone has not, the first "
            f"is {extra[0]}: use the backbone and backbone_options of the file"
        )
    return {name: t for name, t in state.items() if name in own and t.shape == own[name].shape}
