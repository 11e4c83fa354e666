"""Find how to crop around a detector's box so that crops are framed like the training images.

    python benchmarks/framing.py --data-dir DIR --model runs/FOLDER
    python benchmarks/framing.py --data-dir DIR --model runs/FOLDER --detector haar

FER2013's validation images, drawn by a fixed seed, are enlarged to 240 pixels and put into the
middle of a frame of 640×480 whose background continues their edges, blurred. The detector looks for
the face in this frame. There are two answers:

* How the dataset's images relate to the boxes: the median, over the faces found, of the side of the
  image divided by the longer side of the box, and of how far the middle of the image lies below the
  middle of the box, in heights of the box.
* Accuracy of the model on squares cropped around the boxes, for each `scale`, beside the accuracy
  on the images themselves. A crop that goes beyond the image repeats its edge.

The `scale` of each detector in `fer_lib/predict/faces.py` is near both answers, where the
accuracy is level.

Real pictures are larger than what FER2013 keeps of them, so a detector sees less here than it does
in use: the share of faces found is a lower bound.
"""

import argparse

import cv2
import numpy as np
from measure import environment, positive
from PIL import Image

from fer_lib.data import load_faces
from fer_lib.files import InputError
from fer_lib.predict import Predictor
from fer_lib.predict.faces import Box, crop

SIDE, WIDTH, HEIGHT = 240, 640, 480
SCALES = (0.8, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3, 1.4)


def frame(tile: np.ndarray) -> np.ndarray:
    """Put an image (240, 240) uint8 into the middle of a frame (480, 640, 3) uint8."""
    rows, columns = (HEIGHT - SIDE) // 2, (WIDTH - SIDE) // 2
    wide = cv2.copyMakeBorder(tile, rows, rows, columns, columns, cv2.BORDER_REPLICATE)
    wide = cv2.GaussianBlur(wide, (0, 0), SIDE / 12)
    wide[rows : rows + SIDE, columns : columns + SIDE] = tile
    return np.repeat(wide[..., None], 3, axis=2)


def box_in(predictor: Predictor, tile: np.ndarray) -> Box | None:
    """Find the largest box in the frame, in pixels from the image's corner; None without a face."""
    found = predictor.detector(frame(tile))
    if not found:
        return None
    box = found[0].box
    return box._replace(x=box.x - (WIDTH - SIDE) // 2, y=box.y - (HEIGHT - SIDE) // 2)


def accuracy(predictor: Predictor, images: np.ndarray, labels: np.ndarray) -> float:
    return float((predictor.probabilities(images).argmax(1) == labels).mean())


def compare(predictor: Predictor, images: np.ndarray, labels: np.ndarray) -> str:
    """Return both answers as Markdown.

    Args:
        images: (N, 1, 48, 48) uint8.
        labels: (N,).

    Raises:
        InputError: no face was found in any image.
    """
    big = [cv2.resize(image[0], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for image in images]
    boxes = [box_in(predictor, tile) for tile in big]
    found = np.array([box is not None for box in boxes])
    if not found.any():
        raise InputError("no face was found in any image: use another detector, or more images")
    place = np.array([box for box in boxes if box]) / SIDE  # x, y, width, height
    scale = 1 / place[:, 2:].max(1)
    lower = (0.5 - place[:, 1] - place[:, 3] / 2) / place[:, 3]
    low, middle, high = np.quantile(scale, [0.1, 0.5, 0.9])
    lines = [
        f"{found.mean():.1%} of {len(images):,} faces found; scale {middle:.2f} (10 % to 90 %: "
        f"{low:.2f} to {high:.2f}), lower {np.median(lower):+.3f}",
        f"accuracy on the images themselves: {accuracy(predictor, images, labels):.1%}, on those "
        f"with a face found {accuracy(predictor, images[found], labels[found]):.1%}",
        "",
        "| scale | accuracy on the faces found |",
        "|---:|---:|",
    ]
    for scale in SCALES:
        crops = np.array(
            [
                crop(Image.fromarray(tile), box, scale, predictor.about.image)
                for tile, box in zip(big, boxes, strict=True)
                if box
            ]
        )
        lines.append(f"| {scale} | {accuracy(predictor, crops, labels[found]):.1%} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data-dir", help="folder or file of FER2013")
    add("--model", help="run folder, weights file or .onnx; default: the package's model")
    add("--detector", help="yunet, haar, or YuNet's file")
    add("--images", type=positive, default=1200)
    args = parser.parse_args(arguments)
    try:
        faces = load_faces("fer2013", args.data_dir)
        predictor = Predictor.of(args.model, detector=args.detector)
        rows = np.random.default_rng(0).permutation(faces.where("valid"))[: args.images]
        print(f"{environment()}\n\n{predictor.detector.name}, {predictor.name}")
        print(compare(predictor, faces.images[rows], faces.labels[rows]))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
