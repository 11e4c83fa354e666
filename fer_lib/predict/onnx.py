"""Predictors as ONNX files: one graph from uint8 faces to probabilities, for any batch size."""

import json
import math
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
NEVER = 2.0  # threshold in a file if no answer counts as sure: no probability reaches it
INSTALL = "pip install onnx onnxruntime onnxscript"  # the extra "onnx"
# onnxruntime 1.32 reports its use to its makers from its first import on, unless this is set then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}
"""Providers of onnxruntime, the preferred one first, in float32; others round differently."""


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
    """`SparseExperts` in which every expert computes every image; equal up to rounding.

    An expert to which an image is not routed has a gate of 0. The exporter needs to know all shapes
    in advance, but how many images go to each expert is known only when the graph runs.
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
    """Return `graph` as the bytes of an ONNX model.

    Its input "faces" is (B, *image) uint8 with any B, its output "probabilities" (B, K).

    Args:
        image: (C, H, W) of a face.
        about: text that the file keeps in its metadata, under "fer_lib".

    Raises:
        ImportError: a package that the export needs is missing.
        RuntimeError: the exporter has fixed the number of faces.
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


def written(about: Description) -> str:
    """Return a description as JSON, which knows no infinity: the threshold is 2 in its place."""
    fields = asdict(about)
    if about.threshold is not None:
        fields["threshold"] = min(about.threshold, NEVER)
    return json.dumps(fields, allow_nan=False)


def parsed(text: str) -> Description:
    """Return the description that a file has as JSON."""
    fields = json.loads(text)
    fields |= {key: tuple(fields[key]) for key in ("classes", "image")}
    if (fields["threshold"] or 0) >= NEVER:  # in files of earlier versions Infinity
        fields["threshold"] = math.inf
    return Description(**fields)


def write_onnx(path: str | Path, predictor: "Predictor") -> None:
    """Export a torch predictor, with its classes and calibration, to an ONNX file.

    The file is written whole or not at all.

    Raises:
        InputError: the predictor is an ONNX file already, a package that the export needs is
            missing, the exporter does not know a part of the network, or the file cannot be
            written.
    """
    if predictor.model is None:
        raise InputError(f"{predictor.name} is an ONNX file already: export a run or its weights")
    about = written(predictor.about)
    try:
        data = export(Graph(predictor.model, predictor.about), predictor.about.image, about)
    except ImportError as error:
        raise InputError(f"{error.name} is missing: {INSTALL}") from error
    except RuntimeError as error:  # as torch's exporter raises where it knows no operator
        raise InputError(
            f"{predictor.name} cannot be exported to ONNX ({first_line(error)}): use it as it is"
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def providers() -> list[tuple[str, dict[str, int]]]:
    """Return those of `PROVIDERS` that are available here, with their options."""
    import onnxruntime

    here = set(onnxruntime.get_available_providers())
    if not torch.cuda.is_available():
        here.discard("CUDAExecutionProvider")
    if "CUDAExecutionProvider" in here:
        onnxruntime.preload_dlls()  # CUDA and cuDNN that torch brings
    return [(name, options) for name, options in PROVIDERS.items() if name in here]


class Onnx:
    """An exported file that onnxruntime runs.

    Calling it with faces (N, C, H, W) uint8 gives probabilities (N, K) float32, both on the CPU.

    Raises:
        InputError: onnxruntime is missing, or the file cannot be read as an ONNX model; in a call,
            the faces have another shape than those that the network was trained on.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path} needs onnxruntime: pip install onnxruntime") from None
        try:
            self.session = onnxruntime.InferenceSession(path, providers=providers())
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = first_line(error)
            raise InputError(f"{path} cannot be read as an ONNX model ({reason})") from error
        self.path = path

    def __call__(self, images: Tensor) -> Tensor:
        given, image = tuple(images.shape[1:]), tuple(self.session.get_inputs()[0].shape[1:])
        if given != image:
            raise InputError(
                f"{self.path} is an ONNX file, whose faces are {image}, not {given}: resize or "
                "convert them"
            )
        parts = [
            torch.from_numpy(self.session.run(None, {"faces": some.numpy()})[0])
            for some in images.contiguous().split(BATCH)
        ]
        return torch.cat(parts)


def read_onnx(path: Path) -> tuple[Onnx, Description]:
    """Read a file that `write_onnx` wrote: the network and its description.

    Raises:
        InputError: onnxruntime is missing, or the file cannot be read or was not exported by
            fer_lib.
    """
    network = Onnx(path)
    about = network.session.get_modelmeta().custom_metadata_map.get("fer_lib")
    if not about:
        raise InputError(f"{path} was not exported by fer_lib: it does not name its classes")
    return network, parsed(about)
