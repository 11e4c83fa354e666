"""Show what a model looks at and how it decides, without changing the model.

Functions that take a model take images as it does: float (B, C, H, W) from
`fer_lib.augment.Prepare`; `half_covered` takes uint8 images, from before that. The model computes
in evaluation mode; afterwards its mode, its hooks and the gradients of its parameters are as
before, even after an error. Maps are float32 (B, h, w) and not negative, with one value per patch
or position of a feature map; values of different images are not comparable.
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
    """Put a model in evaluation mode during the block, then restore the mode of every part."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def first_part(model: nn.Module, kind: type[Part]) -> Part | None:
    """Return the first part of a kind, which may be the model itself; None if there is none."""
    return next((part for part in model.modules() if isinstance(part, kind)), None)


@torch.no_grad()
def record_attention(model: nn.Module, x: Tensor, keep: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return what `keep` makes of the attention of each block, in the order of the blocks.

    Args:
        keep: takes the attention of a block, (B, heads, T, T) float32.

    Raises:
        InputError: the model has no attention blocks of timm.
    """
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
            # The fused kernel never has the attention weights in memory.
            undo.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False
            hook = lambda _, __, weights: kept.append(keep(weights.float()))
            undo.enter_context(attention.attn_drop.register_forward_hook(hook))
        vit.forward_features(x)
    return kept


def patch_map(model: nn.Module, x: Tensor, row: Tensor) -> Tensor:
    """Arrange the patches of a row of attention over all T tokens as a map, (B, T) -> (B, h, w).

    Raises:
        InputError: the model has no class token.
    """
    vit = first_part(model, VisionTransformer)
    if vit.cls_token is None:
        raise InputError(f"{type(model).__name__} has no class token: use a model with one")
    patches = row[:, vit.num_prefix_tokens :]
    height = round((patches.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)  # patches are square
    return patches.reshape(len(x), height, -1)


def class_attention(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the class token attends to in the last block, mean over heads: (B, h, w).

    Raises:
        InputError: the model is not a vision transformer of timm or has no class token.
    """
    last = record_attention(model, x, lambda weights: weights[:, :, 0].mean(1))[-1]
    return patch_map(model, x, last)


def rollout(model: nn.Module, x: Tensor) -> Tensor:
    """Return how much of each patch reaches the class token through all blocks: (B, h, w).

    This is attention rollout, from Quantifying Attention Flow in Transformers,
    https://arxiv.org/abs/2005.00928. In each block, the identity (for the residual connection) is
    added to the mean over heads, and rows are scaled to sum to 1; the result is the product over
    blocks.

    Raises:
        InputError: the model is not a vision transformer of timm or has no class token.
    """
    blocks = record_attention(model, x, lambda weights: weights.mean(1))  # (B, T, T) each
    row = torch.zeros_like(blocks[0][:, 0])
    row[:, 0] = 1
    for mean in reversed(blocks):  # only the row of the class token is needed
        row = (row + torch.einsum("bt,btu->bu", row, mean)) / 2
    return patch_map(model, x, row)


@torch.no_grad()
def feature_maps(model: nn.Module, x: Tensor) -> list[str]:
    """Return the names of modules whose maps have several positions, in order of execution."""
    names: list[str] = []
    with evaluating(model), ExitStack() as undo:
        for name, part in model.named_modules():

            def note(_: nn.Module, __: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
                    names.append(name)

            undo.enter_context(part.register_forward_hook(note))
        model(x[:1])
    return names


def grad_cam(model: nn.Module, x: Tensor, target: int | Tensor | None = None) -> Tensor:
    """Return where a convolutional network finds evidence for a class, by Grad-CAM: (B, h, w).

    https://arxiv.org/abs/1610.02391. The channels of the last feature map of more than one position
    are added up, each weighted by the mean gradient of the class's logit, and negative sums are set
    to 0. Only the gradient with respect to that map is computed, so it makes no difference whether
    the parameters are frozen or the caller is inside `torch.no_grad`.

    Args:
        target: class, one for all images or (B,) int64; None: the predicted class of each image.

    Raises:
        InputError: the model is a vision transformer, or it has no such map.
    """
    if first_part(model, VisionTransformer) is not None:
        raise InputError(
            f"{type(model).__name__} is a vision transformer, whose patches form a map only before "
            "they exchange information: use rollout instead of grad_cam"
        )
    names = feature_maps(model, x)
    if not names:
        raise InputError(
            f"{type(model).__name__} has no feature map of more than one position: grad_cam needs "
            "a convolutional network; for a vision transformer of timm, use rollout"
        )
    seen: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # the next layer may change it in place

    hooked = model.get_submodule(names[-1]).register_forward_hook(cut)
    with hooked, evaluating(model), torch.inference_mode(False), torch.enable_grad():
        logits = model(x.clone())  # a tensor made in inference mode cannot be part of a graph
        chosen = logits.argmax(1) if target is None else torch.as_tensor(target, device=x.device)
        score = logits.gather(1, chosen.expand(len(x))[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, seen[-1])
    weights = gradient.mean((2, 3), keepdim=True)  # (B, channels, 1, 1)
    return (weights * seen[-1].detach()).sum(1).relu().float()


def maps(model: nn.Module, x: Tensor) -> tuple[str, Tensor]:
    """Return the name of the method that suits a model, and its map of each image, (B, h, w)."""
    if first_part(model, VisionTransformer) is not None:
        return "attention rollout", rollout(model, x)
    return "Grad-CAM", grad_cam(model, x)


@torch.no_grad()
def spatial_gates(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the gates of the positions, (B, h, w) in 0..1, for each spatial attention in order.

    The attention multiplies its input by them, as in CBAM: Convolutional Block Attention Module,
    https://arxiv.org/abs/1807.06521.

    Raises:
        InputError: the model has no spatial attention.
    """
    parts = [part for part in model.modules() if isinstance(part, SpatialAttention)]
    if not parts:
        raise InputError(
            f"{type(model).__name__} has no spatial attention: use attention_cnn with it"
        )
    seen: list[Tensor] = []
    with evaluating(model), ExitStack() as undo:
        for part in parts:
            hook = lambda _, __, logits: seen.append(logits.sigmoid()[:, 0].float())
            undo.enter_context(part.conv.register_forward_hook(hook))
        model(x)
    return seen


def half_covered(images: Tensor) -> dict[str, Tensor]:
    """Return uint8 images (N, C, H, W) by what is made grey: "none", the "left" or "right" half."""
    middle = images.shape[-1] // 2
    covered = {"none": images, "left": images.clone(), "right": images.clone()}
    covered["left"][..., :middle] = covered["right"][..., middle:] = 128
    return covered


@torch.no_grad()
def routing(model: nn.Module, x: Tensor) -> Tensor:
    """Return the gates of E experts, (B, E) float32, 0 for experts that do not get the image.

    Raises:
        InputError: the model has no mixture of experts.
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
    """Return, for the images of each class, the share of their routes that went to each expert.

    `plots.row_shares(table, table.index, table.columns, …)` draws the table.

    Args:
        gates: (N, E) from `routing`; every gate above 0 is one route, whatever its weight.
        labels: (N,) int.
        classes: K names.

    Returns:
        A row per class and a column per expert; rows sum to 1, or are NaN if a class has no image.
    """
    routed = pd.DataFrame((gates > 0).cpu().numpy()).add_prefix("expert ")
    routes = routed.groupby(np.asarray(labels)).sum().reindex(range(len(classes))).set_axis(classes)
    return routes.div(routes.sum(axis=1), axis=0)


@torch.no_grad()
def reliability(model: nn.Module, x: Tensor) -> Reliability:
    """Return how the head of GReFEL reaches its predictions: distances to anchors, confidences.

    Raises:
        InputError: the model's head has no `explanation`.
    """
    head = getattr(model, "head", None)
    if not hasattr(head, "explanation"):
        raise InputError(f"{type(model).__name__} does not balance reliability: use grefel")
    with evaluating(model):
        return head.explanation(model.backbone.forward_features(x))
