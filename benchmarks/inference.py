"""Compare the speed of prediction by torch and by ONNX, in batches and one image at a time.

    python benchmarks/inference.py
    python benchmarks/inference.py --model vit_cnn --batch-sizes 1 32 --rounds 5
    python benchmarks/inference.py --agree                # no timing: every model at its size

Both go from uint8 faces to class probabilities, without mirror images. The torch side is
`fer_lib.batches.probabilities`, which evaluation uses, in float32 and in the precision that
training would choose. The ONNX side is one graph that includes preparation and softmax and takes
any batch size, run in float32 by onnxruntime. Both find the faces on their device and leave the
answers there. On a GPU, float32 is without TF32 on both sides; if onnxruntime offers no GPU, ONNX
runs on the CPU, as the heading says.

The network is not trained, but fitted to drawn faces: with random weights it gives nearly the same
answer to all, and any two networks agree. Before anything is timed, both sides must agree on 64
drawn faces. `--agree` prints by how much they differ for every model at its published size, and
times nothing.

All ways run in turn in one process, each with as many threads as cores: threads without work fall
asleep within milliseconds. The first round is not counted. A rate is the median over the rounds; a
ratio is taken within each round. One at a time, only an eighth of the faces is predicted, which
takes long enough.
"""

import argparse
from copy import deepcopy
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from measure import cores, drawn, environment, in_turn, positive, rate, synchronize, table
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.data.sample import make_sample
from fer_lib.device import choose_precision, keep_memory, plain_attention
from fer_lib.labels import EMOTIONS
from fer_lib.models import MODULES, create_model
from fer_lib.predict.description import Description
from fer_lib.predict.onnx import Graph, export, providers

IMAGES = {"cpu": 1024, "cuda": 16384}  # each part then takes seconds
CHECKED, TOLERANCE = 64, 1e-4  # faces to compare; largest difference of a probability
AGREE, LARGE, AGREE_LARGE = 256, 50e6, 16  # faces; parameters of a large model, its faces
MODELS = [name for name in MODULES if name != "vit_moe"]  # whose ONNX graph computes every expert
NEEDED = ("onnx", "onnxruntime", "onnxscript")


class Fitted(nn.Module):
    """A model with random weights whose logits have mean 0 and standard deviation 1 over `faces`.

    Args:
        faces: (B, 1, 48, 48) uint8.
    """

    def __init__(self, name: str, faces: Tensor):
        super().__init__()
        torch.manual_seed(0)
        self.net = create_model(name)
        self.name, self.pretrained_cfg = name, self.net.pretrained_cfg
        images = Prepare(self.pretrained_cfg)(faces)
        norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in norms:
            module.momentum = None  # take the statistics of these faces alone
        with torch.no_grad():
            if norms:
                self.net.train()(images)
            deviation, mean = torch.std_mean(self.eval().net(images), 0)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        return (self.net(images) - self.mean) / self.deviation


class InTorch:
    """Prediction as in evaluation: images (N, 1, 48, 48) uint8 to (N, classes) float32."""

    def __init__(self, model: Fitted, device: torch.device, precision: str):
        self.device, self.precision = device, precision
        self.model = deepcopy(model).to(device, memory_format=torch.channels_last)
        if device.type == "cpu" and precision == "bf16":
            plain_attention(self.model)
        self.prepare = Prepare(model.pretrained_cfg, device)

    def __call__(self, images: Tensor, size: int) -> Tensor:
        options = {"batch_size": size, "precision": self.precision}
        return probabilities(self.model, images, self.prepare, **options)


class InOnnx:
    """The same from ONNX, on the GPU if there is one and onnxruntime offers it, else on the CPU.

    Raises:
        SystemExit: onnxruntime offers the GPU but cannot use it.
    """

    def __init__(self, model: Fitted, device: torch.device):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        graph, wanted = Graph(model, Description(model.name, EMOTIONS)), providers()
        self.session = onnxruntime.InferenceSession(export(graph), options, wanted)
        self.provider = self.session.get_providers()[0]
        self.device = torch.device("cpu") if self.provider.startswith("CPU") else device
        if self.provider != wanted[0][0]:
            cuda = torch.version.cuda
            raise SystemExit(f"onnxruntime cannot use the GPU: install one made for CUDA {cuda}")

    def __call__(self, images: Tensor, size: int) -> Tensor:
        import onnxruntime

        classes = self.session.get_outputs()[0].shape[1]
        answers = torch.empty(len(images), classes, device=self.device)
        binding, place = self.session.io_binding(), (self.device.type, 0)
        options = onnxruntime.RunOptions()  # like torch, do not wait for the batch before
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for some, mine in zip(images.split(size), answers.split(size), strict=True):
            binding.bind_input("faces", *place, np.uint8, some.shape, some.data_ptr())
            binding.bind_output("probabilities", *place, np.float32, mine.shape, mine.data_ptr())
            self.session.run_with_iobinding(binding, options)
        return answers


