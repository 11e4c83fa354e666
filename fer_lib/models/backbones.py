"""Models made of a pretrained vision transformer from timm and a head on its tokens."""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import VisionTransformer
from torch import Tensor, nn

from fer_lib.files import InputError


class BackboneModel(nn.Module):
    """A vision transformer followed by a head that takes its tokens.

    For the layer-wise learning rate and for freezing, layer 0 is the embedding of patches and
    positions. Each block is one layer, and the final norm belongs to the last block. The head is
    the last layer.

    Args:
        backbone: timm's ViT without a classifier. It turns images (B, C, H, W) into tokens
            (B, P + N, D) after the final norm: P prefix tokens (the class token, then any
            registers), then N patches.
        head: turns the tokens into logits (B, classes).
        input_size: (C, H, W) of the backbone's input.
    """

    def __init__(self, backbone: VisionTransformer, head: nn.Module, input_size: tuple[int, ...]):
        super().__init__()
        self.backbone, self.head = backbone, head
        cfg = backbone.pretrained_cfg
        grey = lambda values: (sum(values) / len(values),)
        self.pretrained_cfg = {
            "input_size": input_size,
            "mean": cfg["mean"] if input_size[0] == 3 else grey(cfg["mean"]),
            "std": cfg["std"] if input_size[0] == 3 else grey(cfg["std"]),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone.forward_features(x))

    def auxiliary_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the auxiliary losses of the head, or an empty dict if it has none."""
        losses = getattr(self.head, "auxiliary_losses", None)
        return losses(targets) if losses else {}

    def statistics(self) -> dict[str, Tensor]:
        """Return the statistics of the head, or an empty dict if it has none."""
        statistics = getattr(self.head, "statistics", None)
        return statistics() if statistics else {}

    def get_classifier(self) -> nn.Module:
        return self.head

    def no_weight_decay(self) -> set[str]:
        return {
            f"{prefix}.{name}"
            for prefix, part in self.named_children()
            for name in getattr(part, "no_weight_decay", set)()
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^backbone\.(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)",
            "blocks": [(r"^backbone\.blocks\.(\d+)", None), (r"^backbone\.norm", (99999,))],
        }


def build(
    head: Callable[..., nn.Module],
    default: str,
    pretrained: bool,
    *,
    backbone: str | None = None,
    img_size: int | None = None,
    in_chans: int = 3,
    backbone_options: dict[str, Any] | None = None,
    num_classes: int = 7,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **options: Any,
) -> BackboneModel:
    """Build a vision transformer with a head.

    Args:
        head: class with the constructor (dim, *, num_classes, prefix_tokens, **options).
        default: timm name of the published backbone.
        pretrained: load the pretrained weights of the backbone from their hub.
        backbone: timm name of another ViT to use as the backbone; None for `default`.
        img_size: side of the input image in pixels; None for the side used in pretraining.
        in_chans: 1 or 3; with 1, pretrained weights of the first layer are summed over channels.
        backbone_options: arguments of timm's VisionTransformer, to build a smaller one.
        pretrained_cfg, pretrained_cfg_overlay, cache_dir: timm gives these to every model. The
            first is not used, because the backbone has its own configuration.
        options: further arguments of the head.

    Raises:
        InputError: timm has no such ViT, the ViT has no class token or no norm on its tokens, or
            `img_size` is not a multiple of its patch size.
    """
    name = backbone or default
    if name.split(".")[0] not in timm.list_models(module="vision_transformer"):
        raise InputError(f"backbone {name!r} is unknown: use a name of timm.list_models('vit_*')")
    # With the classifier of the weights, timm refuses weights that lack a tensor or have one more.
    vit = timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=None if pretrained else 0,
        in_chans=in_chans,
        img_size=img_size,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **backbone_options or {},
    )
    vit.reset_classifier(0)
    require_usable(vit, name, backbone_options or {})
    part = head(
        vit.num_features, num_classes=num_classes, prefix_tokens=vit.num_prefix_tokens, **options
    )
    return BackboneModel(vit, part, (in_chans, *vit.patch_embed.img_size))


def require_usable(vit: VisionTransformer, name: str, options: dict[str, Any]) -> None:
    """Raise InputError if a ViT's tokens do not suit a head, or its patches do not fill the image.

    Args:
        name: timm name of the ViT, for the message.
        options: `backbone_options` with which it was built, for the message.
    """
    if vit.cls_token is None:
        raise InputError(f"backbone {name!r} has no class token: use one that has")
    if isinstance(vit.norm, nn.Identity):  # timm then normalises after the pooling, if at all
        raise InputError(
            f"backbone {name!r} with backbone_options={options} has no final norm on its "
            'tokens: add "final_norm": true and "fc_norm": false to these options'
        )
    (patch, _), (side, _) = vit.patch_embed.patch_size, vit.patch_embed.img_size
    if side % patch:  # timm would cut off the remaining pixels at the right and below
        near = " or ".join(str(n * patch) for n in (side // patch, side // patch + 1) if n)
        raise InputError(
            f"img_size={side} must be a multiple of the patch size {patch}: use {near}"
        )
