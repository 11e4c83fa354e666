"""Compare the layers of the CNNs that are written for fast gradients with the usual ones.

    python benchmarks/layers.py

Each layer runs forward and backward on the same random batch of 64, in the precision that training
would choose on the device, channels_last, with glibc keeping freed memory as in training. Both
sides of a pair compute the same function. They run in turn, round after round, in one process; the
first round is not counted. A rate is the median over the rounds; a ratio is taken within each
round.
"""

import argparse
from functools import partial

import torch
from measure import environment, in_turn, positive, rate, table
from timm.layers.cbam import ChannelAttn
from torch import Tensor, nn

from fer_lib.batches import DTYPES, autocast
from fer_lib.device import choose_precision, keep_memory
from fer_lib.models.cnn import (
    ChannelAttention,
    MeanPool2d,
    SpatialAttention,
    conv,
    conv_and_pool,
)


class UsualSpatialAttention(SpatialAttention):
    """The same gate, computed with `mean` and `amax`."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid()


def pairs() -> dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]]:
    """Return, for each title, our layers, the usual ones, and the shape of their input."""
    relu = lambda *layers: nn.Sequential(nn.BatchNorm2d(256), nn.ReLU(inplace=True), *layers)
    squeeze = {"rd_ratio": 1 / 16, "rd_divisor": 1}
    return {
        "ReLU, mean over positions": (
            relu(MeanPool2d()),
            relu(nn.AdaptiveAvgPool2d(1)),
            (64, 256, 12, 12),
        ),
        "convolution, pooling, ReLU": (
            nn.Sequential(*conv_and_pool(1, 64)),
            nn.Sequential(*conv(1, 64), nn.MaxPool2d(2)),
            (64, 1, 48, 48),
        ),
        "channel attention": (
            ChannelAttention(64, **squeeze),
            ChannelAttn(64, **squeeze),
            (64, 64, 48, 48),
        ),
        "spatial attention": (SpatialAttention(), UsualSpatialAttention(), (64, 64, 48, 48)),
    }


def steps(layers: nn.Module, x: Tensor, precision: str, number: int) -> int:
    """Run forward and backward `number` times; return the number of images."""
    for _ in range(number):
        layers.zero_grad()
        with autocast(x.device, precision):
            y = layers(x)
        y.backward(torch.ones_like(y))
        x.grad = None
    return number * len(x)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args(arguments)
    keep_memory()
    print(environment(), flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision()
    number = 100 if device.type == "cuda" else 5
    rows = {}
    for title, (ours, usual, shape) in pairs().items():
        x = torch.randn(shape, device=device, dtype=DTYPES[precision]).relu_()
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_(shape[1] > 1)
        parts = {}
        for side, layers in (("ours", ours), ("usual", usual)):
            layers.to(device, memory_format=torch.channels_last)
            parts[side] = partial(rate, partial(steps, layers, x, precision, number), device)
        rates = in_turn(parts, args.rounds)
        rows[title] = (rates["ours"], rates["usual"])
    print(
        f"\nlayers on {device.type} in {precision}: images/s, forward and backward in batches of "
        f"64, {args.rounds} rounds of {number} steps in turn, {torch.get_num_threads()} threads"
        f"\n\n{table(rows, 'ours', 'usual')}"
    )


if __name__ == "__main__":
    main()
