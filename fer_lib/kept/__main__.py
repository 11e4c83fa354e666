"""Keep results in the repository: one file per run, and tables of the best runs and of all.

    python -m fer_lib.kept runs/20260101-000000_baseline_cnn_fer2013_s0
    python -m fer_lib.kept
    python -m fer_lib.kept data/fer2013/refined_majority.npz
    python -m fer_lib.kept --restore

The first command keeps the results of a finished run in `report/results/`, with the refined labels
that it learned from. The first two write the tables of all kept results: the best run of each kind
in the README, and all runs, with the settings that they changed, in `report/results/README.md`.
`python -m fer_lib.report --collect` adds new results to the report. The third command keeps refined
labels without a run. The last one makes run folders, without weights, from the kept results, so
that everything that depends on predictions can be computed again, and puts refined labels back into
`data/`.
"""

import argparse
from pathlib import Path

from fer_lib.data.loading import KINDS
from fer_lib.data.refined import read_refined
from fer_lib.files import InputError, matches
from fer_lib.given import given_runs
from fer_lib.kept import (
    best_of_each,
    keep_file,
    keep_labels,
    keep_results,
    restore,
    restore_labels,
    results_table,
)
from fer_lib.markdown import around_table, write_table
from fer_lib.runs import runs_folder

FOLDER, README = Path("report/results"), Path("README.md")


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the tables, or restore runs; run from the root of the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.kept", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="*", help="folders of finished runs, or files of labels")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="make run folders from kept results, and put back refined labels",
    )
    args = parser.parse_args(arguments)
    if args.restore and args.runs:
        parser.error("--restore takes no runs: it restores all that are kept")
    try:
        if args.restore:
            restore_all()
        else:
            keep(args.runs)
    except InputError as error:
        parser.error(str(error))


def restore_all() -> None:
    """Put back all kept labels and runs, and print what is made."""
    for line in restore_labels(FOLDER):
        print(line)
    new = restore(FOLDER)
    for run in new:
        print(f"{run.folder} is made, without weights: delete it to train the run again")
    if not new:
        print(f"all runs with predictions in {FOLDER} are in {runs_folder()} already")


def keep(given: list[str]) -> None:
    """Keep runs and files of labels, and write both tables; check everything before writing."""
    for tables in (README, FOLDER / README):
        around_table(tables)
    files = [name for name in given if name.endswith(".npz")]
    labels = [path for name in files for path in matches(name)]
    runs = given_runs(name for name in given if name not in files)
    for path in labels:
        if not path.exists():
            raise InputError(f"{path} does not exist: refine the labels first (notebook 02)")
    for run in runs:
        run.require_finished()
    manifests = [(path, read_refined(path)[2]) for path in labels]
    about = [(path, manifest["dataset"], manifest["mark"]) for path, manifest in manifests]
    about += [(run.folder, run.results["dataset"], run.config["data"].get("mark")) for run in runs]
    for path, dataset, mark in about:
        if "sample data" in (mark or ""):
            raise InputError(f"{path} is of sample data, but {FOLDER} is for real data")
        if dataset not in KINDS:
            raise InputError(
                f"{path} is of {dataset}, but {FOLDER} is for public datasets: what is kept has "
                "the names of all pictures"
            )
    for path in labels:
        print(f"{path} is kept as {keep_file(path, FOLDER)}")
    for run in runs:
        keep_results(run, FOLDER)
        print(f"{run.name} is kept in {FOLDER}")
        if note := keep_labels(run, FOLDER):
            print(note)
    table = results_table(FOLDER)
    write_table(README, best_of_each(table))
    write_table(FOLDER / README, table)
    print(f"the tables in {README} and {FOLDER / README} show all results in {FOLDER}")


if __name__ == "__main__":
    main()
