"""ViT-MAE: the encoder of a masked autoencoder, fine-tuned on every patch.

Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377. Masking belongs
to pretraining (`fer_lib.pretrain`). The encoder is loaded here as a plain vision transformer, which
has no mask: a classifier that keeps transformers' default `mask_ratio` sees a random quarter of the
face, and says something else at every call.
"""

from typing import Any

from timm.models import register_model
from torch import nn

from fer_lib.models.backbones import BackboneModel, build
from fer_lib.models.vit import TokenHead


class NormHead(TokenHead):
    """LayerNorm, Linear, as published."""

    def __init__(self, dim: int, *, num_classes: int, prefix_tokens: int = 1):
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, num_classes))


@register_model
def vit_mae(pretrained: bool = False, **options: Any) -> BackboneModel:
    """By default the ViT-B/16 that facebook/vit-mae-base is, 85,798,656 parameters, and its head.

    A masked autoencoder of one's own is `pretrained` by the encoder's file and built with its
    `backbone_options`.
    """
    return build(NormHead, "vit_base_patch16_224.mae", pretrained, **options)
