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
"""Added to every confidence, so that distributions that are all uniform are averaged, not 0/0."""
SHARPNESS = 4.0
"""Factor on the cosine in the anchor-spread loss: 2t for the t = 2 of the uniformity loss."""


@dataclass(frozen=True)
class Reliability:
    """How a prediction came about; float32, B images, K anchors of each class.

    Attributes:
        embedding: (B, E), of length 1.
        distances: (B, classes, K) from the embedding to every anchor, 0 to 2.
        logarithms: of five distributions by name, each (B, classes): "p", the primary prediction;
            "t_g", the geometric correction (nearness to the anchors of each class); "t_a", the
            attentive correction (self-attention over the tokens); "t", both corrections combined;
            "final", the prediction. Those of the last are the logits of the model.
    """

    embedding: Tensor
    distances: Tensor
    logarithms: dict[str, Tensor]

    def probabilities(self) -> dict[str, Tensor]:
        """The five distributions by name: (B, classes), rows sum to 1."""
        return {name: log.exp() for name, log in self.logarithms.items()}

    def confidences(self) -> dict[str, Tensor]:
        """The confidence in each of the five by name: (B,), 0 (uniform) to 1 (certain)."""
        return {name: confidence(log) for name, log in self.logarithms.items()}


def confidence(log: Tensor) -> Tensor:
    """1 − H(q) / log N of distributions given as logarithms: (..., N) -> (...), 0 to 1."""
    entropy = -(log.exp() * log).sum(-1)
    return (1 - entropy / math.log(log.shape[-1])).clamp(0, 1)


def combine(first: Tensor, second: Tensor) -> Tensor:
    """Average of two distributions weighted by their confidences, all as logarithms (B, N)."""
    both = torch.stack([first, second])
    weights = confidence(both) + TINY  # (2, B)
    return torch.logsumexp(both + (weights / weights.sum(0)).log()[..., None], 0)


