"""Statistics of the classes that a loss takes: their weights, and their prior."""

import torch
from torch import Tensor


def inverse_frequency(targets: Tensor) -> Tensor:
    """Class weights N / (K n_c) from (N, K) targets: (K,) float32, 1 for balanced classes.

    A class without images gets weight 0.
    """
    counts = targets.sum(0)
    weights = len(targets) / (targets.shape[1] * counts.clamp(min=1e-12))
    return torch.where(counts > 0, weights, 0.0)


def log_prior(targets: Tensor) -> Tensor:
    """Logarithm of each class's share in (N, K) targets: (K,) float32."""
    return targets.mean(0).clamp(min=1e-12).log()
