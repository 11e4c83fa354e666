"""Models that are a pretrained vision transformer of timm and a head on its tokens."""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import VisionTransformer
from torch import Tensor, nn

from fer_lib.files import InputError


class BackboneModel(nn.Module):
    """A vision transformer, and a head that takes its tokens.

    Args:
        backbone: timm's ViT without a classifier: (B, C, H, W) -> tokens (B, P + N, D) after the
            final norm, the class token first; P class and register tokens, N patches.
        head: tokens -> logits (B, classes).
        input_size: (C, H, W) of the backbone's input.

    Its parts for the layer-wise learning rate and for freezing: layer 0 is the embedding of
    patches and positions, then one layer a block, the final norm with the last; then the head.
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
        """Those of the head, if it has any."""
        losses = getattr(self.head, "auxiliary_losses", None)
        return losses(targets) if losses else {}

    def statistics(self) -> dict[str, Tensor]:
        """Those of the head, if it has any."""
        statistics = getattr(self.head, "statistics", None)
        return statistics() if statistics else {}

    def get_classifier(self) -> nn.Module:
        return self.head

    def no_weight_decay(self) -> set[str]:
        parts = {"backbone": self.backbone, "head": self.head}
        return {
            f"{prefix}.{name}"
            for prefix, part in parts.items()
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
    """Build a backbone and its head.

    Args:
        head: class with the constructor (dim, *, num_classes, prefix_tokens, **options).
        default: timm name of the published backbone.
        pretrained: take its weights from the hub.
        backbone: timm name of another ViT.
        img_size: side of the input, pixels; None: as the backbone was pretrained.
        in_chans: 1 or 3; for 1 the weights of the first layer are summed over channels.
        backbone_options: of timm's VisionTransformer, to build a smaller one.
        pretrained_cfg, pretrained_cfg_overlay, cache_dir: as timm gives them to every model; the
            backbone has its own configuration, so the first is not used.
        options: of the head.

    Raises:
        InputError: timm has no such ViT, it has no class token, or its patches do not fit.
    """
    name = backbone or default
    if name.split(".")[0] not in timm.list_models(module="vision_transformer"):
        raise InputError(f"backbone {name!r} is unknown: use a name of timm.list_models('vit_*')")
    sizes = {} if img_size is None else {"img_size": img_size}
    vit = timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=0,
        in_chans=in_chans,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        **sizes,
        **backbone_options or {},
    )
    if vit.cls_token is None:
        raise InputError(f"backbone {name!r} has no class token: use one that has")
    (patch, _), (side, _) = vit.patch_embed.patch_size, vit.patch_embed.img_size
    if side % patch:  # timm would leave out what is over, at the right and below
        near = " or ".join(str(n * patch) for n in (side // patch, side // patch + 1) if n)
        raise InputError(f"img_size={side} is no multiple of a patch of {patch} pixels: use {near}")
    part = head(
        vit.num_features, num_classes=num_classes, prefix_tokens=vit.num_prefix_tokens, **options
    )
    return BackboneModel(vit, part, (in_chans, *vit.patch_embed.img_size))