class GReFELHead(nn.Module):
    """Tokens of a ViT to logits, by GReFEL's reliability balancing.

    GReFEL (ACCV 2024), https://arxiv.org/abs/2410.15927, and its predecessor ARBEx,
    https://arxiv.org/abs/2305.01486. Three predictions are made of each image: p by an MLP on its
    embedding, t_g by the embedding's distances to learnable anchors of each class, and t_a by
    self-attention over its tokens. t_g and t_a are averaged into t, then p and t into the result,
    each weighted by its confidence 1 − H(q) / log N.

    Departures from the paper: embedding and anchors have length 1. So every distance lies in 0..2
    and both auxiliary losses are bounded, where the paper's code had an anchor loss without a lower
    bound, which grows by scaling the anchors. Its anchors were all zero at the start, where these
    are drawn at random, and its attention ran over the images of a batch, where this one runs over
    the tokens of an image. There is one embedding, of the class token.

    Args:
        dim: width D of the tokens, a multiple of `heads`.
        prefix_tokens: tokens before those of the patches: the class token, then any registers.
        embedding: width E of the embedding; half of `dim` where it is None.
        anchors: K, anchors of each class.
        delta: distance over which the nearness to an anchor falls by a factor e.
        temperature: T of the primary prediction.
        heads: of the self-attention.
        dropout: rate before the last layer of the primary and the attentive prediction.
        spread_weight: λ_a of the anchor-spread loss.
        centre_weight: λ_c of the centre loss.
        branch_weight: λ_b of the mean cross-entropy of p, t_g and t_a, each by itself; 0, the
            paper's loss: of the result only. The surest of the three then takes the weight, and
            with it the gradient, and the others may stay near chance: the prediction is as good,
            but what each of them says means little.

    Raises:
        InputError: `dim` is no multiple of `heads`, or a size or scale is not above 0.
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
        if dim % heads:
            raise InputError(f"heads={heads} of grefel must divide the width {dim} of its tokens")
        self.prefix_tokens, self.delta, self.temperature = prefix_tokens, delta, temperature
        self.spread_weight, self.centre_weight = spread_weight, centre_weight
        self.branch_weight = branch_weight
        self.projection = nn.Linear(dim, width)
        self.primary = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, num_classes)
        )
        # Only the direction of an anchor counts, and Adam's steps have one size: entries of 0.02
        # turn several times faster than those of a vector of length 1, which hardly moves.
        self.directions = nn.Parameter(0.02 * torch.randn(num_classes, anchors, width))
        self.attention = Attention(dim, heads, qkv_bias=True)
        self.attentive = nn.Sequential(
            nn.LayerNorm(dim), nn.Dropout(dropout), nn.Linear(dim, num_classes)
        )
        # Logits of size 0.2 at the start, about as sure as the other two: confidence is weight, so
        # a branch that starts surer than the others would be the only one to learn.
        nn.init.normal_(self.attentive[-1].weight, std=0.2 / dim**0.5)
        self.seen: Reliability | None = None  # of the last training forward, with its graph
        self.means: dict[str, Tensor] = {}

    @property
    def anchors(self) -> Tensor:
        """(classes, K, E) float32, of length 1."""
        return F.normalize(self.directions.float(), dim=-1)

    def no_weight_decay(self) -> set[str]:
        """Names, relative to the head, of what weight decay would only shrink: the anchors."""
        return {"directions"}

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P + N, D) tokens after the final norm -> (B, classes) float32 log-probabilities."""
        parts = self.explanation(tokens)
        if self.training:
            self.seen = parts
            self.means = {
                f"confidence_{name}": c.detach().mean() for name, c in parts.confidences().items()
            }
        return parts.logarithms["final"]

    def explanation(self, tokens: Tensor) -> Reliability:
        """Everything that leads to the prediction, of tokens as `forward` takes them."""
        attended = self.attention(tokens)[:, self.prefix_tokens :].mean(1)  # (B, D)
        # Entropies and small differences of distances need more than bfloat16's 8 bits.
        with torch.autocast(tokens.device.type, enabled=False):
            e = F.normalize(self.projection(tokens[:, 0].float()), dim=-1)
            distances = self.distances(e)
            # The MLP gets entries of size 1, as layers are initialised for.
            p = (self.primary(e * e.shape[-1] ** 0.5) / self.temperature).log_softmax(-1)
            nearness = (-distances / self.delta).flatten(1).log_softmax(-1).view_as(distances)
            t_g = nearness.logsumexp(-1)
            t_a = self.attentive(attended.float()).log_softmax(-1)
            t = combine(t_g, t_a)
            logs = {"p": p, "t_g": t_g, "t_a": t_a, "t": t, "final": combine(p, t)}
        return Reliability(e, distances, logs)

    def distances(self, embedding: Tensor) -> Tensor:
        """(B, E) of length 1 -> (B, classes, K), 0 to 2."""
        cosine = torch.einsum("be,cke->bck", embedding, self.anchors)
        # The root has no slope at 0.
        return (2 - 2 * cosine).clamp(min=1e-6).sqrt()

    def auxiliary_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """The losses of the anchors, weighted; once after each forward pass in training mode.

        * "anchor_spread": λ_a × log of the mean of exp(4 cos) over pairs of anchors of different
          classes, −4 λ_a to 4 λ_a: 0 where they are at right angles, 4 λ_a where they coincide. It
          is the uniformity loss (https://arxiv.org/abs/2005.10242, t = 2) plus a constant.
        * "centre": λ_c × squared distance from the embedding to the nearest anchor of a class,
          averaged over classes by the targets and over images: 0 to 4 λ_c.
        * "branches", where λ_b is above 0: λ_b × mean cross-entropy of p, t_g and t_a. It is plain:
          class weights, label smoothing and logit adjustment act on the final answer alone.

        Args:
            targets: (B, classes), rows sum to 1.

        Raises:
            RuntimeError: there was no forward pass in training mode since the last call.
        """
        if self.seen is None:
            raise RuntimeError("auxiliary_losses needs a forward pass in training mode before it")
        parts, self.seen = self.seen, None  # a module that holds a graph cannot be copied
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
        """Mean confidence of each distribution, of the last forward pass in training mode."""
        return self.means

    def spread(self) -> Tensor:
        """Scalar, −4 to 4: how close anchors of different classes are."""
        classes, k, _ = self.directions.shape
        with torch.autocast(self.directions.device.type, enabled=False):
            cosine = torch.einsum("ike,jle->ijkl", self.anchors, self.anchors)
        same = torch.eye(classes, dtype=torch.bool, device=cosine.device)[:, :, None, None]
        cosine = cosine.masked_fill(same, -math.inf)
        pairs = classes * (classes - 1) * k * k
        return (SHARPNESS * cosine).flatten().logsumexp(0) - math.log(pairs)


@register_model
def grefel(pretrained: bool = False, **options: Any) -> BackboneModel:
    """By default a ViT-B/16 pretrained on ImageNet-21k, and `GReFELHead`."""
    return build(GReFELHead, "vit_base_patch16_224.augreg_in21k", pretrained, **options)
