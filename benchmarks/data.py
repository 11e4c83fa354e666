"""Seconds to read FER2013's table and its folders: ours, and the usual way, in turn in one run.

    python benchmarks/data.py --csv fer2013.csv --folders FOLDER   the real data
    python benchmarks/data.py --rows 4000                          sample data, written here first

The usual way of the table is pandas.read_csv, then each row's pixels by int() of every number (as
most notebooks have it) or by np.fromstring (as the faster ones). That of the folders is PIL, one
picture after the other: ours takes as long on small local files, and wins where a file waits for a
network drive or is large. Every way must give the same pixels. The first round, which finds the
files not yet in memory, does not count.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from measure import environment, in_turn, rate, ratio
from PIL import Image

from fer_lib.data.faceset import FaceSet, load, save
from fer_lib.data.folders import read as read_folders
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.layouts import recognise
from fer_lib.data.sample import make_sample
from fer_lib.data.tables import read_table

Ways = dict[str, Callable[[], np.ndarray]]


def table_ways(path: Path) -> Ways:
    """Ways to read a table; each returns (N, 2304) uint8."""

    def ours() -> np.ndarray:
        return read_table(path).images.reshape(-1, 2304)

    def integers() -> np.ndarray:
        rows = pd.read_csv(path)["pixels"]
        return np.stack([np.array([int(n) for n in row.split(" ")], np.uint8) for row in rows])

    def fromstring() -> np.ndarray:
        rows = pd.read_csv(path)["pixels"]
        return np.stack([np.fromstring(row, np.uint8, sep=" ") for row in rows])

    return {"ours": ours, "pandas, int()": integers, "pandas, np.fromstring": fromstring}


def folder_ways(folder: Path, cache: Path) -> Ways:
    """Ways to read class folders; each returns (N, H, W) uint8 in the order of the paths."""
    root = recognise(folder).path

    def ours() -> FaceSet:
        return read_folders("fer2013", root)

    def pil() -> np.ndarray:
        paths = [path for path in root.glob("*/*/*") if path.suffix in (".png", ".jpg", ".jpeg")]
        paths.sort(key=lambda path: path.relative_to(root).with_suffix("").as_posix())
        return np.stack([np.array(Image.open(path).convert("L")) for path in paths])

    save(ours(), cache)
    return {
        "ours": lambda: ours().images[:, 0],
        "PIL one by one": pil,
        "ours, from the cache": lambda: load(cache).images[:, 0],
    }


def checked(way: Callable[[], np.ndarray], expected: np.ndarray) -> Callable[[], int]:
    """The way as a function that returns the number of images, and fails on other pixels."""

    def run() -> int:
        images = way()
        assert np.array_equal(images, expected), "two ways read different pixels"
        return len(images)

    return run


def compare(title: str, ways: Ways, rounds: int) -> None:
    """Time the ways in turn; print the median seconds of each, and how many times ours that is."""
    expected = ways["ours"]()
    cpu = torch.device("cpu")
    parts = {name: partial(rate, checked(way, expected), cpu) for name, way in ways.items()}
    rates = in_turn(parts, rounds)
    print(f"\n{title}, {len(expected):,} images, {rounds} rounds in turn after one to warm up\n")
    print("| | seconds | times ours (range) |\n|---|---:|---:|")
    for name, each in rates.items():
        seconds = len(expected) / median(each)
        print(f"| {name} | {seconds:.2f} | {ratio(rates['ours'], each)} |")


def main() -> None:
    """Compare the ways on the data that is given, or on sample data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, help="fer2013.csv")
    parser.add_argument("--folders", type=Path, help="class folders in train/ and test/")
    parser.add_argument("--rows", type=int, default=4000, help="images of the sample data")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as temporary:
        table, folders, mark = args.csv, args.folders, ""
        if not (table or folders):
            faces, mark = make_sample(args.rows), " (sample data)"
            table, folders = Path(temporary, "csv", "fer2013.csv"), Path(temporary, "folders")
            write_layout(faces, "csv", table.parent)
            write_layout(faces, "folders", folders)
        if table:
            compare(f"table{mark}", table_ways(table), args.rounds)
        if folders:
            ways = folder_ways(folders, Path(temporary, "cache"))
            compare(f"folders{mark}", ways, args.rounds)


if __name__ == "__main__":
    main()
