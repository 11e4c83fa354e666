"""Predictors as ONNX: from uint8 faces to class probabilities in one graph of any batch size."""

import json
import os
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.files import InputError, first_line, replacing
from fer_lib.models.moe import Routing, SparseExperts
from fer_lib.predict.description import Description, tempered

if TYPE_CHECKING:
    from fer_lib.predict.predictor import Predictor

BATCH = 256  # images at a time
INSTALL = "pip install onnx onnxruntime onnxscript"  # the extra "onnx"
# onnxruntime 1.32 reports its use to its makers from the first import on; it reads this then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}
"""Where onnxruntime may compute, the first that it has, in float32; others round otherwise."""


class Graph(nn.Module):
    """What an exported file computes: faces (B, C, H, W) uint8 -> probabilities (B, K) float32."""

    def __init__(self, model: nn.Module, about: Description):
        super().__init__()
        self.net = deepcopy(model).cpu()
        self.prepare = Prepare(model.pretrained_cfg)
        self.flip, self.temperature = about.flip, about.temperature
        self.eval()

    def forward(self, faces: Tensor) -> Tensor:
        views = (faces, faces.flip(3)) if self.flip else (faces,)
        p = torch.stack([self.net(self.prepare(view)).softmax(1) for view in views]).mean(0)
        return tempered(p, self.temperature)


class AllExperts(nn.Module):
    """`SparseExperts` with every image in every expert and gates of 0: the same to rounding.

    How many images go to each expert is known only when the graph runs, and the exporter wants
    shapes that are known before.
    """

    def __init__(self, sparse: SparseExperts):
        super().__init__()
        self.sparse = sparse

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        routing = self.sparse.route(x)
        weight1, bias1, weight2, bias2 = self.sparse.stacked()
        hidden = nn.functional.gelu(torch.einsum("bd,edh->beh", x, weight1) + bias1)
        y = torch.einsum("beh,ehd->bed", hidden, weight2) + bias2
        return torch.einsum("be,bed->bd", routing.dense, y), routing


def export(graph: nn.Module, image: tuple[int, ...] = (1, 48, 48), about: str = "") -> bytes:
    """An ONNX model of `graph`, from "faces" (B, *image) uint8 to "probabilities", B any.

    Args:
        about: text that the file keeps under "fer_lib".
    """
    import onnx

    for name, part in list(graph.named_modules()):
        if isinstance(part, SparseExperts):
            graph = deepcopy(graph)
            graph.set_submodule(name, AllExperts(graph.get_submodule(name)))
    program = torch.onnx.export(
        graph,
        (torch.zeros(2, *image, dtype=torch.uint8),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["faces"],
        output_names=["probabilities"],
        verbose=False,
    )
    proto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise RuntimeError("the exporter has fixed the number of faces: a size became a constant")
    onnx.helper.set_model_props(proto, {"fer_lib": about})
    return proto.SerializeToString()


def write_onnx(path: str | Path, predictor: "Predictor") -> None:
    """Export a torch predictor, with its classes and calibration, all or nothing.

    Raises:
        InputError: it is an ONNX file already, or the packages for it are missing.
    """
    if predictor.model is None:
        raise InputError(f"{predictor.name} is an ONNX file already: export a run or its weights")
    about = json.dumps(asdict(predictor.about))
    try:
        data = export(Graph(predictor.model, predictor.about), predictor.about.image, about)
    except ImportError as error:
        raise InputError(f"{error.name} is missing: {INSTALL}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def providers() -> list[tuple[str, dict[str, int]]]:
    """Those of `PROVIDERS` that can be had here, with their options."""
    import onnxruntime

    here = set(onnxruntime.get_available_providers())
    if not torch.cuda.is_available():
        here.discard("CUDAExecutionProvider")
    if "CUDAExecutionProvider" in here:
        onnxruntime.preload_dlls()  # CUDA and cuDNN that torch brings
    return [(name, options) for name, options in PROVIDERS.items() if name in here]


class Onnx:
    """An exported file by onnxruntime: (N, C, H, W) uint8 -> (N, K) float32, both on the CPU."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path} needs onnxruntime: pip install onnxruntime") from None
        try:
            self.session = onnxruntime.InferenceSession(path, providers=providers())
        except Exception as error:  # its own exceptions share no base
            reason = first_line(error)
            raise InputError(f"{path} cannot be read as an ONNX model ({reason})") from error

    def __call__(self, images: Tensor) -> Tensor:
        parts = [
            torch.from_numpy(self.session.run(None, {"faces": some.numpy()})[0])
            for some in images.contiguous().split(BATCH)
        ]
        return torch.cat(parts)


def read_onnx(path: Path) -> tuple[Onnx, Description]:
    """A file that `write_onnx` wrote, and what it says of itself."""
    network = Onnx(path)
    about = network.session.get_modelmeta().custom_metadata_map.get("fer_lib")
    if not about:
        raise InputError(f"{path} was not exported by fer_lib: it does not name its classes")
    fields = json.loads(about)
    fields |= {key: tuple(fields[key]) for key in ("classes", "image")}
    return network, Description(**fields)
