"""Head of `vit_moe`: attention of the class token over all tokens, then a mixture of experts."""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from fer_lib.files import InputError
from fer_lib.models.backbones import BackboneModel, build


class MultiHeadAttention(nn.MultiheadAttention):
    """Multi-head self-attention with biases, computed for the class token only.

    Attention Is All You Need, https://arxiv.org/abs/1706.03762. The published `vit_moe` has this
    form. Tokens (B, T, D) -> (B, D).
    """

    def __init__(self, dim: int, *, heads: int):
        super().__init__(dim, heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, :1], tokens, tokens, need_weights=False)[0][:, 0]


class LatentAttention(nn.Module):
    """Multi-head latent attention: keys and values are rebuilt from a low-rank latent per token.

    DeepSeek-V2, https://arxiv.org/abs/2405.04434, without its rotary part, because the tokens
    already contain their positions. The latents of keys and values have dim / 4 features, and so
    have those of the queries. Tokens (B, T, D) -> (B, D), for the class token.
    """

    def __init__(self, dim: int, *, heads: int):
        super().__init__()
        self.heads, rank = heads, dim // 4
        linear = partial(nn.Linear, bias=False)
        # The norms have no gains, because the linear maps after them can represent these.
        # PyTorch's default for eps depends on the precision, and differs between its versions.
        norm = partial(nn.RMSNorm, rank, eps=1e-6, elementwise_affine=False)
        self.query = nn.Sequential(linear(dim, rank), norm(), linear(rank, dim))
        self.latent = nn.Sequential(linear(dim, rank), norm())
        self.key_value = linear(rank, 2 * dim)
        self.out = linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q = self.query(tokens[:, 0]).unflatten(1, (self.heads, 1, -1))  # (B, heads, 1, D / heads)
        kv = self.key_value(self.latent(tokens)).unflatten(2, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # both (B, heads, T, D / heads)
        return self.out(F.scaled_dot_product_attention(q, k, v).flatten(1))


class PerceiverAttention(nn.Module):
    """A few learned latents attend to all tokens, then the class token attends to the latents.

    Perceiver, https://arxiv.org/abs/2103.03206. Tokens (B, T, D) -> (B, D).
    """

    def __init__(self, dim: int, *, heads: int, latents: int = 8):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(latents, dim))
        nn.init.trunc_normal_(self.latents, std=0.02)
        self.read = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.write = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        latents = self.latents.expand(tokens.shape[0], -1, -1)  # (B, latents, D)
        latents = self.norm(latents + self.read(latents, tokens, tokens, need_weights=False)[0])
        return self.write(tokens[:, :1], latents, latents, need_weights=False)[0][:, 0]


ATTENTIONS = {"mha": MultiHeadAttention, "mla": LatentAttention, "perceiver": PerceiverAttention}


class Routing(NamedTuple):
    """Which of E experts each of B images goes to; its k routes, the most likely first."""

    logits: Tensor  # (B, E) float32
    chosen: Tensor  # (B, k) int64, different experts
    gates: Tensor  # (B, k) float32, weights of their outputs

    @property
    def load(self) -> Tensor:
        """Share of all routes that go to each expert: (E,) float32, sum 1."""
        return F.one_hot(self.chosen, self.logits.shape[1]).float().mean((0, 1))

    @property
    def dense(self) -> Tensor:
        """Gates of all experts, 0 for those that an image does not go to: (B, E) float32."""
        return torch.zeros_like(self.logits).scatter(1, self.chosen, self.gates)


