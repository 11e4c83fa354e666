"""ViT-MAE: the encoder of a masked autoencoder, fine-tuned on every patch.

Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377. Masking belongs
to pretraining (`fer_lib.pretrain`). The encoder is loaded here as a plain vision transformer, which
has no mask: a classifier that keeps transformers' default `mask_ratio` sees a random quarter of the
face, and its answer changes from call to call.
"""

from typing import Any

from timm.models import register_model
from torch import nn

from fer_lib.models.backbones import BackboneModel, build
from fer_lib.models.vit import TokenHead


class NormHead(TokenHead):
    """LayerNorm and a linear layer on the class token, as published."""

    def __init__(self, dim: int, *, num_classes: int, prefix_tokens: int = 1):
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, num_classes))


@register_model
def vit_mae(pretrained: bool = False, **options: Any) -> BackboneModel:
    """Build `NormHead` on a backbone, by default the ViT-B/16 of facebook/vit-mae-base.

    That backbone has 85,798,656 parameters. To start from an autoencoder of your own, give
    `create_model` the `encoder_path` and the `options` of its `Pretraining`.
    """
    return build(NormHead, "vit_base_patch16_224.mae", pretrained, **options)
