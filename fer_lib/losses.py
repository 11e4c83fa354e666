"""The loss of soft targets, and the statistics of the classes that it takes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def inverse_frequency(targets: Tensor) -> Tensor:
    """Class weights N / (K n_c) from (N, K) targets: (K,) float32, 1 for balanced classes.

    A class without images gets weight 0.
    """
    counts = targets.sum(0)
    weights = len(targets) / (targets.shape[1] * counts.clamp(min=1e-12))
    return torch.where(counts > 0, weights, 0.0)


def log_prior(targets: Tensor) -> Tensor:
    """Logarithm of each class's share in (N, K) targets: (K,) float32.

    0 for a class without images, so that what is added to logits favours it most in training, and
    the network learns never to name it.
    """
    share = targets.mean(0)
    return torch.where(share > 0, share.log(), 0.0)


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of logits and soft targets, mean over the images.

    So is a weighted one, as torch has it for soft targets; for indices of classes torch divides by
    the sum of the batch's weights instead, by which batches with a rare class count less.

    Label smoothing together with a correction for rare classes is not torch's: its class weights
    multiply also the share that smoothing spreads, and an adjustment of the logits is undone by
    even shares. Either gives most of what is spread to the rarest class, which becomes the answer
    to images of a frequent one. Here an image's weight is that of its own classes, for what is
    spread too, and an adjusted loss spreads by the prior, so that what is spread is even again once
    the correction is off. One of them without smoothing, or smoothing alone, is torch's loss.

    Args:
        targets: (N, K) of all training images, of which weights and prior are taken.
        smoothing: share of each target that is spread over all classes.
        weighted: weight classes by `inverse_frequency`.
        tau: of logit adjustment (https://arxiv.org/abs/2007.07314), 0 for none.
    """

    def __init__(
        self, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = False, tau: float = 0.0
    ):
        super().__init__()
        self.smoothing = smoothing
        self.weight = inverse_frequency(targets) if weighted else None
        self.adjustment = tau * log_prior(targets) if tau else None
        prior = targets.mean(0) ** tau  # (K,), all 1 where nothing is adjusted
        self.spread = prior / prior.sum()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Both (B, K); a scalar, float32."""
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if not self.smoothing or (self.weight is None and self.adjustment is None):
            return F.cross_entropy(logits, targets, self.weight, label_smoothing=self.smoothing)
        of_images = 1.0 if self.weight is None else targets @ self.weight  # (B,)
        spread = -(of_images * (logits.log_softmax(1) @ self.spread)).mean()
        own = F.cross_entropy(logits, targets, self.weight)
        return (1 - self.smoothing) * own + self.smoothing * spread
