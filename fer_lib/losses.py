"""Cross-entropy for soft targets, and the class weights that it uses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def inverse_frequency(targets: Tensor) -> Tensor:
    """Compute class weights N / (K n_c) from (N, K) targets.

    Returns:
        (K,) float32: all 1 if the classes are balanced, and 0 for a class without images.
    """
    counts = targets.sum(0)
    weights = len(targets) / (targets.shape[1] * counts.clamp(min=1e-12))
    return torch.where(counts > 0, weights, 0.0)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of logits and soft targets, averaged over the images.

    A weighted loss is averaged over the images too, as torch does for soft targets. (For class
    indices, torch divides by the sum of the batch's weights instead, so that batches with a rare
    class count less.)

    Label smoothing spreads what the class weights leave of a target, evenly. In torch's loss, the
    weights also multiply the share that is spread, so that most of it goes to the rarest class, and
    the network would learn to predict that for images of frequent ones. With weights alone, or with
    smoothing alone, both losses are the same.

    Args:
        targets: (N, K) targets of all training images, which give the weights.
        smoothing: share of each target that is spread over all classes.
        weighted: weight classes by `inverse_frequency`.
    """

    def __init__(self, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = False):
        super().__init__()
        self.smoothing = smoothing
        self.weight = inverse_frequency(targets) if weighted else torch.ones_like(targets[0])

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of logits (B, K) and targets (B, K): a scalar, float32."""
        weighted = targets * self.weight
        even = weighted.mean(1, keepdim=True)
        smooth = (1 - self.smoothing) * weighted + self.smoothing * even
        return F.cross_entropy(logits.float(), smooth)
