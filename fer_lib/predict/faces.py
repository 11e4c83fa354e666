"""Find faces in a picture, and crop them as the training images are cropped.

There are two detectors, both of OpenCV. YuNet (https://doi.org/10.1007/s11633-023-1423-y) is a
small network, whose file is given or is downloaded once, from Hugging Face. If it is not available,
the Haar cascade (Viola and Jones, https://doi.org/10.1109/CVPR.2001.990517) inside OpenCV's package
is used.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from fer_lib.files import InputError, exists, expanded, first_line, sha256

YUNET_REPOSITORY = "opencv/face_detection_yunet"
YUNET = "face_detection_yunet_2023mar.onnx"  # 0.2 MB, MIT licence
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
LONGEST = (1280, 320)  # pixels: YuNet finds faces of 10 to 300, so larger ones only when shrunk
SMALLEST = 64  # pixels of a side of the input
SCORE = 0.7
OVERLAP = 0.3  # intersection over union from which two boxes are one face: OpenCV's default
NOTHING = np.empty(0, np.uint8)  # YuNet has no file of settings
INSIDE = 0.7  # share of a box's area in a larger box from which it is a part of that face


class Box(NamedTuple):
    """The box around a face, in pixels; x and y count from the picture's upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Found:
    """A face that was found, with the detector's confidence: 0 to 1, or None if it gives none."""

    box: Box
    confidence: float | None


class YuNet:
    """OpenCV's face detector YuNet, loaded from its ONNX file.

    Attributes:
        scale: side of the square around a box that a training image would show, divided by the
            longer side of the box.

    Raises:
        InputError: the file cannot be read as YuNet's weights.
    """

    scale = 0.95  # benchmarks/framing.py

    def __init__(self, path: str | Path):
        self.name = f"YuNet ({path})"
        self.lock = Lock()  # the detector has one input size, which a call sets
        try:
            # From memory: OpenCV itself cannot open every path of Windows.
            data = np.fromfile(path, np.uint8)
            self.network = cv2.FaceDetectorYN.create("onnx", data, NOTHING, (320, 320), SCORE)
            self.network.detect(np.zeros((320, 320, 3), np.uint8))  # loading accepts any network
        except (cv2.error, OSError) as error:
            raise InputError(
                f"{path} cannot be read as YuNet's weights: give {YUNET} from OpenCV's model zoo"
            ) from error

    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces in an RGB picture (H, W, 3) uint8, the largest first."""
        rows = []
        for scale in sorted({min(1.0, longest / max(picture.shape[:2])) for longest in LONGEST}):
            height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
            small = picture if scale == 1 else cv2.resize(picture, (width, height), interpolation=3)
            # OpenCV returns boxes from uninitialised memory if a side has 32 pixels or fewer.
            margins = (0, max(0, SMALLEST - height), 0, max(0, SMALLEST - width))
            small = cv2.copyMakeBorder(small, *margins, cv2.BORDER_CONSTANT)
            with self.lock:
                self.network.setInputSize((small.shape[1], small.shape[0]))
                found = self.network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
            for row in () if found is None else found:
                rows.append((*(row[:4] / scale), row[-1]))
        return sorted_boxes(merged(rows), picture.shape)


class Cascade:
    """The Haar cascade in OpenCV's package, which finds upright, frontal faces only.

    `scale` has the same meaning as in `YuNet`.

    Raises:
        InputError: this version of OpenCV has no cascades.
    """

    scale = 1.0  # benchmarks/framing.py
    name = "Haar cascade (inside OpenCV)"

    def __init__(self) -> None:
        file = "haarcascade_frontalface_alt2.xml"
        if not hasattr(cv2, "CascadeClassifier"):
            raise InputError(
                f"OpenCV {cv2.__version__} has no Haar cascades: install "
                f"opencv-python-headless<5, or give {YUNET} with --detector"
            )
        self.lock = Lock()
        text = Path(cv2.data.haarcascades, file).read_text("utf-8")
        stored = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        self.cascade = cv2.CascadeClassifier()
        self.cascade.read(stored.getFirstTopLevelNode())

    def __call__(self, picture: np.ndarray) -> list[Found]:
        """Faces in an RGB picture (H, W, 3) uint8, the largest first."""
        scale = min(1.0, LONGEST[0] / max(picture.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        with self.lock:
            boxes = self.cascade.detectMultiScale(
                grey, scaleFactor=1.1, minNeighbors=4, minSize=(40, 40)
            )
        return sorted_boxes([(*(box / scale), None) for box in boxes], picture.shape)


Detector = YuNet | Cascade


def merged(rows: list[tuple]) -> list[tuple]:
    """Reduce rows (x, y, width, height, confidence) to one for each face.

    Of two boxes that overlap, the one with the higher confidence stays. If a box lies mostly inside
    another, the outer one stays: the inner one is a part of a face that is too large for the scale
    at which the part was found.
    """
    surest = cv2.dnn.NMSBoxes([row[:4] for row in rows], [row[4] for row in rows], SCORE, OVERLAP)
    kept: list[tuple] = []
    for row in sorted((rows[number] for number in surest), key=lambda row: -row[2] * row[3]):
        if all(inside(row, outer) < INSIDE for outer in kept):
            kept.append(row)
    return kept


def shared(one: tuple, other: tuple) -> float:
    """Return the area that two boxes (x, y, width, height, …) have in common."""
    width, height = (
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis])
        for axis in (0, 1)
    )
    return max(0.0, width) * max(0.0, height)


def inside(row: tuple, outer: tuple) -> float:
    """Return the share of a box's area that lies in another box, 0 to 1."""
    return shared(row, outer) / (row[2] * row[3])


