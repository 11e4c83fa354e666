"""Cross-entropy for soft targets, and the class statistics that it uses."""

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


def log_prior(targets: Tensor) -> Tensor:
    """Compute the logarithm of each class's share in (N, K) targets: (K,) float32.

    A class without images gets 0. Added to the logits, this favours the class most in training, so
    that the network learns never to predict it.
    """
    share = targets.mean(0)
    return torch.where(share > 0, share.log(), 0.0)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of logits and soft targets, averaged over the images.

    A weighted loss is averaged over the images too, as torch does for soft targets. (For class
    indices, torch divides by the sum of the batch's weights instead, so that batches with a rare
    class count less.)

    Label smoothing together with a correction for rare classes differs from torch's loss. With
    q = softmax(logits + tau log prior), class weights w and smoothing e, the loss of an image with
    target t is

        (1 - e) sum_k w_k t_k (-log q_k) + e (sum_k w_k t_k) sum_k s_k (-log q_k),

    where s is proportional to prior ** tau, which is uniform for tau = 0. In torch's loss, s is
    always uniform, and w_k also multiplies the spread share. With weights or tau, the largest part
    of what is spread would then go to the rarest class, and the network would learn to predict it
    for images of frequent ones. With a correction but no smoothing, or with smoothing alone, both
    losses are the same.

    Args:
        targets: (N, K) targets of all training images, which give the weights and the prior.
        smoothing: share of each target that is spread over all classes.
        weighted: weight classes by `inverse_frequency`.
        tau: strength of logit adjustment (https://arxiv.org/abs/2007.07314), 0 for none.
    """

    def __init__(
        self, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = False, tau: float = 0.0
    ):
        super().__init__()
        self.smoothing = smoothing
        self.weight = inverse_frequency(targets) if weighted else None
        self.adjustment = tau * log_prior(targets) if tau else None
        prior = targets.mean(0) ** tau  # (K,), all 1 if tau is 0
        self.spread = prior / prior.sum()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of logits (B, K) and targets (B, K): a scalar, float32."""
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if not self.smoothing or (self.weight is None and self.adjustment is None):
            return F.cross_entropy(logits, targets, self.weight, label_smoothing=self.smoothing)
        of_images = 1.0 if self.weight is None else targets @ self.weight  # (B,)
        spread = -(of_images * (logits.log_softmax(1) @ self.spread)).mean()
        own = F.cross_entropy(logits, targets, self.weight)
        return (1 - self.smoothing) * own + self.smoothing * spread
