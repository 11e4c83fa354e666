"""The two convolutional networks: a plain one and one with channel and spatial attention."""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers.cbam import ChannelAttn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from fer_lib.files import InputError


class Head(nn.Sequential):
    """Dropout, Linear, ReLU, Dropout, Linear: (B, features) -> (B, classes)."""

    def __init__(
        self, *, features: int, hidden: int, num_classes: int, dropout: tuple[float, float]
    ):
        super().__init__(
            nn.Dropout(dropout[0]),
            nn.Linear(features, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout[1]),
            nn.Linear(hidden, num_classes),
        )


def conv(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3×3 convolution, batch norm and ReLU, as a list of layers."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def conv_and_pool(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3×3 convolution, batch norm, 2×2 max pooling and ReLU, as a list of layers.

    ReLU before pooling would give the same result, but on four times as many values.
    """
    *layers, relu = conv(inputs, outputs)
    return [*layers, nn.MaxPool2d(2), relu]


class MeanPool2d(nn.Module):
    """Mean over all positions: (B, C, H, W) -> (B, C, 1, 1).

    The gradient of `nn.AdaptiveAvgPool2d(1)` is not channels_last, even if its input is. It makes
    the backward pass of the layer before take several times as long on a CPU
    (benchmarks/layers.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[2:])


class CNN(nn.Module):
    """Three stages of convolutions, global average pooling, and a head of two layers.

    Args:
        width: channels of the first stage; the next two have 2 and 4 times as many.
        dropout: rates before the first and the second linear layer of the head.
    """

    def __init__(
        self,
        *,
        num_classes: int = 7,
        in_chans: int = 1,
        width: int = 64,
        dropout: tuple[float, float] = (0.5, 0.3),
    ):
        super().__init__()
        if width < 1:
            raise InputError(f"width must be 1 or more, not {width}")
        self.num_classes = num_classes
        widths = (width, 2 * width, 4 * width)
        inputs = (in_chans, *widths[:2])
        pools = (nn.MaxPool2d(2), nn.MaxPool2d(2), MeanPool2d())
        self.stages = nn.Sequential(*map(self.stage, inputs, widths, pools))
        self.head = Head(
            features=4 * width, hidden=2 * width, num_classes=num_classes, dropout=dropout
        )

    def stage(self, inputs: int, outputs: int, pool: nn.Module) -> nn.Module:
        """Build a stage with the given input and output channels and pooling layer."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's definition of the layers: the stages, then the head."""
        return {"blocks": r"^stages\.(\d+)"}

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)  # (B, C, 48, 48) -> (B, 4 width, 1, 1)
        return self.head(x.flatten(1))


class BaselineCNN(CNN):
    """CNN with one 3×3 convolution in each stage."""

    def stage(self, inputs: int, outputs: int, pool: nn.Module) -> nn.Module:
        if isinstance(pool, nn.MaxPool2d):
            return nn.Sequential(*conv_and_pool(inputs, outputs))
        return nn.Sequential(*conv(inputs, outputs), pool)


def sum_of_channels(x: Tensor) -> Tensor:
    """Sum over the channels: (B, C, H, W) -> (B, 1, H, W).

    This is a matrix product, because `sum` is slow in bf16 on a CPU.
    """
    last = x.permute(0, 2, 3, 1)
    return F.linear(last, last.new_ones(1, x.shape[1])).permute(0, 3, 1, 2)


