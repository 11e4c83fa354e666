"""What a model looks at and how it decides, by wrappers that leave the model as it was.

Every function takes images as the model does: float (B, C, H, W) from `fer_lib.augment.Prepare`.
The model computes in evaluation mode; its mode, its hooks and its parameters' gradients are
afterwards as before, also when something fails. Maps are float32 (B, h, w), not negative, one value
a patch or a position of a feature map, in no unit that two images share.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from timm.layers import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn

from fer_lib.files import InputError
from fer_lib.models.cnn import SpatialAttention
from fer_lib.models.grefel import Reliability
from fer_lib.models.moe import Routing, SparseExperts

Part = TypeVar("Part", bound=nn.Module)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then every part is in the mode in which it was."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def first_part(model: nn.Module, kind: type[Part]) -> Part | None:
    """The first part of a kind, which may be the model itself."""
    return next((part for part in model.modules() if isinstance(part, kind)), None)


@torch.no_grad()
def record_attention(model: nn.Module, x: Tensor, keep: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`keep` of each block's attention (B, heads, T, T), float32, first block first."""
    vit = first_part(model, VisionTransformer)
    blocks = [part for part in vit.blocks.modules() if isinstance(part, Attention)] if vit else []
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no attention blocks of timm to make a map of: for a "
            "convolutional network use grad_cam"
        )
    kept: list[Tensor] = []
    with evaluating(model), ExitStack() as undo:
        for attention in blocks:
            # The fused kernel never has the weights in memory.
            undo.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False
            hook = lambda _, __, weights: kept.append(keep(weights.float()))
            undo.enter_context(attention.attn_drop.register_forward_hook(hook))
        vit.forward_features(x)
    return kept


