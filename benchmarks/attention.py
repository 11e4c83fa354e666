"""Compare the speed of the ViTs with attention as two matrix products and with the fused kernel.

    python benchmarks/attention.py
    python benchmarks/attention.py --models vit_patch vit_cnn vit_tiny --rounds 5

The same network runs forward and backward on the same random batch (speed does not depend on what
a picture shows), in the precision that training would choose on the device, with glibc keeping
freed memory as in training. The two ways run in turn, round after round, in one process; the first
round is not counted. A rate is the median over the rounds; a ratio is taken within each round.
"""

import argparse
from functools import partial

import torch
from measure import environment, in_turn, positive, rate, table
from torch import Tensor, nn

from fer_lib.batches import autocast
from fer_lib.device import choose_precision, keep_memory
from fer_lib.models import MODULES, create_model


def steps(model: nn.Module, x: Tensor, precision: str, fused: bool, number: int) -> int:
    """Run forward and backward `number` times, fused or not; return the number of images."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    for _ in range(number):
        model.zero_grad()
        with autocast(x.device, precision):
            logits = model(x)
        logits.float().square().mean().backward()
    return number * len(x)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    models = ["vit_patch", "vit_cnn"]
    known = sorted(name for name, module in MODULES.items() if module != "cnn")
    parser.add_argument("--models", nargs="+", default=models, choices=known)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, default=3)
    args = parser.parse_args(arguments)
    keep_memory()
    print(environment(), flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision()
    number = 50 if device.type == "cuda" else 2
    rows = {}
    for name in args.models:
        model = create_model(name).to(device).train()
        x = torch.randn(args.batch_size, *model.pretrained_cfg["input_size"], device=device)
        parts = {
            way: partial(rate, partial(steps, model, x, precision, way == "fused", number), device)
            for way in ("plain", "fused")
        }
        rates = in_turn(parts, args.rounds)
        rows[name] = (rates["plain"], rates["fused"])
    print(
        f"\nattention on {device.type} in {precision}: images/s, forward and backward in batches "
        f"of {args.batch_size}, {args.rounds} rounds of {number} steps in turn, "
        f"{torch.get_num_threads()} threads\n\n{table(rows, 'two products', 'fused kernel')}"
    )


if __name__ == "__main__":
    main()
