"""The usual training loop, which `loop.py` compares with ours: single images, workers, float32.

This is what most projects start from: a Dataset of single PIL images, torchvision transforms (flip,
affine, ToTensor, Normalize), a shuffled DataLoader with a worker for each core, which live on
between epochs, pinned memory on a GPU, the default memory format, float32 (on a GPU with PyTorch's
default: convolutions in TF32), plain AdamW, loss and accuracy summed by `.item()`. Its network is
written as usual, too: ReLU before pooling, adaptive pooling, and timm's attention layers of CBAM.
"""

from collections.abc import Iterator
from itertools import zip_longest
from multiprocessing import get_all_start_methods

import torch
from PIL import Image
from timm.layers.cbam import ChannelAttn, SpatialAttn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fer_lib.batches import autocast, training_rows
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.device import choose_precision, processes
from fer_lib.models import create_model
from fer_lib.models.cnn import ChannelAttention, MeanPool2d, SpatialAttention

STYLES = ("usual", "our network", "reference")


class Singles(Dataset):
    """Training faces one by one, by PIL and torchvision: (C, H, W) float32 and the label."""

    def __init__(self, faces: FaceSet, config: TrainConfig, cfg: dict):
        rows, draw = training_rows(faces, config.limit, config.seed), config.augmentation
        self.images, self.labels = faces.images[rows], faces.labels[rows]
        channels, *size = cfg["input_size"]
        affine = transforms.RandomAffine(
            draw.rotate,
            (draw.translate, draw.translate),
            draw.scale,
            interpolation=InterpolationMode.BILINEAR,
        )
        flip = transforms.RandomHorizontalFlip(draw.flip)
        steps = [flip, transforms.RandomApply([affine], draw.affine)]
        # After the affine map, where they cost least: if unequal, it favours the usual loop.
        if tuple(size) != self.images.shape[2:]:
            steps.append(transforms.Resize(size))
        if channels == 3:
            steps.append(transforms.Grayscale(3))
        steps += [transforms.ToTensor(), transforms.Normalize(cfg["mean"], cfg["std"])]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[row, 0])), int(self.labels[row])


def written_as_usual(net: nn.Module) -> None:
    """Replace layers of one of our networks by the usual ones, in place.

    The network computes the same, except for a batch norm of one channel in timm's spatial
    attention.
    """
    for part in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        layers = list(part)
        for place, (layer, after) in enumerate(zip_longest(layers, layers[1:])):
            if isinstance(layer, nn.MaxPool2d) and isinstance(after, nn.ReLU):
                part[place], part[place + 1] = after, layer
            elif isinstance(layer, MeanPool2d):
                part[place] = nn.AdaptiveAvgPool2d(1)
            elif type(layer) is ChannelAttention:
                part[place] = ChannelAttn(layer.fc1.in_channels, rd_channels=layer.fc1.out_channels)
            elif isinstance(layer, SpatialAttention):
                part[place] = SpatialAttn()


class Usual:
    """The usual loop and its parts, methods that return the number of images they processed.

    Args:
        workers: number of the DataLoader's workers.
        style: "usual"; "our network", the same loop with our layers; or "reference", the usual
            network as torchvision's and timm's reference scripts train it when asked to:
            channels_last and mixed precision, in the precision that training would choose.
    """

    def __init__(
        self,
        config: TrainConfig,
        faces: FaceSet,
        workers: int,
        style: str = "usual",
    ):
        self.config, self.device = config, (device := processes().device)
        reference = style == "reference"
        self.precision = choose_precision(config.precision) if reference else "no"
        self.format = torch.channels_last if reference else torch.contiguous_format
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        torch.manual_seed(config.seed)
        net = create_model(config.model, num_classes=len(faces.classes), **config.options)
        if style != "our network":
            written_as_usual(net)
        data = Singles(faces, config, net.pretrained_cfg)
        self.net = net.to(device, memory_format=self.format).train()
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.loader = DataLoader(
            data,
            config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            multiprocessing_context=get_all_start_methods()[0],  # the default, not our sides' spawn
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        images, labels = default_collate([data[row] for row in range(config.batch_size)])
        self.batch = images.to(device), labels.to(device)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            logits = self.net(images.contiguous(memory_format=self.format))
            loss = nn.functional.cross_entropy(logits, labels)
            if hasattr(self.net, "auxiliary_losses"):
                soft = nn.functional.one_hot(labels, logits.shape[1]).float()
                loss = sum(self.net.auxiliary_losses(soft).values(), loss)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return logits, loss

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images.to(self.device, non_blocking=True), labels.to(self.device)

    def loop(self) -> int:
        total, right, seen = 0.0, 0, 0
        for images, labels in self.batches():
            logits, loss = self.step(images, labels)
            total += loss.item()
            right += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
        return seen

    def input(self) -> int:
        return sum(len(images) for images, _ in self.batches())

    def model(self) -> int:
        for _ in range(len(self.loader)):
            self.step(*self.batch)
        return len(self.loader) * self.config.batch_size
