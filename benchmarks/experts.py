"""Compare two ways to compute a mixture of experts: only what is routed, or all experts for all.

    python benchmarks/experts.py
    python benchmarks/experts.py --rounds 9 --batch-size 32

Ours is `fer_lib.models.moe.SparseExperts`: the rows of a batch are sorted by the expert they go to,
and each expert multiplies its own rows. The other way computes every expert for every image, in one
batched product per layer, and weights the outputs by the same gates, which are zero for experts
that were not chosen. Both have the same weights and router, and must give the same output.

Each step is forward and backward, at the published size (768 features, 1,536 inside an expert, 2 of
4 experts per image) and with 16 experts; in float32, and in the precision that training would
choose on the device. Every step draws a new batch, so the numbers of rows per expert vary as in
training. The ways run in turn, round after round, in one process, with glibc keeping freed memory
as in training; the first round is not counted. A rate is the median over the rounds; a ratio is
taken within each round. At best, the ratio is the number of experts divided by the number that an
image is given to.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import environment, in_turn, positive, rate, table
from torch import Tensor

from fer_lib.batches import autocast
from fer_lib.device import choose_precision, keep_memory
from fer_lib.models.moe import SparseExperts

STEPS = {"cpu": 2, "cuda": 200}  # a round then takes seconds, not minutes


def sparse(layer: SparseExperts, x: Tensor) -> Tensor:
    """Compute the output from the routed experts alone: (B, D) -> (B, D)."""
    return layer(x)[0]


def dense(layer: SparseExperts, x: Tensor) -> Tensor:
    """Compute the same output from all experts for all images: (B, D) -> (B, D)."""
    gates = layer.route(x).dense  # (B, E)
    x = x.expand(gates.shape[1], -1, -1)  # (E, B, D)
    hidden = F.gelu(torch.baddbmm(layer.bias1[:, None], x, layer.weight1))
    y = torch.baddbmm(layer.bias2[:, None], hidden, layer.weight2)
    return (gates.T[..., None] * y).sum(0)


def steps(
    way: Callable[[SparseExperts, Tensor], Tensor],
    layer: SparseExperts,
    shape: tuple[int, int],
    precision: str,
    number: int,
) -> int:
    """Run forward and backward on `number` new batches; return the number of images."""
    device = layer.weight1.device
    for _ in range(number):
        layer.zero_grad()
        x = torch.randn(shape, device=device, requires_grad=True)
        with autocast(device, precision):
            y = way(layer, x)
        y.square().mean().backward()
    return number * len(x)


def compare(dim: int, hidden: int, batch_size: int, rounds: int, number: int) -> str:
    """Measure both ways in all cases.

    Args:
        dim, hidden: features of an image, and inside an expert.
        number: steps in a round.

    Returns:
        A heading and a Markdown table.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision()
    torch.manual_seed(0)
    shape = batch_size, dim
    rows = {}
    for experts in (4, 16):
        layer = SparseExperts(dim, hidden=hidden, experts=experts).to(device)
        x = torch.randn(shape, device=device)
        torch.testing.assert_close(sparse(layer, x), dense(layer, x), atol=1e-4, rtol=1e-3)
        for precision in dict.fromkeys(("no", chosen)):
            parts = {
                way.__name__: partial(
                    rate, partial(steps, way, layer, shape, precision, number), device
                )
                for way in (sparse, dense)
            }
            rates = in_turn(parts, rounds)
            name = precision.replace("no", "float32")
            rows[f"2 of {experts} experts, {name}"] = (rates["sparse"], rates["dense"])
    heading = (
        f"mixture of experts on {device.type}: images/s, forward and backward in batches of "
        f"{batch_size}, {dim} and {hidden:,} features, {rounds} rounds of {number} steps in turn, "
        f"{torch.get_num_threads()} threads"
    )
    return f"{heading}\n\n{table(rows, 'only routed', 'all experts')}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--dim", type=positive, default=768, help="features of an image, half those of an expert")
    add("--batch-size", type=positive, default=256)
    add("--rounds", type=positive, default=5)
    args = parser.parse_args(arguments)
    keep_memory()
    print(environment(), flush=True)
    number = STEPS["cuda" if torch.cuda.is_available() else "cpu"]
    print(f"\n{compare(args.dim, 2 * args.dim, args.batch_size, args.rounds, number)}")


if __name__ == "__main__":
    main()
