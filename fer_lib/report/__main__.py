"""Command line of the report; an `InputError` ends it with one sentence and exit status 2."""

import argparse
from pathlib import Path

from fer_lib.config import PRESETS
from fer_lib.files import InputError, expanded
from fer_lib.report.build import build, source
from fer_lib.report.collect import collect


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.report",
        description="Build the report's PDF from its results; with --collect, collect them first.",
    )
    parser.add_argument("--folder", type=Path, help="folder of the report; default: report/")
    parser.add_argument("--collect", action="store_true", help="collect results of finished runs")
    parser.add_argument("--dataset", default="fer2013", help="dataset of the runs to collect")
    parser.add_argument("--preset", choices=PRESETS, default="full", help="preset of the runs")
    parser.add_argument("--runs", help="folder of all runs; default: runs/")
    args = parser.parse_args(arguments)
    try:
        folder = expanded(args.folder) if args.folder else source()
        if args.collect:
            found = collect(folder, dataset=args.dataset, preset=args.preset, runs=args.runs)
            print(f"collected {len(found)} files into {folder / 'results'}")
        print(f"report: {build(folder)}")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