def difference(one: InTorch, other: InOnnx, faces: Tensor) -> float:
    """Return the largest difference of a probability between the two sides."""
    answers = []
    for side in (one, other):
        answer = side(faces.to(side.device), len(faces))
        synchronize(side.device)  # onnxruntime has a stream of its own
        answers.append(answer.cpu())
    return (answers[0] - answers[1]).abs().max().item()


def check(one: InTorch, other: InOnnx, faces: Tensor) -> None:
    """End the script with a message unless both sides give the same probabilities."""
    apart = difference(one, other, faces)
    if not apart <= TOLERANCE:
        raise SystemExit(
            f"the probabilities of torch and ONNX differ by up to {apart:.1e}, more than "
            f"{TOLERANCE:.0e}: the two are not the same function, and nothing was timed"
        )


def agree(name: str, device: torch.device) -> str:
    """Return a line on how much torch and ONNX differ for a model."""
    faces = torch.from_numpy(make_sample(AGREE).images)
    large = sum(weight.numel() for weight in create_model(name).parameters()) >= LARGE
    faces = faces[: AGREE_LARGE if large else AGREE]
    model = Fitted(name, faces)
    apart = difference(InTorch(model, device, "no"), InOnnx(model, device), faces)
    return f"{name}: probabilities of {len(faces)} drawn faces differ by up to {apart:.1e}"


def timed(side: InTorch | InOnnx, images: Tensor, size: int) -> float:
    """Predict images in batches of `size`; return images per second."""
    return rate(lambda: len(side(images, size)), side.device)


def compare(model: str, images: int, sizes: list[int], rounds: int, device: torch.device) -> str:
    """Measure all ways with one model; return a heading and its Markdown tables."""
    faces = torch.from_numpy(drawn(images).images)
    fitted = Fitted(model, faces[:CHECKED])
    onnx = InOnnx(fitted, device)
    precisions = dict.fromkeys(("no", choose_precision()))
    ways = {f"torch {p.replace('no', 'float32')}": InTorch(fitted, device, p) for p in precisions}
    check(ways["torch float32"], onnx, faces[:CHECKED])
    parts = {}
    for way, side in {**ways, "ONNX float32": onnx}.items():
        mine = faces[:images].to(side.device)
        for size in sizes:
            some = mine[: max(1, images // 8) if size == 1 else images // size * size]
            parts[way, size] = partial(timed, side, some, size)
    rates = in_turn(parts, rounds)
    against = {f"{w}, {n}": (rates[w, n], rates["ONNX float32", n]) for w in ways for n in sizes}
    single = {f"{w}, {n}": (rates[w, n], rates[w, 1]) for w, n in parts if n > 1}
    heading = (
        f"{model} on {device.type}: images/s of prediction by batch size, {images:,} drawn faces "
        f"(sample data), {rounds} rounds, {cores()} threads, precision of training "
        f"{list(ways)[-1].split()[1]}, ONNX on {onnx.device.type} by {onnx.provider}"
    )
    tables = [table(single, "in batches", "one at a time")]
    if onnx.device == device:  # not a GPU with a CPU
        tables.insert(0, table(against, "torch", "ONNX"))
    return "\n\n".join([heading, *tables])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="attention_cnn", choices=MODELS, metavar="MODEL")
    add("--batch-sizes", type=positive, nargs="+", default=[1, 8, 64, 512])
    add("--images", type=positive, help="faces; default 1,024, on a GPU 16,384")
    add("--rounds", type=positive, default=3)
    add("--agree", action="store_true", help="only print how much torch and ONNX differ")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = IMAGES[device.type] if args.images is None else args.images
    sizes = sorted({1, *args.batch_sizes})
    if sizes[-1] > images:
        parser.error("--images must be at least the largest batch")
    if missing := [name for name in NEEDED if not find_spec(name)]:
        parser.exit(1, f"{', '.join(missing)} missing: pip install -e '.[onnx]'\n")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(cores())
    keep_memory()
    print(environment(), flush=True)
    if args.agree:
        for name in MODULES:
            print(agree(name, device), flush=True)
        return
    print(f"\n{compare(args.model, images, sizes, args.rounds, device)}")


if __name__ == "__main__":
    main()