class SparseExperts(nn.Module):
    """Mixture of experts (Linear, GELU, Linear), in which each image uses only `top_k` of them.

    Outrageously Large Neural Networks, https://arxiv.org/abs/1701.06538. The gates are the router's
    probabilities of the chosen experts, divided by their sum. With one expert per image, this would
    always be 1 and teach the router nothing, so the gate is then the probability itself (Switch
    Transformer, https://arxiv.org/abs/2101.03961).

    Takes (B, D) and returns (B, D) and the `Routing`, computed in float32 under autocast too.

    Args:
        dim: D, the number of input and output features.
        hidden: number of features between the two layers of an expert.
        experts: E, the number of experts.
        top_k: k, the number of experts that each image uses.
    """

    static_shapes = False  # only the device knows how many images an expert gets

    def __init__(self, dim: int, *, hidden: int, experts: int = 4, top_k: int = 2):
        super().__init__()
        if not isinstance(top_k, int) or not 1 <= top_k <= experts:
            raise InputError(f"top_k={top_k} must be a whole number from 1 to experts={experts}")
        self.top_k = top_k
        self.router = nn.Linear(dim, experts)
        self.weight1 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.bias1 = nn.Parameter(torch.empty(experts, hidden))
        self.weight2 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.bias2 = nn.Parameter(torch.empty(experts, dim))
        for parameter, inputs in zip(self.stacked(), (dim, dim, hidden, hidden), strict=True):
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)  # as nn.Linear

    def stacked(self) -> tuple[Tensor, ...]:
        """Return the parameters of all experts, with the experts in the first dimension."""
        return self.weight1, self.bias1, self.weight2, self.bias2

    def route(self, x: Tensor) -> Routing:
        """Choose the experts of each image, given its features (B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            logits = self.router(x.float())
            gates, chosen = logits.softmax(1).topk(self.top_k)
            if self.top_k > 1:
                gates = gates / gates.sum(1, keepdim=True)
        return Routing(logits, chosen, gates)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        routing = self.route(x)
        # Routes are sorted by expert, so that each expert multiplies one contiguous block of rows.
        expert, order = routing.chosen.flatten().sort(stable=True)  # (B k,)
        counts = F.one_hot(expert, len(self.weight1)).sum(0).tolist()  # the only transfer
        rows = x.index_select(0, order // self.top_k).split(counts)
        # zip unbinds the weights, so that their gradient is one stack; indexing would fill the
        # gradients of all E experts each time.
        layers = zip(rows, *self.stacked(), strict=True)
        y = [torch.addmm(b2, F.gelu(torch.addmm(b1, x, w1)), w2) for x, w1, b1, w2, b2 in layers]
        # Back to the order of the images: (B, k, D).
        y = torch.cat(y).index_select(0, order.argsort()).unflatten(0, routing.chosen.shape)
        return (routing.gates[..., None] * y).sum(1), routing


class MixtureHead(nn.Module):
    """Head with attention of the class token over all tokens, then a mixture of experts.

    The class token plus its attention goes through two norms; the output of the experts is added to
    it; a norm and a linear classifier follow. Tokens (B, T, D) -> logits (B, classes).

    Args:
        prefix_tokens: not used, since the class token attends to all tokens.
        attention: "mha" (published), "mla" or "perceiver".
        heads: number of attention heads, which must divide `dim`; None for one per 64 features (12
            in a ViT-B).
        experts: E, the number of experts.
        top_k: number of experts that each image uses.
        expert_ratio: hidden features of an expert, as a multiple of `dim`.
        balance: weight α of the load-balancing loss.
        z: weight β of the router z-loss.

    Attributes:
        experts: returns features and `Routing`, so that a forward hook sees it in evaluation too.
        routing: routing of the last training forward pass, or None. It is not copied or pickled.

    Raises:
        InputError: `attention` is unknown, or the numbers do not fit together.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int,
        prefix_tokens: int = 1,
        attention: str = "mha",
        heads: int | None = None,
        experts: int = 4,
        top_k: int = 2,
        expert_ratio: int = 2,
        balance: float = 0.01,
        z: float = 0.001,
    ):
        super().__init__()
        if attention not in ATTENTIONS:
            raise InputError(f"attention {attention!r} is unknown: use {', '.join(ATTENTIONS)}")
        heads = max(1, dim // 64) if heads is None else heads
        if heads < 1 or dim % heads:
            raise InputError(f"heads={heads} does not divide the {dim} features of a token")
        if min(balance, z) < 0:
            raise InputError(f"balance={balance} and z={z} of vit_moe must be 0 or more")
        self.balance, self.z = balance, z
        self.routing: Routing | None = None
        self.attention = ATTENTIONS[attention](dim, heads=heads)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.experts = SparseExperts(dim, hidden=expert_ratio * dim, experts=experts, top_k=top_k)
        self.norm_experts = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"routing": None}  # tensors inside a graph cannot be copied

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay: biases and learned latents.

        They have two dimensions here, so they would be decayed otherwise.
        """
        ends = ("bias1", "bias2", "latents")
        return {name for name, _ in self.named_parameters() if name.endswith(ends)}

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.norm_attention(tokens[:, 0] + self.attention(tokens)))  # (B, D)
        mixture, routing = self.experts(x)
        if self.training:
            self.routing = routing
        return self.classifier(self.norm_experts(x + mixture))

    def last_routing(self) -> Routing:
        """Return the last routing in training; RuntimeError if there was none."""
        if self.routing is None:
            raise RuntimeError("there is no routing yet: call the model in training mode first")
        return self.routing

    def auxiliary_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of the router for the last training forward pass.

        `load_balance` is α E Σ f_i P_i over the top-k routes, where f_i is the share of routes to
        expert i and P_i its mean probability (GShard, https://arxiv.org/abs/2006.16668; Switch
        Transformer). It is α at an even load, for any k, and at most α E / k. `router_z` is
        β mean(logsumexp(logits)²) (ST-MoE, https://arxiv.org/abs/2202.08906).
        """
        routing = self.last_routing()
        experts = routing.logits.shape[1]
        overlap = (routing.load * routing.logits.softmax(1).mean(0)).sum()
        return {
            "load_balance": self.balance * experts * overlap,
            "router_z": self.z * routing.logits.logsumexp(1).square().mean(),
        }

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """Return scalars that describe the routing of the last training forward pass, by name.

        `load_i` is the share of all routes that went to expert i. Entropies are in nats, from 0
        (one expert) to log E. `routing_entropy` is the entropy of the router's probabilities
        averaged over the images; `routing_entropy_image` is the average over the images of the
        entropy of each. Their difference is what the choice of expert tells about the image.
        """
        routing = self.last_routing()
        p = routing.logits.softmax(1)
        return {
            **{f"load_{i}": share for i, share in enumerate(routing.load)},
            "routing_entropy": torch.special.entr(p.mean(0)).sum(),
            "routing_entropy_image": torch.special.entr(p).sum(1).mean(),
        }


@register_model
def vit_moe(pretrained: bool = False, **options: Any) -> BackboneModel:
    """Build `MixtureHead` on a backbone, by default google/vit-base-patch16-224-in21k."""
    return build(MixtureHead, "vit_base_patch16_224.orig_in21k", pretrained, **options)
