"""Vision transformers: from scratch, on patches or on a convolutional stem, and ViT-Tiny.

An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929.
"""

from itertools import pairwise
from typing import Any

from timm.layers import PatchEmbed, trunc_normal_
from timm.models import VisionTransformer, generate_default_cfgs, register_model
from torch import Tensor, nn

from fer_lib.files import InputError
from fer_lib.models.backbones import BackboneModel, build
from fer_lib.models.cnn import build_scratch, conv_and_pool, grey_48


class ConvStem(nn.Module):
    """Two convolutions, each with pooling that halves the side, then a linear map to tokens.

    Replaces timm's PatchEmbed: (B, C, S, S) -> (B, (S / 4)², embed_dim). `unused` takes the other
    arguments that timm gives to every such layer: bias, device and dtype.
    """

    def __init__(
        self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **unused: Any
    ):
        super().__init__()
        if patch_size != 4:
            raise InputError(f"the stem of vit_cnn makes patches of 4 pixels, not {patch_size}")
        self.img_size, self.patch_size = (img_size, img_size), (4, 4)
        self.num_patches = (img_size // 4) ** 2
        channels = (in_chans, 32, 64)
        self.stem = nn.Sequential(
            *(
                layer
                for inputs, outputs in pairwise(channels)
                for layer in conv_and_pool(inputs, outputs)
            )
        )
        self.proj = nn.Linear(channels[-1], embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, 64, S / 4, S / 4)
        return self.proj(x.flatten(2).transpose(1, 2))


class ScratchViT(VisionTransformer):
    """timm's VisionTransformer with a head of two layers, and default sizes for 48-pixel faces.

    Args:
        dropout: rate after the position embeddings, in every block and in the head.
        weight_init: initialisation of the blocks, as timm names it: "" for a standard deviation of
            0.02 at any width, "jax" for Xavier's, which is three to four times as wide at 128
            dimensions.
    """

    def __init__(
        self,
        *,
        num_classes: int = 7,
        img_size: int = 48,
        patch_size: int = 4,
        in_chans: int = 1,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        weight_init: str = "",
        embed_layer: type[nn.Module] = PatchEmbed,
    ):
        if embed_dim % num_heads:
            raise InputError(f"num_heads={num_heads} must divide embed_dim={embed_dim}")
        if img_size % patch_size:
            raise InputError(f"patch_size={patch_size} must divide the side of {img_size} pixels")
        if not 0 <= drop_path < 1:
            raise InputError(f"drop_path must be 0 or more and below 1, not {drop_path}")
        if weight_init not in ("", "jax"):
            raise InputError(f'weight_init {weight_init!r} is unknown: use "" or jax')
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=0,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            pos_drop_rate=dropout,
            proj_drop_rate=dropout,
            drop_path_rate=drop_path,
            weight_init=weight_init,
            embed_layer=embed_layer,
        )
        self.num_classes = num_classes
        self.head = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(embed_dim, num_classes),
        )
        trunc_normal_(self.head[0].weight, std=0.02)
        nn.init.zeros_(self.head[0].bias)


class TokenHead(nn.Sequential):
    """Layers that are applied to the class token alone: (B, P + N, D) -> (B, classes)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 0])


class ThreeLayerHead(TokenHead):
    """Linear, GELU, Dropout, Linear, GELU, Dropout, Linear, on the class token."""

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int,
        prefix_tokens: int = 1,
        dropout: tuple[float, float] = (0.4, 0.3),
    ):
        super().__init__(
            nn.Linear(dim, 256),
            nn.GELU(),
            nn.Dropout(dropout[0]),
            nn.Linear(256, 128),
            nn.GELU(),
            nn.Dropout(dropout[1]),
            nn.Linear(128, num_classes),
        )


default_cfgs = generate_default_cfgs({"vit_patch.untrained": grey_48, "vit_cnn.untrained": grey_48})


@register_model
def vit_patch(pretrained: bool = False, **options: Any) -> ScratchViT:
    """Build a ViT on patches of 4 pixels, or of `patch_size`.

    The published small size is patch_size=8, embed_dim=128, depth=4, num_heads=4.
    """
    return build_scratch(ScratchViT, "vit_patch", pretrained, **options)


@register_model
def vit_cnn(pretrained: bool = False, **options: Any) -> ScratchViT:
    """Build a ViT on a `ConvStem`."""
    return build_scratch(ScratchViT, "vit_cnn", pretrained, embed_layer=ConvStem, **options)


@register_model
def vit_tiny(pretrained: bool = False, in_chans: int = 1, **options: Any) -> BackboneModel:
    """Build `ThreeLayerHead` on a backbone, by default ViT-Tiny with patches of 16 pixels."""
    return build(ThreeLayerHead, "vit_tiny_patch16_224", pretrained, in_chans=in_chans, **options)
