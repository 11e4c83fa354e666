"""Keep the results of finished runs in the repository, or time their predictions.

    python -m fer_lib.compare runs/20260101-000000_baseline_cnn_fer2013_s0
    python -m fer_lib.compare --time runs/*_baseline_cnn_*

The first keeps the results of a run in `report/results/` and makes the README's table from all of
them; the second measures the time for one image and writes `inference.json` into the run's folder,
where the notebook that trained it has not done so; let nothing else run meanwhile.
"""

import argparse
from pathlib import Path

from fer_lib.compare.cost import measure
from fer_lib.files import InputError
from fer_lib.kept import keep, results_table, write_table
from fer_lib.runs import Run


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the README's table; run from the root of the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--time", action="store_true", help="measure, and keep nothing")
    options = parser.parse_args(arguments)
    folder = Path("report/results")
    try:
        for path in options.runs:
            if options.time:
                print(path, measure(Run(path)))
            else:
                keep(Run(path), folder)
        if not options.time:
            write_table(Path("README.md"), results_table(folder))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
