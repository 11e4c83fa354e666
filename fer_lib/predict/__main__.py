"""Command line: expressions of the faces in pictures, folders and videos.

    python -m fer_lib.predict party.jpg holidays/ 'more/**/*.png' film.mp4 --out predictions.csv
    python -m fer_lib.predict crops/ --whole --model runs/FOLDER --out predictions.json
    python -m fer_lib.predict --model runs/FOLDER --export model.onnx

Ends with status 1 where something could not be read, or a copy not be written; the rest is written
all the same.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from fer_lib.files import InputError, end_as_interrupted, print_anything, require_writable
from fer_lib.predict.inputs import Shot, batches, find_sources, progress
from fer_lib.predict.onnx import write_onnx
from fer_lib.predict.outputs import FORMATS, Seen, annotate, check_copies, line, title, write_table
from fer_lib.predict.predictor import Predictor

SHOWN = 10  # pictures without a face that the summary names


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.predict", description=__doc__.split("\n")[0].split(": ")[1]
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="picture, video, folder or pattern")
    add("--out", type=Path, metavar="FILE", help="table to write, .csv or .json; default: printed")
    add("--annotate", type=Path, metavar="DIR", help="write copies with the faces marked")
    add("--whole", action="store_true", help="every picture is a face: do not look for faces")
    add("--every", type=int, default=10, metavar="N", help="every N-th frame of a video (10)")
    add("--model", metavar="RUN|FILE", help="run folder, .safetensors or .onnx; default: our own")
    add("--detector", metavar="FILE", help="YuNet's file, yunet or haar; default: as can be had")
    add("--export", type=Path, metavar="FILE", help="write the model as ONNX")
    args = parser.parse_args(arguments)
    try:
        check(args)
        args.sources, others = find_sources(args.paths) if args.paths else ([], 0)
        if others:
            say(
                f"{others} files in the folders, whose names end neither as pictures nor as videos "
                "usually do, are left out: name one itself to have it read"
            )
        if args.annotate:
            check_copies(args.annotate, args.sources)
        args.predictor = Predictor.of(args.model, detector=args.detector, say=say)
        if not args.whole and args.sources:
            args.predictor.detector  # noqa: B018 refused, or said, before work
    except InputError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Raise InputError where options make no sense, or name what cannot be written."""
    if not args.paths and not args.export:
        raise InputError("give a picture, a video, a folder or a pattern")
    if args.out and args.out.suffix not in FORMATS:
        raise InputError(f"--out ends with {' or '.join(FORMATS)}, not {args.out.name}")
    if args.export and args.export.suffix != ".onnx":
        raise InputError(f"--export ends with .onnx, not {args.export.name}")
    if args.every < 1:
        raise InputError(f"--every is 1 or more, not {args.every}")
    for file in filter(None, (args.out, args.export)):
        if file.is_dir():
            raise InputError(f"{file} is a folder: give the name of a file in it")
        require_writable(file.parent)
    if args.annotate:
        if args.annotate.is_file():
            raise InputError(f"--annotate is a folder, and {args.annotate} is a file")
        require_writable(args.annotate)


def say(text: str) -> None:
    """Remarks go beside the table that may be printed."""
    print(text, file=sys.stderr, flush=True)


class Work:
    """What was seen, and what could not be read or copied, so far."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.predictor = args, args.predictor
        self.seen: list[Seen] = []
        self.problems: list[Shot] = []

    def do(self) -> int:
        """Go through all sources; 0, or the status with which it ended before."""
        try:
            for part in batches(progress(self.args.sources, self.args.every)):
                self.batch(part)
        except KeyboardInterrupt:
            say("stopped")
            return 130
        except InputError as error:
            say(f"error: {error}")
            return 2
        return 0

    def batch(self, part: Sequence[Shot]) -> None:
        self.problems += [shot for shot in part if shot.problem]
        good = [shot for shot in part if shot.picture]
        mode = "whole" if self.args.whole else "detect"
        answers = self.predictor([shot.picture for shot in good], faces=mode)
        new = [Seen(shot, faces) for shot, faces in zip(good, answers, strict=True)]
        self.seen += [replace(seen, shot=replace(seen.shot, picture=None)) for seen in new]
        for seen in new:
            if not self.args.out:
                tqdm.write(line(seen))
        for seen in new:
            if self.args.annotate:
                self.annotate(seen)

    def annotate(self, seen: Seen) -> None:
        """Write the annotated copy of a picture, or note why it cannot be written."""
        try:
            annotate(self.args.annotate, seen)
        except InputError as error:
            self.problems.append(replace(seen.shot, picture=None, problem=str(error)))

    def write(self) -> int:
        """Write the table; where that fails, print the faces, so that they are not lost, and 2."""
        if not self.args.out:
            return 0
        try:
            write_table(self.args.out, self.seen, self.problems, self.predictor)
        except InputError as error:
            print(*map(line, self.seen), sep="\n")
            say(f"error: {error}")
            return 2
        return 0

    def summary(self) -> str:
        """What was read, and what was wrong with the rest, a line each."""
        faces = sum(len(seen.faces) for seen in self.seen)
        empty = [title(seen.shot) for seen in self.seen if not seen.faces]
        head = f"{len(self.seen):,} pictures read, {faces:,} faces"
        if self.problems:
            head += f"; {len(self.problems)} could not be read"
            head += " or copied:" if self.args.annotate else ":"
        wrong = [f"  {shot.problem}" for shot in self.problems]
        shown = [f"  no face was found in {name}" for name in empty[:SHOWN]]
        more = [f"  nor in {len(empty) - SHOWN} others"] if len(empty) > SHOWN else []
        return "\n".join([head, *wrong, *shown, *more])


def main(arguments: list[str] | None = None) -> int:
    """Command line; status 0, 1 for a problem of some input, 2 for an error of the user's."""
    print_anything()
    args = parse(arguments)
    work = Work(args)
    if args.export:
        try:
            write_onnx(args.export, args.predictor)
        except InputError as error:
            say(f"error: {error}")
            return 2
        say(f"{args.predictor.name} is in {args.export}")
    try:
        stopped = work.do()
    finally:  # nothing that was computed is lost, whatever happened
        if args.sources:
            say(work.summary())
        unwritten = work.write()
    return unwritten or stopped or int(bool(work.problems))


if __name__ == "__main__":
    end_as_interrupted()
    raise SystemExit(main())
