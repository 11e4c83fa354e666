"""Measure the time to find and to classify the face in a frame of 640×480, and the frames a second.

    python benchmarks/predict.py
    python benchmarks/predict.py --model runs/FOLDER --detector face_detection_yunet_2023mar.onnx

This is what a live picture costs without the camera and the page. Frames are grey canvases with one
drawn face each, half as high as the frame; the detectors' time hardly depends on what is in it. By
default both detectors are measured, YuNet if it can be had. Every part runs once before it is
timed. Times are medians over the frames, with the 10th and 90th percentile. "whole" is
`Predictor(frame)`; "mirror" is `Mirror.look(frame)`, which also draws, with as many threads as
torch takes by itself, as on the page. Frames per second follow from the median. The model computes
on the GPU if there is one, the detectors on the CPU.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from measure import environment, positive

from fer_lib.data.drawing import draw
from fer_lib.files import InputError
from fer_lib.mirror import Mirror
from fer_lib.predict import Predictor
from fer_lib.predict.faces import make_detector

THREADS = torch.get_num_threads()  # what torch takes by itself
SIZE, SIDE = (480, 640), 240  # height and width of the frame, side of the face; pixels


def frames(n: int) -> list[np.ndarray]:
    """Make `n` frames (480, 640, 3) uint8, each with a drawn face at a random place."""
    rng = np.random.default_rng(0)
    made = []
    for face in draw(np.arange(n) % 7, 0, size=SIDE)[:, 0]:
        frame = np.full((*SIZE, 3), 128, np.uint8)
        top, left = (int(rng.integers(0, room - SIDE)) for room in SIZE)
        frame[top : top + SIDE, left : left + SIDE] = face[..., None]
        made.append(frame)
    return made


def milliseconds(part: Callable[[Any], Any], inputs: list) -> np.ndarray:
    """Time a call on each input, in milliseconds, after one call that is not counted."""
    part(inputs[0])
    times = []
    for value in inputs:
        start = time.perf_counter()
        part(value)
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times)


def row(title: str, times: np.ndarray) -> str:
    low, middle, high = np.percentile(times, [10, 50, 90])
    return f"| {title} | {middle:.1f} ({low:.1f} to {high:.1f}) | {1000 / middle:.0f} |"


def compare(predictor: Predictor, some: list[np.ndarray], threads: int) -> str:
    """Measure one detector with the model.

    Args:
        threads: threads of torch, except for the mirror.

    Returns:
        Four rows of the Markdown table; the third says how many faces were found.
    """
    torch.set_num_threads(threads)
    found = [len(predictor(frame)) for frame in some]
    image = predictor.about.image
    crops = [np.zeros((1, *image), np.uint8) for _ in some]
    name = predictor.detector.name.split(" (")[0]
    lines = [
        row(f"{name}: detection", milliseconds(predictor.detector, some)),
        row("classification of one face", milliseconds(predictor.probabilities, crops)),
        row(f"{name}: whole, {sum(found)} faces found", milliseconds(predictor, some)),
    ]
    torch.set_num_threads(THREADS)
    title = f"{name}: mirror, threads {THREADS}"
    lines.append(row(title, milliseconds(Mirror(predictor).look, some)))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", help="run folder, weights file or .onnx; default: the package's model")
    add("--detector", help="yunet, haar, or YuNet's file; default: both")
    add("--frames", type=positive, default=100)
    add(
        "--threads",
        type=positive,
        default=1,
        help="threads of torch, of which one face fills one",
    )
    args = parser.parse_args(arguments)
    try:
        predictor = Predictor.of(args.model)
    except InputError as error:
        parser.error(str(error))
    some = frames(args.frames)
    print(environment(), flush=True)
    print("| | milliseconds (10 % to 90 %) | a second |\n|---|---:|---:|")
    for choice in [args.detector] if args.detector else ["yunet", "haar"]:
        try:
            detector = make_detector(choice, say=lambda _: None)
        except InputError as error:
            if args.detector:
                parser.error(str(error))
            print(f"| left out: {error} | | |")
            continue
        one = Predictor(predictor.network, predictor.about, detector=detector)
        print(compare(one, some, args.threads), flush=True)
    threads = f"threads of torch {args.threads}, of OpenCV {cv2.getNumThreads()}"
    if predictor.model is None:
        threads += ", of onnxruntime as it chooses"
    print(f"\n{predictor.name}, {args.frames} frames of 640×480 (sample data), {threads}")


if __name__ == "__main__":
    main()
