"""Compare finished runs of the same data, or time their predictions.

    python -m fer_lib.compare runs/*_fer2013_s0
    python -m fer_lib.compare --time runs/*_baseline_cnn_*

The first command prints the scores of the runs and what the paired tests allow one to say. The
second measures the time of a prediction for one image and writes `inference.json` into each run's
folder, as the notebooks do; nothing else should run on the machine meanwhile.
"""

import argparse

from fer_lib.compare.cost import measure
from fer_lib.compare.names import marks
from fer_lib.compare.paired import paired_tests, sentences
from fer_lib.compare.scores import by_validation, leaderboard
from fer_lib.data import load_faces
from fer_lib.files import InputError
from fer_lib.given import given_runs
from fer_lib.markdown import markdown

SHOWN = ("valid_accuracy", "accuracy", "low", "high", "one_view", "clean_accuracy", "macro_f1")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an `InputError` ends it with one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--data-dir", help="folder or file of the data, if they are not cached yet")
    parser.add_argument("--time", action="store_true", help="measure times, and compare nothing")
    options = parser.parse_args(arguments)
    try:
        runs = given_runs(options.runs)
        if options.time:
            for run in runs:
                print(run.name, measure(run))
            return
        for run in runs:
            run.require_finished()
        name, data = runs[0].results["dataset"], runs[0].fingerprint
        faces = load_faces(name, options.data_dir, expected=data)
        tests = paired_tests(runs, faces)  # raises InputError for runs of other data
        table = leaderboard(runs)
        print(markdown(table[list(SHOWN)]))
        print(*sentences(tests, by_validation(table).index[0]), marks(runs, faces), sep="\n")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