class OverChannels(torch.autograd.Function):
    """Mean and maximum over channels: (B, C, H, W) -> (B, 2, H, W).

    The gradient of a maximum is shared equally by all channels that reach it. The whole gradient is
    computed in one tensor; that of `mean` and `amax` passes through six, and takes a CPU more than
    twice as long (benchmarks/layers.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        most = x.amax(1, keepdim=True)
        ctx.save_for_backward(x, most)
        return torch.cat([sum_of_channels(x) / x.shape[1], most], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, most = ctx.saved_tensors
        largest = (x - most).sign_().add_(1)  # 1 at a maximum, otherwise 0
        mean, share = gradient[:, :1] / x.shape[1], gradient[:, 1:] / sum_of_channels(largest)
        return largest.mul_(share).add_(mean)


class OverPositions(torch.autograd.Function):
    """Mean and maximum over positions: (B, C, H, W) -> two tensors (B, C, 1, 1).

    The gradient is computed in one tensor, as in `OverChannels`. That of a maximum goes to the
    first position that reaches it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        most, place = F.adaptive_max_pool2d(x, 1, return_indices=True)
        ctx.save_for_backward(place)
        ctx.size = x.shape[2:]
        return F.avg_pool2d(x, ctx.size), most

    @staticmethod
    def backward(ctx: Any, mean: Tensor, most: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors  # indices y W + x
        height, width = ctx.size
        mean = mean / (height * width)
        whole = F.interpolate(mean, size=(height, width))
        image, channel = (torch.arange(n, device=place.device) for n in place.shape[:2])
        place = place.flatten(1)
        whole[image[:, None], channel, place // width, place % width] = (mean + most).flatten(1)
        return whole


class SpatialAttention(nn.Module):
    """Spatial attention of CBAM: scales each position by a gate.

    The gate is the sigmoid of a 7×7 convolution of the mean and the maximum over channels.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(OverChannels.apply(x)).sigmoid()


class ChannelAttention(ChannelAttn):
    """Channel attention of CBAM: scales each channel by a gate.

    The same two layers take the means and the maxima of all channels; the gates are the sigmoid of
    the sum of both results.
    """

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the shared layers to the mean and to the maximum; each gives (B, C, 1, 1)."""
        mean, most = OverPositions.apply(x)
        return self.fc2(self.act(self.fc1(mean))), self.fc2(self.act(self.fc1(most)))

    def forward(self, x: Tensor) -> Tensor:
        mean, most = self.branches(x)
        return x * (mean + most).sigmoid()


class TwoGateChannelAttention(ChannelAttention):
    """Channel attention in its published form: the sum of one sigmoid for each branch.

    Its gates reach 2, while those of CBAM stay below 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        mean, most = self.branches(x)
        return x * (mean.sigmoid() + most.sigmoid())


class AttentionCNN(CNN):
    """CNN with two 3×3 convolutions in each stage, then channel and spatial attention.

    CBAM: Convolutional Block Attention Module, https://arxiv.org/abs/1807.06521.

    Args:
        attention: "cbam": one sigmoid of the sum of both branches, and attention before pooling;
            "published": `TwoGateChannelAttention`, and pooling before attention, so that the
            spatial attention of the last stage sees one position and scales all features alike (the
            project's description says only that; to pool every stage before both of its gates is
            our reading); or "none": no gates, to measure what they add.
        options: arguments of `CNN`.
    """

    def __init__(self, *, attention: str = "cbam", **options: Any):
        if attention not in ("cbam", "published", "none"):
            raise InputError(f"attention {attention!r} is unknown: use cbam, published or none")
        self.attention = attention
        super().__init__(**options)

    def stage(self, inputs: int, outputs: int, pool: nn.Module) -> nn.Module:
        convolutions = conv(inputs, outputs) + conv(outputs, outputs)
        if self.attention == "none":
            return nn.Sequential(*convolutions, pool)
        channel = ChannelAttention if self.attention == "cbam" else TwoGateChannelAttention
        gates = [channel(outputs, rd_ratio=1 / 16, rd_divisor=1), SpatialAttention()]
        if self.attention == "published":
            return nn.Sequential(*convolutions, pool, *gates)
        return nn.Sequential(*convolutions, *gates, pool)


Built = TypeVar("Built", bound=nn.Module)

grey_48 = {"input_size": (1, 48, 48), "mean": (0.5,), "std": (0.5,), "num_classes": 7}
default_cfgs = generate_default_cfgs(
    {"baseline_cnn.untrained": grey_48, "attention_cnn.untrained": grey_48}
)


def build_scratch(kind: type[Built], name: str, pretrained: bool, **options: Any) -> Built:
    """Build a model with timm, and write the input that it takes into its configuration."""
    model = build_model_with_cfg(kind, name, pretrained, **options)
    channels, side = options.get("in_chans", 1), options.get("img_size", 48)
    each = {key: model.pretrained_cfg[key] * channels for key in ("mean", "std")}
    model.pretrained_cfg = model.pretrained_cfg | each | {"input_size": (channels, side, side)}
    return model


@register_model
def baseline_cnn(pretrained: bool = False, **options: Any) -> BaselineCNN:
    return build_scratch(BaselineCNN, "baseline_cnn", pretrained, **options)


@register_model
def attention_cnn(pretrained: bool = False, **options: Any) -> AttentionCNN:
    return build_scratch(AttentionCNN, "attention_cnn", pretrained, **options)
