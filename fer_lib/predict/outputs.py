"""What the command line writes: a table, and annotated copies of the pictures."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_lib.data.pictures import SUFFIXES
from fer_lib.files import InputError, replacing, write_json
from fer_lib.predict.inputs import Shot, Source
from fer_lib.predict.predictor import Face, Predictor

FORMATS = (".csv", ".json")
SURE, UNSURE = "#0f7556", "#666666"  # white text on them has a contrast of 5.7: WCAG asks for 4.5
COLUMNS = (
    *("path", "frame", "seconds", "face", "x", "y", "width", "height", "confidence"),
    *("expression", "probability", "sure"),
)
"""Columns of the CSV; a column for the probability of each class follows.

path is the path as it was given or found; frame (from 0) and seconds are those of a video; face is
1 for the largest; x, y, width and height are its box in pixels of the upright picture; confidence
is the detector's; expression is the most probable class and probability its probability; sure is 1
if that reaches the model's threshold, else 0. A picture without a face has one row, which is empty
from `face` on.
"""


@dataclass(frozen=True)
class Seen:
    """A picture or frame that was read, and its faces, the largest first."""

    shot: Shot
    faces: list[Face]

    def without_pixels(self) -> "Seen":
        """Return a copy without the picture and the crops, which would fill the memory."""
        none = np.empty((0, 0, 0), np.uint8)
        faces = [replace(face, crop=none) for face in self.faces]
        return Seen(replace(self.shot, picture=None), faces)


def title(shot: Shot) -> str:
    """Return the path of a picture; for a video, with the number of the frame."""
    frame = "" if shot.frame is None else f", frame {shot.frame}"
    return f"{shot.source.path}{frame}"


def line(seen: Seen) -> str:
    """Return a line of text about a picture and its faces."""
    faces = [
        f"{face.emoji} {face.expression} {face.probability:.0%}"
        f"{'' if face.sure else ' (not sure)'} at {face.box.x}, {face.box.y}"
        for face in seen.faces
    ]
    return f"{title(seen.shot)}: {'; '.join(faces) or 'no face'}"


def rows(seen: Seen, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the CSV for one picture: one for each face, or one without a face."""
    shot = seen.shot
    start = {"path": str(shot.source.path), "frame": shot.frame, "seconds": shot.seconds}
    return [
        start
        | {"face": number, "confidence": face.confidence, "expression": face.expression}
        | face.box._asdict()
        | {"probability": face.probability, "sure": int(face.sure)}
        | {name: face.probabilities[name] for name in classes}
        for number, face in enumerate(seen.faces, 1)
    ] or [start]


def write_table(
    path: Path, every: Sequence[Seen], problems: Sequence[Shot], predictor: Predictor
) -> None:
    """Write the results as CSV (see `COLUMNS`) or as JSON (see `as_json`).

    Args:
        path: with the suffix .json for JSON; any other means CSV.
        every: the pictures that were read.
        problems: what could not be read or copied; only JSON contains it.
    """
    if path.suffix == ".json":
        write_json(path, as_json(every, problems, predictor))
        return
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, [*COLUMNS, *predictor.classes])
        writer.writeheader()
        for seen in every:
            writer.writerows(rows(seen, predictor.classes))


def as_json(
    every: Sequence[Seen], problems: Sequence[Shot], predictor: Predictor
) -> dict[str, Any]:
    """Return the results as a dict for JSON.

    Its keys are `model`, `classes`, `threshold` (None if no answer counts as sure), `pictures`, a
    list of pictures with their `faces`, and `problems`, a list of paths with the reasons.
    """
    pictures = [
        {
            "path": str(seen.shot.source.path),
            "frame": seen.shot.frame,
            "seconds": seen.shot.seconds,
            "faces": [
                {
                    "box": list(face.box),
                    "confidence": face.confidence,
                    "expression": face.expression,
                    "emoji": face.emoji,
                    "sure": face.sure,
                    "probabilities": face.probabilities,
                }
                for face in seen.faces
            ],
        }
        for seen in every
    ]
    return {
        "model": predictor.name,
        "classes": list(predictor.classes),
        "threshold": predictor.threshold if math.isfinite(predictor.threshold) else None,
        "pictures": pictures,
        "problems": [{"path": str(s.source.path), "reason": s.problem} for s in problems],
    }


def copy_path(folder: Path, shot: Shot) -> Path:
    """Return where the annotated copy of a picture is written.

    A frame is written as JPEG. A name without the suffix of a picture has .png added.
    """
    inside = shot.source.inside
    if shot.frame is not None:
        return folder / inside.parent / f"{inside.name}_{shot.frame:06d}.jpg"
    return folder / inside.parent / (inside.name + ".png" * (inside.suffix.lower() not in SUFFIXES))


def check_copies(folder: Path, sources: Sequence[Source]) -> None:
    """Raise InputError if an annotated copy would replace an input or another copy."""
    input_itself = "is an input itself: give another folder with --annotate"
    taken = {os.path.realpath(source.path): input_itself for source in sources}
    for source in sources:
        if source.problem:
            continue
        first = Shot(source, frame=0 if source.is_video else None)
        copy = os.path.realpath(copy_path(folder, first))
        if copy in taken:
            raise InputError(
                f"the annotated copy of {source.path} would be {copy}, which {taken[copy]}"
            )
        taken[copy] = (
            f"is already the copy of {source.path}: give the folder that holds both in place of "
            "files or a pattern, or annotate each folder into a folder of its own"
        )


def annotate(folder: Path, seen: Seen) -> None:
    """Write a copy of a picture with its faces marked, as by `draw_faces`.

    It has the picture's colour profile, unless that is one of grey or CMYK: the copy is RGB.
    """
    picture = draw_faces(seen.shot.picture, seen.faces)
    profile = picture.info.get("icc_profile") or b""
    profile = profile if profile[16:20] == b"RGB " else None
    with replacing(copy_path(folder, seen.shot)) as temporary:
        try:
            picture.save(temporary, icc_profile=profile)
        except ValueError as error:  # such as a side that WebP cannot have
            raise InputError(
                f"the copy of {title(seen.shot)} cannot be written ({error}): give it as PNG"
            ) from None


def draw_faces(
    picture: Image.Image, faces: Sequence[Face], *, numbered: bool = True
) -> Image.Image:
    """Return a copy of a picture with the box, expression and probability of each face drawn in.

    Args:
        numbered: put the number of each face before it, as in the table, if there are several.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    size = max(12, round(min(drawn.size) / 24))
    font = ImageFont.load_default(size)
    for number, face in enumerate(faces, 1):
        x, y, width, height = face.box
        colour = SURE if face.sure else UNSURE
        box = x, y, x + width - 1, y + height - 1  # Pillow draws both corners
        pen.rectangle(box, outline=colour, width=max(2, size // 8))
        text = f"{number} " if numbered and len(faces) > 1 else ""
        text += f"{face.expression} {face.probability:.0%}" + ("" if face.sure else ", not sure")
        left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
        at = min(x, max(0, drawn.width - right)), y - bottom if y >= bottom else y + height
        at = at[0], min(at[1], drawn.height - bottom)
        pen.rectangle((at[0] + left, at[1], at[0] + right, at[1] + bottom), fill=colour)
        pen.text(at, text, font=font, fill="white")
    return drawn