def sorted_boxes(rows: Iterable[tuple], shape: tuple[int, ...]) -> list[Found]:
    """Turn rows (x, y, width, height, confidence) into boxes of whole pixels inside the picture.

    Args:
        shape: shape of the picture, (H, W, ...).

    Returns:
        The boxes that are not empty, the largest first.
    """
    found = []
    for x, y, width, height, confidence in rows:
        left, top = max(0, round(float(x))), max(0, round(float(y)))
        right = min(shape[1], round(float(x + width)))
        bottom = min(shape[0], round(float(y + height)))
        if right > left and bottom > top:
            box = Box(left, top, right - left, bottom - top)
            found.append(Found(box, None if confidence is None else float(confidence)))
    return sorted(found, key=lambda one: -one.box.width * one.box.height)


def make_detector(choice: str | Path | None = None, say: Callable[[str], None] = print) -> Detector:
    """Make the detector that is asked for, or else the best one available, and say which it is.

    Args:
        choice: path of YuNet's file, "yunet" (downloaded if necessary), "haar", or None. None means
            the value of the environment variable FER_DETECTOR; if that is not set, YuNet, or the
            cascade if YuNet is not available.

    Raises:
        InputError: the detector is not available.
    """
    choice = choice or os.environ.get("FER_DETECTOR") or None
    if choice == "haar":
        detector: Detector = Cascade()
    elif choice not in (None, "yunet"):
        path = expanded(choice)
        if not (exists(path) and path.is_file()):
            raise InputError(f"the detector {path} does not exist: give YuNet's file, or haar")
        detector = YuNet(path)
    else:
        try:
            detector = YuNet(fetch_yunet())
        except InputError as error:
            if choice == "yunet":
                raise
            say(str(error))
            detector = Cascade()
    say(f"faces are found by {detector.name}")
    return detector


def fetch_yunet() -> Path:
    """Return the path of YuNet's file in Hugging Face's cache; download it if it is not there.

    Raises:
        InputError: it cannot be downloaded, or what is there has another SHA-256.
    """
    import huggingface_hub as hub  # takes half a second, and not every prediction looks for faces

    try:
        path = hub.try_to_load_from_cache(YUNET_REPOSITORY, YUNET)
        if not isinstance(path, str):  # None, or a mark that the server had no such file
            # Without a connection this fails at once; a download would be tried for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(YUNET_REPOSITORY, YUNET), timeout=5)
            path = hub.hf_hub_download(YUNET_REPOSITORY, YUNET)
        if sha256(path) == YUNET_SHA256:
            return Path(path)
        reason = f"{path} has another SHA-256: delete it"
    except Exception as error:  # of the cache, the connection or the server
        reason = first_line(error)
    raise InputError(
        f"YuNet could not be fetched ({reason}): get {YUNET} elsewhere and give it with --detector "
        "or FER_DETECTOR, or use the Haar cascade with --detector haar or FER_DETECTOR=haar"
    )


def crop(picture: Image.Image, box: Box, scale: float, image: tuple[int, int, int]) -> np.ndarray:
    """Crop the square around a box, as a training image would show it.

    The square has the centre of the box. Outside the picture, the picture's edge is repeated.

    Args:
        scale: side of the square, divided by the longer side of the box.
        image: shape (C, H, W) of the result; C is 1 (grey) or 3 (RGB).

    Returns:
        (C, H, W) uint8.
    """
    side = scale * max(box.width, box.height)
    left = box.x + box.width / 2 - side / 2
    top = box.y + box.height / 2 - side / 2
    x0, y0 = int(np.floor(left)), int(np.floor(top))
    x1, y1 = int(np.ceil(left + side)), int(np.ceil(top + side))
    rows = np.arange(y0, y1).clip(0, picture.height - 1)
    columns = np.arange(x0, x1).clip(0, picture.width - 1)
    part = np.asarray(picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    square = Image.fromarray(part[rows - rows[0]][:, columns - columns[0]])
    window = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    size = image[2], image[1]
    return pixels(square.resize(size, Image.Resampling.LANCZOS, box=window), image[0])


def pixels(picture: Image.Image, channels: int) -> np.ndarray:
    """Return a picture as (channels, H, W) uint8: 1 is grey (ITU-R 601-2 luma), 3 is RGB."""
    array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