def patch_map(model: nn.Module, x: Tensor, row: Tensor) -> Tensor:
    """The patches of a row over all tokens, (B, T) -> (B, h, w)."""
    vit = first_part(model, VisionTransformer)
    if vit.cls_token is None:
        raise InputError(f"{type(model).__name__} has no class token: use one that has")
    patches = row[:, vit.num_prefix_tokens :]
    height = round((patches.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)  # patches are square
    return patches.reshape(len(x), height, -1)


def class_attention(model: nn.Module, x: Tensor) -> Tensor:
    """What the class token attends to in the last block, mean over heads: (B, h, w).

    Raises:
        InputError: the model is no vision transformer of timm or has no class token.
    """
    last = record_attention(model, x, lambda weights: weights[:, :, 0].mean(1))[-1]
    return patch_map(model, x, last)


def rollout(model: nn.Module, x: Tensor) -> Tensor:
    """Attention rollout: how much of each patch reaches the class token by all blocks: (B, h, w).

    Quantifying Attention Flow in Transformers, https://arxiv.org/abs/2005.00928. In each block, the
    mean over heads plus the identity, for the residual connection, with rows that sum to 1; then
    the product over blocks.

    Raises:
        InputError: the model is no vision transformer of timm or has no class token.
    """
    blocks = record_attention(model, x, lambda weights: weights.mean(1))  # (B, T, T) each
    row = torch.zeros_like(blocks[0][:, 0])
    row[:, 0] = 1
    for mean in reversed(blocks):  # only the row of the class token is wanted
        row = (row + torch.einsum("bt,btu->bu", row, mean)) / 2
    return patch_map(model, x, row)


@torch.no_grad()
def feature_maps(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules that give maps of more than one position, in order of execution."""
    names: list[str] = []
    with evaluating(model), ExitStack() as undo:
        for name, part in model.named_modules():

            def note(_: nn.Module, __: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
                    names.append(name)

            undo.enter_context(part.register_forward_hook(note))
        model(x[:1])
    return names


def grad_cam(
    model: nn.Module, x: Tensor, target: int | Tensor | None = None, layer: str | None = None
) -> Tensor:
    """Grad-CAM: where a convolutional network finds what speaks for a class: (B, h, w).

    https://arxiv.org/abs/1610.02391. The channels of a feature map are added up, each weighted by
    the mean gradient of the class's logit, and what is negative is set to 0. Nothing is
    differentiated but that map, so it makes no difference whether the parameters are frozen or the
    caller is inside `torch.no_grad`.

    Args:
        target: class, one for all or (B,) int64; by default what the model predicts for each image.
        layer: name of a module; by default the last whose map has more than one position.

    Raises:
        InputError: the model is a vision transformer or has no such map.
    """
    if first_part(model, VisionTransformer) is not None:
        raise InputError(
            f"{type(model).__name__} is a vision transformer, whose patches know nothing yet of "
            "each other where they are a map: use rollout instead of grad_cam"
        )
    names = feature_maps(model, x)
    if not names:
        raise InputError(
            f"{type(model).__name__} has no feature map of more than one position: grad_cam needs "
            "a convolutional network, and for a vision transformer of timm there is rollout"
        )
    if layer is not None and layer not in names:
        raise InputError(
            f"{type(model).__name__} has no layer {layer!r} that gives a map of more than one "
            f"position: use {names[-1]!r}, the last that does, or one before it"
        )
    seen: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # the next layer may work in place

    hooked = model.get_submodule(layer or names[-1]).register_forward_hook(cut)
    with hooked, evaluating(model), torch.inference_mode(False), torch.enable_grad():
        logits = model(x.clone())  # a tensor made in inference mode can take no part in a graph
        chosen = logits.argmax(1) if target is None else torch.as_tensor(target, device=x.device)
        score = logits.gather(1, chosen.expand(len(x))[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, seen[-1])
    weights = gradient.mean((2, 3), keepdim=True)  # (B, channels, 1, 1)
    return (weights * seen[-1].detach()).sum(1).relu().float()


def maps(model: nn.Module, x: Tensor) -> tuple[str, Tensor]:
    """What a model looks at, (B, h, w), by the method that suits it, and the method's name."""
    if first_part(model, VisionTransformer) is not None:
        return "attention rollout", rollout(model, x)
    return "Grad-CAM", grad_cam(model, x)


@torch.no_grad()
def spatial_gates(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each spatial attention multiplies its positions by: (B, h, w) in 0..1, in order.

    CBAM: Convolutional Block Attention Module, https://arxiv.org/abs/1807.06521.

    Raises:
        InputError: the model has no such attention.
    """
    parts = [part for part in model.modules() if isinstance(part, SpatialAttention)]
    if not parts:
        raise InputError(
            f"{type(model).__name__} has no gates of positions: use attention_cnn, with them"
        )
    seen: list[Tensor] = []
    with evaluating(model), ExitStack() as undo:
        for part in parts:
            hook = lambda _, __, logits: seen.append(logits.sigmoid()[:, 0].float())
            undo.enter_context(part.conv.register_forward_hook(hook))
        model(x)
    return seen


@torch.no_grad()
def routing(model: nn.Module, x: Tensor) -> Tensor:
    """Gates of a mixture of experts: (B, E) float32, 0 where an image is not routed.

    Raises:
        InputError: the model has no such experts.
    """
    experts = first_part(model, SparseExperts)
    if experts is None:
        raise InputError(f"{type(model).__name__} has no mixture of experts: use vit_moe")
    seen: list[Routing] = []
    hook = experts.register_forward_hook(lambda _, __, output: seen.append(output[1]))
    with hook, evaluating(model):
        model(x)
    return seen[0].dense


def expert_table(gates: Tensor, labels: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Share of the routes of each class's images that went to each expert.

    `plots.row_shares(table, table.index, table.columns, …)` draws it.

    Args:
        gates: (N, E) from `routing`; every gate above 0 is one route, whatever its weight.
        labels: (N,) int.
        classes: K names.

    Returns:
        A row a class, a column an expert; rows sum to 1, and are NaN where a class has no images.
    """
    routed = pd.DataFrame((gates > 0).cpu().numpy()).add_prefix("expert ")
    routes = routed.groupby(np.asarray(labels)).sum().reindex(range(len(classes))).set_axis(classes)
    return routes.div(routes.sum(axis=1), axis=0)


@torch.no_grad()
def reliability(model: nn.Module, x: Tensor) -> Reliability:
    """How the head of GReFEL comes to its predictions: distances to anchors, and confidences.

    Raises:
        InputError: the model's head has no `explanation`.
    """
    head = getattr(model, "head", None)
    if not hasattr(head, "explanation"):
        raise InputError(f"{type(model).__name__} does not balance reliability: use grefel")
    with evaluating(model):
        return head.explanation(model.backbone.forward_features(x))
