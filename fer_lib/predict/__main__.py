"""Command line: predict the expressions of the faces in pictures, folders and videos.

    python -m fer_lib.predict party.jpg holidays/ "more/**/*.png" film.mp4 --out predictions.csv
    python -m fer_lib.predict crops/ --whole --model runs/FOLDER --out predictions.json
    python -m fer_lib.predict --model runs/FOLDER --export model.onnx

The exit status is 1 if an input could not be read or a copy could not be written; everything else
is written nevertheless.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from fer_lib.files import (
    InputError,
    end_as_interrupted,
    expanded,
    print_anything,
    require_writable,
)
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
    add("--out", type=Path, metavar="FILE", help="table to write, .csv or .json (default: print)")
    add(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="write copies with the faces marked into DIR; of a video, a JPEG of each frame read",
    )
    add("--whole", action="store_true", help="every picture is a face: do not look for faces")
    add("--every", type=int, default=10, metavar="N", help="read every N-th frame of a video (10)")
    add("--model", metavar="RUN|FILE", help="run folder, .safetensors or .onnx (default: ours)")
    add("--detector", metavar="FILE", help="YuNet's file, yunet or haar (default: as available)")
    add("--device", choices=["cpu", "cuda"], help="of a torch model (default: cuda if there)")
    add("--export", type=Path, metavar="FILE", help="write the model to FILE as ONNX")
    args = parser.parse_args(arguments)
    try:
        check(args)
        args.sources, others = find_sources(args.paths) if args.paths else ([], 0)
        if others:
            say(
                f"skipped {others} file{'s' * (others > 1)} in the folders: only those whose names "
                "end like pictures or videos are read; to read another, give its own path"
            )
        if args.annotate:
            check_copies(args.annotate, args.sources)
        args.predictor = Predictor.of(
            args.model, device=args.device, detector=args.detector, say=say
        )
        if not args.whole and args.sources:
            args.predictor.detector  # noqa: B018 made now: an error ends this before any work
    except InputError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Expand `~` in the outputs, which no shell does in --out=~/a.csv, and check all options.

    Raises:
        InputError: an option is invalid or an output cannot be written.
    """
    outputs = args.out, args.annotate, args.export
    args.out, args.annotate, args.export = (path and expanded(path) for path in outputs)
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
            raise InputError(f"--annotate needs a folder, but {args.annotate} is a file")
        require_writable(args.annotate)


def say(text: str) -> None:
    """Print a remark to stderr, apart from the results that may be printed to stdout."""
    print(text, file=sys.stderr, flush=True)


class Work:
    """What one call of the command has done so far.

    Attributes:
        seen: the pictures and frames that were read, without their pixels, and their faces.
        problems: what could not be read, and what was read but could not be copied.
        complete: whether all sources were processed.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.predictor = args, args.predictor
        self.seen: list[Seen] = []
        self.problems: list[Shot] = []
        self.complete = False

    def do(self) -> int:
        """Process all sources; return 0, or 130 after Ctrl+C, or 2 after an InputError."""
        try:
            for part in batches(progress(self.args.sources, self.args.every)):
                self.batch(part)
        except KeyboardInterrupt:
            say("stopped")
            return 130
        except InputError as error:
            say(f"error: {error}")
            return 2
        self.complete = True
        return 0

    def batch(self, part: Sequence[Shot]) -> None:
        """Predict the expressions in some pictures, print them without --out, and write copies."""
        self.problems += [shot for shot in part if shot.problem]
        good = [shot for shot in part if shot.picture]
        mode = "whole" if self.args.whole else "detect"
        answers = self.predictor([shot.picture for shot in good], faces=mode)
        new = [Seen(shot, faces) for shot, faces in zip(good, answers, strict=True)]
        self.seen += [seen.without_pixels() for seen in new]
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
        """Write the table and return 0; if that fails, print its faces instead and return 2.

        Nothing is written if nothing was read, so that the table of an earlier call stays.
        """
        out = self.args.out
        if not out:
            return 0
        if not (self.seen or self.problems):
            say(f"nothing was read, so {out} is not written")
            return 0
        try:
            write_table(out, self.seen, self.problems, self.predictor)
        except InputError as error:
            print(*map(line, self.seen), sep="\n")
            say(f"error: {error}")
            return 2
        if not self.complete:
            say(f"{out} holds only what was read before the stop")
        return 0

    def summary(self) -> str:
        """Return lines of text: the counts, each problem, and pictures without a face."""
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
    """Run the command and return its exit status.

    Returns:
        0 if all went well, 1 if an input could not be read or copied, 2 after a user error, 130 if
        the command was interrupted.
    """
    print_anything()
    args = parse(arguments)
    work = Work(args)
    try:
        stopped = work.do()
    finally:  # nothing that was computed is lost, whatever happened
        if args.sources:
            say(work.summary())
        unwritten = work.write()
    return stopped or unwritten or export(args) or int(bool(work.problems))


def export(args: argparse.Namespace) -> int:
    """Write the ONNX file that is asked for, if one is; return 0, or 2 after an InputError."""
    if args.export:
        try:
            write_onnx(args.export, args.predictor)
        except InputError as error:
            say(f"error: {error}")
            return 2
        say(f"{args.predictor.name} is in {args.export}")
    return 0


if __name__ == "__main__":
    end_as_interrupted()
    raise SystemExit(main())
