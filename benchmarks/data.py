"""Compare the time to read FER2013's CSV file and folders: our readers and the usual way, in turn.

    python benchmarks/data.py --csv fer2013.csv --folders FOLDER   the real data
    python benchmarks/data.py --rows 4000                          sample data, written here first

The usual way to read the CSV file is pandas.read_csv, then int() for each number of a row's pixels;
ours has np.loadtxt in place of int(). The usual way to read the folders is PIL, one picture after
the other: ours, with threads, takes longer on small local files, and is faster if files are large
or wait for a network drive. All ways must give the same pixels. The first round does not count,
because it finds the files not yet in memory.
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
from measure import environment, in_turn, positive, rate, ratio
from PIL import Image

from fer_lib.data.faceset import FaceSet, load, save
from fer_lib.data.folders import read as read_folders
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.layouts import recognise
from fer_lib.data.sample import make_sample
from fer_lib.data.tables import read_table
from fer_lib.files import InputError

Ways = dict[str, Callable[[], np.ndarray]]


def table_ways(path: Path) -> Ways:
    """Return ways to read a CSV file, by name; each returns (N, 2304) uint8."""

    def ours() -> np.ndarray:
        return read_table(path).images.reshape(-1, 2304)

    def integers() -> np.ndarray:
        rows = pd.read_csv(path)["pixels"]
        return np.stack([np.array([int(n) for n in row.split(" ")], np.uint8) for row in rows])

    return {"ours": ours, "pandas, int()": integers}


def folder_ways(folder: Path, cache: Path) -> Ways:
    """Return ways to read class folders, by name; each returns (N, H, W) uint8, sorted by path.

    One of them reads our cache, which is written to `cache` here.
    """
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


def compare(title: str, ways: Ways, rounds: int) -> None:
    """Time the ways in turn; print each one's median seconds, also as a multiple of ours."""
    expected = ways["ours"]()
    for name, way in ways.items():
        assert np.array_equal(way(), expected), f"{name} reads different pixels"
    cpu = torch.device("cpu")
    parts = {name: partial(rate, lambda way=way: len(way()), cpu) for name, way in ways.items()}
    rates = in_turn(parts, rounds)
    print(f"\n{title}, {len(expected):,} images, {rounds} rounds in turn after one to warm up\n")
    print("| | seconds | times ours (range) |\n|---|---:|---:|")
    for name, each in rates.items():
        seconds = len(expected) / median(each)
        print(f"| {name} | {seconds:.2f} | {ratio(rates['ours'], each)} |")


def main() -> None:
    """Compare the ways on the given data, or on sample data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, help="fer2013.csv")
    parser.add_argument("--folders", type=Path, help="class folders in train/ and test/")
    parser.add_argument("--rows", type=positive, default=4000, help="images of the sample data")
    parser.add_argument("--rounds", type=positive, default=3)
    args = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as temporary:
        table, folders, mark = args.csv, args.folders, ""
        try:
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
        except InputError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
