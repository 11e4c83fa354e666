"""GReFEL's head: class anchors, attention over tokens, and a prediction weighted by confidence."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import register_model
from torch import Tensor, nn

from fer_lib.files import InputError
from fer_lib.models.backbones import BackboneModel, build

TINY = 1e-6
"""Added to every confidence, so that two uniform distributions are averaged instead of 0/0."""
SHARPNESS = 4.0
"""Factor of the cosine in the anchor-spread loss: 2t, with t = 2 as in the uniformity loss."""


@dataclass(frozen=True)
class Reliability:
    """How a prediction was made, for B images and K anchors of each class; all float32.

    Attributes:
        embedding: (B, E), each of length 1.
        distances: (B, classes, K), from the embedding to every anchor, 0 to 2.
        logarithms: logarithms of five distributions by name, each (B, classes): "p", the primary
            prediction; "t_g", the geometric correction (nearness to the anchors of each class);
            "t_a", the attentive correction (self-attention over the tokens); "t", both corrections
            combined; "final", the prediction. The logarithms of "final" are the model's logits.
    """

    embedding: Tensor
    distances: Tensor
    logarithms: dict[str, Tensor]

    def probabilities(self) -> dict[str, Tensor]:
        """Return the five distributions by name, each (B, classes); rows sum to 1."""
        return {name: log.exp() for name, log in self.logarithms.items()}

    def confidences(self) -> dict[str, Tensor]:
        """Return the confidences of the five by name, each (B,), 0 (uniform) to 1 (certain)."""
        return {name: confidence(log) for name, log in self.logarithms.items()}


def confidence(log: Tensor) -> Tensor:
    """Return 1 − H(q) / log N of distributions given as logarithms: (..., N) -> (...), 0 to 1."""
    entropy = -(log.exp() * log).sum(-1)
    return (1 - entropy / math.log(log.shape[-1])).clamp(0, 1)


def combine(first: Tensor, second: Tensor) -> Tensor:
    """Average two distributions, weighted by their confidences; all are logarithms (B, N)."""
    both = torch.stack([first, second])
    weights = confidence(both) + TINY  # (2, B)
    return torch.logsumexp(both + (weights / weights.sum(0)).log()[..., None], 0)


class GReFELHead(nn.Module):
    """Head that turns the tokens of a ViT into logits by GReFEL's reliability balancing.

    GReFEL (ACCV 2024), https://arxiv.org/abs/2410.15927, and its predecessor ARBEx,
    https://arxiv.org/abs/2305.01486. The head makes three predictions for each image: p by an MLP
    on its embedding, t_g by the embedding's distances to learnable anchors of each class, and t_a
    by self-attention over its tokens. t_g and t_a are averaged into t, then p and t into the
    result, each weighted by its confidence 1 − H(q) / log N.

    Departures from the paper: here, embedding and anchors have length 1, so every distance lies in
    0..2 and both auxiliary losses are bounded. The anchor loss of the paper's code has no lower
    bound, and its size grows when the anchors are scaled. The code's anchors all start at zero, and
    its attention runs over the images of a batch; here, anchors start at random, and attention runs
    over the tokens of an image. There is one embedding, made from the class token.

    Args:
        dim: width D of the tokens, a multiple of `heads`.
        prefix_tokens: number of tokens before the patches: the class token, then any registers.
        embedding: width E of the embedding; None for half of `dim`.
        anchors: K, the number of anchors of each class.
        delta: distance over which the nearness to an anchor falls by a factor of e.
        temperature: temperature T of the primary prediction.
        heads: number of heads of the self-attention.
        dropout: rate before the last layer of the primary and the attentive prediction.
        spread_weight: weight λ_a of the anchor-spread loss.
        centre_weight: weight λ_c of the centre loss.
        branch_weight: weight λ_b of the mean cross-entropy of p, t_g and t_a, each by itself. With
            0, as in the paper, there is no such loss, and only the result is trained: the surest of
            the three then takes the weight, and with it the gradient, and the others may stay near
            chance. The prediction is as good, but the three by themselves mean little.

    Raises:
        InputError: `dim` is not a multiple of `heads`, or a size or scale is not above 0.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int,
        prefix_tokens: int = 1,
        embedding: int | None = None,
        anchors: int = 10,
        delta: float = 0.1,
        temperature: float = 1.0,
        heads: int = 8,
        dropout: float = 0.0,
        spread_weight: float = 0.1,
        centre_weight: float = 0.1,
        branch_weight: float = 0.0,
    ):
        super().__init__()
        width = dim // 2 if embedding is None else embedding
        sizes = {"embedding": width, "anchors": anchors, "delta": delta, "temperature": temperature}
        for name, value in sizes.items():
            if value <= 0:
                raise InputError(f"{name} of grefel must be above 0, not {value}")
        weights = {"spread": spread_weight, "centre": centre_weight, "branch": branch_weight}
        for name, value in weights.items():
            if value < 0:
                raise InputError(f"{name}_weight of grefel must be 0 or more, not {value}")
        if heads < 1 or dim % heads:
            raise InputError(f"heads={heads} of grefel must divide the width {dim} of its tokens")
        self.prefix_tokens, self.delta, self.temperature = prefix_tokens, delta, temperature
        self.spread_weight, self.centre_weight = spread_weight, centre_weight
        self.branch_weight = branch_weight
        self.projection = nn.Linear(dim, width)
        self.primary = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, num_classes)
        )
        # Only the direction of an anchor counts, and Adam's steps have the same size for all of
        # them: an anchor with entries of 0.02 turns several times faster than one of length 1,
        # which hardly moves.
        self.directions = nn.Parameter(0.02 * torch.randn(num_classes, anchors, width))
        self.attention = Attention(dim, heads, qkv_bias=True)
        self.attentive = nn.Sequential(
            nn.LayerNorm(dim), nn.Dropout(dropout), nn.Linear(dim, num_classes)
        )
        # Logits of size 0.2 at the start make this branch about as sure as the other two. Since
        # confidence is weight, a branch that starts surer would be the only one to learn.
        nn.init.normal_(self.attentive[-1].weight, std=0.2 / dim**0.5)
        self.seen: Reliability | None = None  # of the last training forward pass, with its graph
        self.means: dict[str, Tensor] = {}

    @property
    def anchors(self) -> Tensor:
        """The anchors, (classes, K, E) float32, each of length 1."""
        return F.normalize(self.directions.float(), dim=-1)

    def no_weight_decay(self) -> set[str]:
        """Return the names, within the head, of parameters without weight decay: the anchors.

        Weight decay would only shrink them.
        """
        return {"directions"}

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn tokens after the final norm into log-probabilities.

        Args:
            tokens: (B, P + N, D).

        Returns:
            (B, classes) float32.
        """
        parts = self.explanation(tokens)
        if self.training:
            self.seen = parts
            self.means = {
                f"confidence_{name}": c.detach().mean() for name, c in parts.confidences().items()
            }
        return parts.logarithms["final"]

    def explanation(self, tokens: Tensor) -> Reliability:
        """Return everything that leads to the prediction; takes the same tokens as `forward`."""
        attended = self.attention(tokens)[:, self.prefix_tokens :].mean(1)  # (B, D)
        # Entropies and small differences of distances need more than bfloat16's 8 bits.
        with torch.autocast(tokens.device.type, enabled=False):
            e = F.normalize(self.projection(tokens[:, 0].float()), dim=-1)
            distances = self.distances(e)
            # Scaled to entries of size 1, for which layers are initialised.
            p = (self.primary(e * e.shape[-1] ** 0.5) / self.temperature).log_softmax(-1)
            nearness = (-distances / self.delta).flatten(1).log_softmax(-1).view_as(distances)
            t_g = nearness.logsumexp(-1)
            t_a = self.attentive(attended.float()).log_softmax(-1)
            t = combine(t_g, t_a)
            logs = {"p": p, "t_g": t_g, "t_a": t_a, "t": t, "final": combine(p, t)}
        return Reliability(e, distances, logs)

    def distances(self, embedding: Tensor) -> Tensor:
        """Return distances to all anchors: (B, E) of length 1 -> (B, classes, K), 0 to 2."""
        cosine = torch.einsum("be,cke->bck", embedding, self.anchors)
        # Clamped, because the root has no finite slope at 0.
        return (2 - 2 * cosine).clamp(min=1e-6).sqrt()

    def auxiliary_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses; call it once after each forward pass in training mode.

        * "anchor_spread": λ_a × log of the mean of exp(4 cos) over pairs of anchors of different
          classes, −4 λ_a to 4 λ_a: 0 if they are at right angles, 4 λ_a if they coincide. It is
          the uniformity loss (https://arxiv.org/abs/2005.10242, t = 2) plus a constant.
        * "centre": λ_c × squared distance from the embedding to the nearest anchor of a class,
          averaged over classes, weighted by the targets, and over images: 0 to 4 λ_c.
        * "branches", only if λ_b is above 0: λ_b × mean cross-entropy of p, t_g and t_a. Class
          weights and label smoothing do not act on it, only on the final answer.

        Args:
            targets: (B, classes), rows sum to 1.

        Raises:
            RuntimeError: there was no forward pass in training mode since the last call.
        """
        if self.seen is None:
            raise RuntimeError("auxiliary_losses needs a forward pass in training mode before it")
        parts, self.seen = self.seen, None  # a module with a graph cannot be copied
        nearest = parts.distances.square().amin(-1)  # (B, classes)
        losses = {
            "anchor_spread": self.spread_weight * self.spread(),
            "centre": self.centre_weight * (targets * nearest).sum(-1).mean(),
        }
        if self.branch_weight:
            branches = [parts.logarithms[name] for name in ("p", "t_g", "t_a")]
            cross_entropy = -(targets * torch.stack(branches)).sum(-1).mean()
            losses["branches"] = self.branch_weight * cross_entropy
        return losses

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean confidence in each distribution in the last training forward pass."""
        return self.means

    def spread(self) -> Tensor:
        """Return how close anchors of different classes are: a scalar, −4 to 4."""
        classes, k, _ = self.directions.shape
        with torch.autocast(self.directions.device.type, enabled=False):
            cosine = torch.einsum("ike,jle->ijkl", self.anchors, self.anchors)
        same = torch.eye(classes, dtype=torch.bool, device=cosine.device)[:, :, None, None]
        cosine = cosine.masked_fill(same, -math.inf)
        pairs = classes * (classes - 1) * k * k
        return (SHARPNESS * cosine).flatten().logsumexp(0) - math.log(pairs)


@register_model
def grefel(pretrained: bool = False, **options: Any) -> BackboneModel:
    """Build `GReFELHead` on a backbone, by default a ViT-B/16 pretrained on ImageNet-21k."""
    return build(GReFELHead, "vit_base_patch16_224.augreg_in21k", pretrained, **options)
