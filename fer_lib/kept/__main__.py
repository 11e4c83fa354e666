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

from fer_lib.data.refined import read_refined
from fer_lib.files import InputError
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
from fer_lib.runs import Run, runs_folder


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the tables, or restore runs; run from the root of the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.kept", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, help="folders of finished runs, or files of labels"
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="make run folders from kept results, and put back refined labels",
    )
    args = parser.parse_args(arguments)
    if args.restore and args.runs:
        parser.error("--restore takes no runs: it restores all that are kept")
    folder, readme = Path("report/results"), Path("README.md")
    try:
        if args.restore:
            for line in restore_labels(folder):
                print(line)
            new = restore(folder)
            for run in new:
                print(f"{run.folder} is made, without weights: delete it to train the run again")
            if not new:
                print(f"all runs with predictions in {folder} are in {runs_folder()} already")
            return
        for tables in (readme, folder / "README.md"):
            around_table(tables)  # raises before anything is written
        labels = [path for path in args.runs if path.suffix == ".npz"]
        for path in labels:
            if not path.exists():
                raise InputError(f"{path} does not exist: refine the labels first (notebook 02)")
            if "sample data" in read_refined(path)[2]["mark"]:
                raise InputError(f"{path} is of sample data, but {folder} is for real data")
            print(f"{path} is kept as {keep_file(path, folder)}")
        args.runs = [path for path in args.runs if path not in labels]
        for run in map(Run, args.runs):
            if "sample data" in (run.config["data"].get("mark") or ""):
                raise InputError(f"{run.folder} is of sample data, but {folder} is for real data")
            run.require_finished()
        for run in map(Run, args.runs):
            keep_results(run, folder)
            print(f"{run.name} is kept in {folder}")
            if note := keep_labels(run, folder):
                print(note)
        table = results_table(folder)
        write_table(readme, best_of_each(table))
        write_table(folder / readme, table)
        print(f"the tables in {readme} and {folder / readme} show all results in {folder}")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
