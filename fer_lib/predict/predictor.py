"""`Predictor`, which finds the faces in pictures and predicts their expressions."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.checkpoints import load_weights
from fer_lib.data.pictures import fit
from fer_lib.device import choose_device, enough_memory, keep_memory
from fer_lib.files import InputError, expanded
from fer_lib.given import given_path
from fer_lib.labels import EMOJI
from fer_lib.predict.description import Description, describe, tempered
from fer_lib.predict.faces import Box, Detector, Found, crop, make_detector, pixels
from fer_lib.predict.inputs import Picture, open_picture
from fer_lib.runs import Run

DEFAULT = Path(__file__).with_name("default.safetensors")
FACES = ("detect", "whole")
FULL = 'end other programs that use it, or use the CPU (--device cpu, in Python device="cpu")'


@dataclass(frozen=True)
class Face:
    """A face, and the expression that a model predicts for it.

    Attributes:
        box: x, y, width and height in pixels of the upright picture.
        probabilities: probability of each class, by its name; they sum to 1.
        expression: the most probable class.
        emoji: the emoji of the expression.
        sure: whether the probability of the expression is at least the predictor's threshold.
        confidence: the detector's confidence that this is a face, 0 to 1; None if it gives none, or
            if no detector was used.
        crop: (C, H, W) uint8, the face as it was given to the model.
    """

    box: Box
    probabilities: dict[str, float]
    expression: str
    emoji: str
    sure: bool
    confidence: float | None
    crop: np.ndarray = field(repr=False, compare=False)

    @property
    def probability(self) -> float:
        """Probability of the expression."""
        return self.probabilities[self.expression]


class Torch:
    """A network and its preparation: uint8 images (N, C, H, W) -> probabilities (N, K).

    Raises:
        InputError: the GPU has too little free memory, for the network or in a call.
    """

    def __init__(self, model: nn.Module, about: Description, device: torch.device):
        keep_memory()
        self.about = about
        with enough_memory(about.name, FULL):
            self.model = model.eval().to(device, memory_format=torch.channels_last)
            self.prepare = Prepare(model.pretrained_cfg, device)

    def __call__(self, images: Tensor) -> Tensor:
        with enough_memory(self.about.name, FULL):
            p = probabilities(self.model, images, self.prepare, flip=self.about.flip)
            return tempered(p, self.about.temperature).cpu()


class Predictor:
    """Finds the faces in pictures and predicts their expressions.

        predictor = Predictor.default()
        for face in predictor("party.jpg"):
            print(face.box, face.expression, face.emoji, face.probability)

    Args:
        network: images (N, C, H, W) uint8 -> probabilities (N, K) float32, both on the CPU.
        about: classes, images and calibration of the network.
        detector: a detector, or the choice that `faces.make_detector` takes; the detector is then
            made when it is first needed.
        say: is called with each remark, such as which detector is used or that the network is not
            calibrated.

    Attributes:
        name, classes: from `about`.
        threshold: from `about`; 0.5 if it is not known.
        model, prepare: the torch model and its preparation, for maps of what it looks at; None
            if the network is an ONNX file.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        about: Description,
        *,
        detector: str | Path | Detector | None = None,
        say: Callable[[str], None] = print,
    ):
        self.network, self.about, self.say = network, about, say
        self.name, self.classes = about.name, about.classes
        self.wanted = detector
        self.model: nn.Module | None = getattr(network, "model", None)
        self.prepare: Prepare | None = getattr(network, "prepare", None)
        self.threshold = 0.5 if about.threshold is None else about.threshold
        if about.threshold is None:
            say(f"{self.name} is not calibrated: answers count as sure from probability 0.5 on")
        elif math.isinf(self.threshold):
            say(f"{self.name} was too often wrong on validation: no answer of it counts as sure")

    @classmethod
    def of(cls, model: str | Path | None = None, **options: Any) -> "Predictor":
        """Make a predictor from a run, a file, or the weights that come with this package.

        Args:
            model: folder of a finished run or its name in `runs/`, weights file
                (.safetensors) or ONNX file; None for the weights of the package.
            options: keyword arguments of `from_file`.

        Raises:
            InputError: the path does not exist, a folder is not that of a finished run or has no
                weights, or as in `from_file`.
        """
        if model is None:
            return cls.default(**options)
        path = given_path(model, "a weights file or the folder of a finished run")
        if path.is_dir():
            run = Run(path)
            run.require_finished()
            path = run.weights
        return cls.from_file(path, **options)

    @classmethod
    def default(cls, **options: Any) -> "Predictor":
        """Make a predictor from the weights that come with this package."""
        return cls.from_file(DEFAULT, **options)

    @classmethod
    def from_file(
        cls, path: str | Path, *, device: str | torch.device | None = None, **options: Any
    ) -> "Predictor":
        """Make a predictor from a weights file of this project or an exported ONNX file.

        Args:
            path: ends with .onnx for an ONNX file; any other file is read as safetensors.
            device: device of a torch model; None for the GPU if there is one, else the CPU. An ONNX
                file does not use it.
            options: `detector` and `say`, as for the class.

        Raises:
            InputError: the file is missing or damaged, comes from a pretraining or from outside
                this project, or is an ONNX file and onnxruntime is missing; or the GPU is not there
                or full.
        """
        path = expanded(path)
        if path.suffix == ".onnx":
            from fer_lib.predict.onnx import read_onnx

            return cls(*read_onnx(path), **options)
        about = describe(path)
        return cls(Torch(load_weights(path), about, choose_device(device)), about, **options)

    @cached_property
    def detector(self) -> Detector:
        """The face detector, made when it is first needed."""
        if self.wanted is None or isinstance(self.wanted, str | Path):
            return make_detector(self.wanted, self.say)
        return self.wanted

    def probabilities(self, faces: np.ndarray | Tensor) -> np.ndarray:
        """Predict the class probabilities of cropped faces.

        Args:
            faces: (N, C, H, W) uint8.

        Returns:
            (N, K) float32.

        Raises:
            InputError: the faces are not uint8, or have not four axes; or the network is an ONNX
                file, and they have another shape than those that it was trained on.
        """
        faces = torch.as_tensor(faces)
        if not len(faces):
            return np.empty((0, len(self.classes)), np.float32)
        if faces.dtype != torch.uint8:
            kind = str(faces.dtype).removeprefix("torch.")
            raise InputError(f"faces are uint8 from 0 to 255, not {kind}: scale and convert them")
        if faces.ndim != 4:
            raise InputError(
                f"faces are (N, C, H, W), not of shape {tuple(faces.shape)}: grey ones too need an "
                "axis of channels, as faces[:, None] adds it"
            )
        return self.network(faces).numpy()

    def __call__(
        self, pictures: Picture | Iterable[Picture], *, faces: str = "detect"
    ) -> list[Face] | list[list[Face]]:
        """Find the faces in one or several pictures and predict their expressions.

        Args:
            pictures: a path, a PIL image, an array (H, W) or (H, W, 1, 3 or 4), RGB, uint8 or
                uint16, or a uint8 tensor (H, W) or (C, H, W); or several of these, whose faces are
                all classified together.
            faces: "detect" looks for faces; "whole" treats every picture as one face.

        Returns:
            The faces of one picture, the largest first; for several pictures a list of such lists.

        Raises:
            InputError: a picture cannot be read or is not a picture, `faces` is unknown, or the
                detector is not available.
        """
        if faces not in FACES:
            raise InputError(f"faces must be one of {', '.join(FACES)}, not {faces!r}")
        several = isinstance(pictures, Iterable) and not isinstance(pictures, str | Image.Image)
        one = not several or getattr(pictures, "ndim", 4) < 4
        places, crops = [], []
        for picture in map(open_picture, [pictures] if one else pictures):  # only one is in memory
            places.append(self.places(picture, faces))
            crops += [self.crop(picture, found, faces) for found in places[-1]]
        every = map(self.face, chain(*places), crops, self.probabilities(np.array(crops)))
        answers = [list(islice(every, len(found))) for found in places]
        return answers[0] if one else answers

    def places(self, picture: Image.Image, faces: str) -> list[Found]:
        """Return the boxes of the faces in a picture: all of it if `faces` is "whole"."""
        if faces == "whole":
            return [Found(Box(0, 0, *picture.size), None)]
        return self.detector(np.asarray(picture.convert("RGB")))

    def crop(self, picture: Image.Image, found: Found, faces: str) -> np.ndarray:
        """Cut out a face as (C, H, W) uint8, like the images that the model was trained on."""
        image = self.about.image
        if faces == "whole":
            return pixels(fit(picture, (image[2], image[1])), image[0])
        return crop(picture, found.box, self.detector.scale, image)

    def face(self, found: Found, shown: np.ndarray, p: np.ndarray) -> Face:
        best = int(p.argmax())
        expression = self.classes[best]
        return Face(
            box=found.box,
            probabilities=dict(zip(self.classes, p.tolist(), strict=True)),
            expression=expression,
            emoji=EMOJI[expression],
            sure=bool(p[best] >= self.threshold),
            confidence=found.confidence,
            crop=shown,
        )

    def __repr__(self) -> str:
        return f"Predictor({self.name})"
