"""Images a second of our training loop and of the usual one: same model, faces and batch size.

    python benchmarks/loop.py
    python benchmarks/loop.py --models baseline_cnn attention_cnn
    python benchmarks/loop.py --augmentation

Ours is `fer_lib.learner.Learner.train_epoch`, what `python -m fer_lib.train` runs: all faces on the
device as uint8, `Batches`, `Prepare` (flip and affine of a whole batch), `SoftCrossEntropy`, bf16
where `choose_precision` finds it, channels_last, fused AdamW; no moving average.

The usual one is what most projects start from: a Dataset of single PIL images, torchvision
transforms (flip, affine, ToTensor, Normalize), a shuffled DataLoader with a worker for each core,
which live on between epochs, pinned memory on a GPU, the default memory format, float32 (on a GPU
with PyTorch's default: convolutions in TF32), plain AdamW, loss and accuracy summed by `.item()`.
Its network is written as usual, too: ReLU before pooling, and timm's two attention layers of CBAM
in the place of ours. What that makes of the ratio shows in one more process, the usual loop with
our network.

Both clip the gradient, leave out the last incomplete batch, and draw the same operations as often
and as far; neither validates or writes anything. The parts: the input pipeline alone (batches ready
for the model, on its device), and the model alone (forward, backward and update on one batch, again
and again).

Each side runs as its user runs it, in a process of its own with as many threads as cores: a freshly
spawned one, so that neither sees the memory and the settings of the other (`Learner` has glibc
keep the memory of freed tensors, which the usual loop does not). Ours in float32 is a third. All
live from the first round to the last and work strictly in turn, the others idle meanwhile. Every
part runs once in each round, one after the other; the first round is not counted. The time is taken
inside the process. A rate is the median over the rounds; a ratio is taken within each round.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from statistics import median

import torch
from augmentation import AFFINE, compare_augmentation
from measure import Apart, cores, environment, in_turn, table
from PIL import Image
from timm.layers.cbam import ChannelAttn, SpatialAttn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fer_lib.batches import training_rows
from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.data.sample import make_sample
from fer_lib.learner import Learner
from fer_lib.models import MODULES, create_model
from fer_lib.models.cnn import ChannelAttention, SpatialAttention

IMAGES = {"cpu": 1024, "cuda": 16384}  # an epoch of seconds, not of minutes


class Singles(Dataset):
    """Training faces one by one, through PIL and torchvision: float32 (C, H, W) and its label."""

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
        # After the affine map, where they cost least: if unequal, then in the usual loop's favour.
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
    """Exchange layers of one of our networks for the usual ones; what it computes stays the same.

    But for a batch norm of one channel that timm's spatial attention has.
    """
    for part in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for place, (layer, after) in enumerate(zip_longest(part, list(part)[1:])):
            if isinstance(layer, nn.MaxPool2d) and isinstance(after, nn.ReLU):
                part[place], part[place + 1] = after, layer
            elif isinstance(layer, ChannelAttention):
                part[place] = ChannelAttn(layer.fc1.in_channels, rd_channels=layer.fc1.out_channels)
            elif isinstance(layer, SpatialAttention):
                part[place] = SpatialAttn()


class Usual:
    """The usual loop and its parts; each returns the number of images it went through."""

    precision = "float32"

    def __init__(
        self,
        config: TrainConfig,
        faces: FaceSet,
        device: torch.device,
        workers: int,
        our_network: bool = False,
    ):
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        net = create_model(config.model, num_classes=len(faces.classes), **config.options)
        if not our_network:
            written_as_usual(net)
        data = Singles(faces, config, net.pretrained_cfg)
        self.net = net.to(device).train()
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.loader = DataLoader(
            data,
            config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        images, labels = default_collate([data[row] for row in range(config.batch_size)])
        self.batch = images.to(device), labels.to(device)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip_grad)
        self.optimizer.step()
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


class Ours:
    """The loop of the project and its parts, as in `Usual`."""

    def __init__(self, config: TrainConfig, faces: FaceSet):
        self.learner = Learner(config, faces)
        self.device = self.learner.device
        self.precision = self.learner.precision.replace("no", "float32")
        self.epoch = 0
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        images, self.targets = next(self.learner.batches.epoch(0))
        self.batch = self.prepare(images)

    def prepare(self, images: Tensor) -> Tensor:
        augmentation = self.learner.config.augmentation
        return self.learner.prepare(images, augmentation, self.generator)

    def loop(self) -> int:
        seen = self.learner.train_epoch(self.epoch)["train_images"]
        self.epoch += 1
        return seen

    def input(self) -> int:
        return sum(len(self.prepare(images)) for images, _ in self.learner.batches.epoch(0))

    def model(self) -> int:
        steps = len(self.learner.batches)
        for _ in range(steps):
            self.learner.step(self.batch, self.targets, {})
        return steps * len(self.targets)


def compare(model: str, images: int, batch_size: int, rounds: int) -> str:
    """Measure both loops and their parts with one model: a heading, a table, and a remark."""
    config = TrainConfig(
        model=model,
        limit=images,
        batch_size=batch_size,
        schedule="constant",
        clip_grad=1.0,
        augmentation=AFFINE,
    )
    faces = make_sample(max(100, images * 4 // 3))  # four in five are for training
    with ExitStack() as running:
        ours = running.enter_context(Apart(Ours, config, faces))
        device, precision = ours.device, ours.precision
        usual = running.enter_context(Apart(Usual, config, faces, device, cores()))
        mixed = running.enter_context(Apart(Usual, config, faces, device, cores(), True))
        parts = {}
        for part in ("loop", "input", "model"):
            parts[f"ours {part}"] = partial(ours.rate, part)
            parts[f"usual {part}"] = partial(usual.rate, part)
        parts["mixed loop"] = partial(mixed.rate, "loop")
        if precision != "float32":
            single = replace(config, precision="no")
            float32 = running.enter_context(Apart(Ours, single, faces))
            parts["ours float32"] = partial(float32.rate, "model")
        rates = in_turn(parts, rounds)
    rows = {
        "whole loop": (rates["ours loop"], rates["usual loop"]),
        "whole loop, the usual one with our network": (rates["ours loop"], rates["mixed loop"]),
        "input alone": (rates["ours input"], rates["usual input"]),
        f"model alone, ours in {precision}": (rates["ours model"], rates["usual model"]),
    }
    if precision != "float32":
        rows["model alone, ours in float32"] = (rates["ours float32"], rates["usual model"])
    reached = {
        side: median(rates[f"{side} loop"]) / median(rates[f"{side} model"])
        for side in ("ours", "usual")
    }
    heading = (
        f"{model} on {device.type}: images/s in batches of {batch_size}, {images:,} drawn faces "
        f"({faces.mark}), {rounds} rounds, a process for each side with {cores()} threads, "
        f"{cores()} workers in the usual loop"
    )
    remark = (
        f"Of the speed of its model alone, our loop reaches {reached['ours']:.0%} and the usual "
        f"one {reached['usual']:.0%}: no faster input could win more than the rest."
    )
    return "\n\n".join([heading, table(rows, "ours", "usual"), remark])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", default=["baseline_cnn"], choices=sorted(MODULES), metavar="MODEL")
    add("--images", type=int, help="training faces; default 1,024, on a GPU 16,384")
    add("--batch-size", type=int, default=64)
    add("--rounds", type=int, default=3)
    add("--augmentation", action="store_true", help="measure the augmentation alone instead")
    args = parser.parse_args(arguments)
    images = args.images or IMAGES["cuda" if torch.cuda.is_available() else "cpu"]
    if args.rounds < 1 or not 1 <= args.batch_size <= images:
        parser.error("--rounds must be 1 or more, and --images at least --batch-size")
    print(environment(), flush=True)
    if args.augmentation:
        print(f"\n{compare_augmentation(images, args.rounds)}")
        return
    for model in args.models:
        print(f"\n{compare(model, images, args.batch_size, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
