"""Classification loss on soft targets, and the class statistics that it takes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def inverse_frequency(targets: Tensor) -> Tensor:
    """Class weights N / (K n_c) from (N, K) targets: (K,) float32, 1 for balanced classes.

    A class without images gets weight 0.
    """
    counts = targets.sum(0)
    weights = len(targets) / (targets.shape[1] * counts.clamp(min=1e-12))
    return torch.where(counts > 0, weights, 0.0)


def log_prior(targets: Tensor) -> Tensor:
    """Logarithm of each class's share in (N, K) targets: (K,) float32."""
    return (targets.mean(0)).clamp(min=1e-12).log()


class SoftCrossEntropy(nn.Module):
    """Mean cross-entropy of logits (B, K) against soft targets (B, K), computed in float32.

    Args:
        weight: (K,) class weights, or None. The mean is over images, not over weights, so that soft
            and hard targets are treated alike.
        smoothing: label smoothing.
        adjustment: (K,) added to the logits in training only: tau × log prior
            (logit adjustment, https://arxiv.org/abs/2007.07314), or None.
    """

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
        adjustment: Tensor | None = None,
    ):
        super().__init__()
        self.weight, self.smoothing, self.adjustment = weight, smoothing, adjustment

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        return F.cross_entropy(logits, targets, weight=self.weight, label_smoothing=self.smoothing)
