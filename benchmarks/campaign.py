"""Run as many of the wanted trainings as fit into a given time on one GPU, most valuable first.

    python benchmarks/campaign.py list
    python benchmarks/campaign.py run --minutes 9 --weights FILE --out FOLDER
    python benchmarks/campaign.py unpack FOLDER/runs-*.zip
    python benchmarks/campaign.py table
    python benchmarks/campaign.py aims

The list of trainings (*entries*) is in `wanted.py`. `run` begins with a dry run: one small run from
its start to its archive, then for each entry still wanted one step of training (several if steps
are recorded as CUDA graphs, so that one is recorded) and one of prediction. Then it repeatedly
takes the first entry that fits into the time left, as estimated by `estimate.py` and corrected by
measured epochs; an entry that turns out too long gives way to one that fits. A finished run is not
repeated, nor one that is kept in `report/results/`; an unfinished one resumes. Entries run in a
separate process: if one fails, the others still run and the exit status is 1. A finished run is
packed at once into an archive in `--out`, so the whole campaign may be killed at any time.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import aims
import estimate
import pandas as pd
import systems
import wanted
from entries import BACKBONE, Autoencoder, Entry, Place, Refinement, faces_of
from measure import environment
from packing import unpack
from packing_data import pack_data, unpack_data
from schedule import RESULTS, Campaign, kept_results

from fer_lib.arguments import APART, SET, parse_settings
from fer_lib.changed import changed_settings
from fer_lib.config import TrainConfig
from fer_lib.files import (
    InputError,
    end_as_interrupted,
    expanded,
    home,
    matches,
    require_writable,
)
from fer_lib.kept import keep_labels, keep_results
from fer_lib.markdown import markdown
from fer_lib.pretrain import PretrainConfig
from fer_lib.runs import Run, list_runs


def listed() -> str:
    """Return two Markdown tables: the wanted runs, and what is not run here."""
    rows = [_row(entry) for entry in wanted.FIRST]
    seeds = " and ".join(map(str, wanted.SEEDS))
    which = f"seeds {seeds} of the {wanted.BEST} systems best on validation by then"
    best = {"entry": "further seeds", "settings": which}
    more = {entry.name: kept_results(entry) for entry in wanted.every() if entry.seed}
    best["validation"] = "; ".join(
        f"{name}: {kept['valid']['full']['accuracy']:.1%}" for name, kept in more.items() if kept
    )
    rows += [best | {"why": "the spread over seeds, of those that matter"}]
    rows += [_row(entry) for entry in wanted.LATER]
    columns = ["entry", "model", "starts from", "learns from", "settings"]
    columns += ["epochs", "minutes", "validation", "why"]
    table = pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1))
    absent = pd.DataFrame(wanted.NOT_HERE, columns=["not run here", "starts from", "what"])
    return f"{markdown(table.fillna(''))}\n\n{markdown(absent.set_index('not run here'))}"


def _row(entry: Entry) -> dict[str, str]:
    start = {"file": "DINOv2 ViT-S/14", "faces": f"`{entry.needs.name}`" if entry.needs else ""}
    minutes = {"minutes": f"{estimate.left(entry) / 60:.1f}", "why": entry.why}
    labels = "" if entry.labels == "original" else f", {entry.labels}"
    row = {"entry": entry.name, "learns from": f"{entry.dataset}{labels}"}
    if isinstance(entry, Refinement):
        who = ", ".join(f"{one.name} {changes['epochs']}" for one, changes in entry.voters)
        return row | {"settings": f"{entry.folds} folds; epochs: {who}"} | minutes
    config = entry.config()
    row |= {"epochs": str(config.epochs)} | minutes
    if isinstance(entry, Autoencoder):
        plain, given = PretrainConfig().to_dict(), config.to_dict()
        settings = " ".join(f"{key}={value}" for key, value in given.items() if value != plain[key])
        return row | {"settings": settings, "learns from": f"{entry.dataset}, no labels"}
    kept = kept_results(entry)
    return row | {
        "validation": f"{kept['valid']['full']['accuracy']:.1%}" if kept else "wanted",
        "model": entry.model,
        "starts from": start.get(entry.start, entry.start),
        "settings": " ".join(filter(None, (entry.recipe, shown(config)))),
    }


def shown(config: TrainConfig) -> str:
    """Return the settings that a config changes, except those that have a column of their own.

    The augmentation `STRONG` is given by its name.
    """
    strong = config.augmentation == systems.STRONG
    apart = ("pretrained=", "labels=", "epochs=", *(("augmentation.",) if strong else ()))
    parts = [part for part in changed_settings(config) if not part.startswith(apart)]
    return " ".join([*parts, *(["augmentation=STRONG"] if strong else [])])


def finished_table(runs: str | None) -> str:
    """Return a Markdown table of all finished runs in a folder, best on validation first.

    It is the log of what was tried. It leaves out test accuracy, by which nothing may be chosen.

    Raises:
        InputError: there are no finished runs.
    """
    rows = []
    for run in list_runs(runs):
        results, config = run.results, run.train_config
        one = results.get("one_view")
        rows.append(
            {
                "run": run.name,
                "recipe": f"{config.recipe}, {config.preset}",
                "settings": " ".join(changed_settings(config)),
                "data": " ".join(filter(None, (results["dataset"], results["mark"]))),
                "labels": config.labels,
                "seed": config.seed,
                "validation": f"{results['valid']['full']['accuracy']:.2%}",
                "one view": f"{one['valid']:.2%}" if one else "",
                "best epoch": f"{results['best_epoch']} of {results['epochs']}",
                "seconds": f"{results['train_seconds']:.0f}",
                "on": run.config["environment"]["processor"],
            }
        )
    if not rows:
        raise InputError(
            "there are no finished runs: train one first, or give their folder (--runs)"
        )
    rows.sort(key=lambda row: -float(row["validation"].rstrip("%")))
    return markdown(pd.DataFrame(rows).set_index("run"))


def run(args: argparse.Namespace, place: Place) -> int:
    """Run the entries and print what became of them.

    Returns:
        The exit status: 130 if this was interrupted, 1 if an entry failed, else 0.
    """
    start = time.time()
    print(environment(), flush=True)
    until = start + 60 * args.minutes if args.minutes else float("inf")
    campaign = Campaign(place, until=until, out=args.out, only=args.only)
    stopped = False
    try:
        if args.dry_run != "none":
            campaign.dry_run()
        if args.dry_run != "only" and "rehearsal" not in campaign.failed:
            campaign.run()
    except KeyboardInterrupt:
        stopped = True
    finally:
        campaign.worker.end()
    every = () if place.weights else campaign.only or (*wanted.FIRST, *wanted.LATER)
    for title, names in (
        ("finished", campaign.results),
        ("not finished", [entry.name for entry in campaign.wanted()]),
        ("left out because --weights is missing", [one.name for one in every if one.wants_file()]),
        ("failed", [f"{name} ({reason})" for name, reason in campaign.failed.items()]),
    ):
        print(f"{title}: {'; '.join(names) or 'none'}")
    return 130 if stopped else int(bool(campaign.failed))


def unpack_all(archives: list[str], place: Place) -> None:
    """Unpack archives and keep the results of new runs on real data in `report/results/`."""
    for archive in (path for given in archives for path in matches(given)):
        for one in unpack(archive, place.faces, place.runs):
            kept = isinstance(one, Run) and not one.config["data"].get("mark")
            if kept:
                keep_results(one, RESULTS)
                if note := keep_labels(one, RESULTS):
                    print(note)
            print(f"{one.folder}: unpacked{f', its results kept in {RESULTS}' if kept else ''}")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line, with a parser for each command."""
    whole = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = whole.add_subparsers(dest="command", required=True)
    add = lambda name, text: commands.add_parser(name, help=text, description=text)
    add("list", "print the list of wanted runs, as Markdown")
    add("aims", "print what each system should reach and has reached, as Markdown")
    table = add("table", "print all finished runs, best on validation first, as Markdown")
    one = add("run", "run as many entries of the list as fit into the time")
    one.add_argument("--minutes", type=float, help="time limit; default: until all is done")
    one.add_argument("--weights", metavar="FILE", help=f"safetensors of {BACKBONE['backbone']}")
    one.add_argument(
        "--out", type=Path, help="folder of the archives; default: $OUT, or runs/packed"
    )
    one.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="run only these and what they need"
    )
    ways = {"choices": ("first", "only", "none"), "default": "first"}
    one.add_argument("--dry-run", **ways, help="try all first (default), only try, or do not")
    one.add_argument("--dataset", help="used instead of every entry's own, for example sample")
    one.add_argument("--set", **SET, help="settings to change in all entries")
    back = add("unpack", "unpack archives into runs/ and report/results/")
    back.add_argument("archives", nargs="+")
    pack = add("pack-data", "write FER2013 with its votes into one small file")
    new = add("unpack-data", "make the caches of FER2013 and FERPlus from such a file")
    for command in (pack, new):
        command.add_argument("file", type=Path)
    for command in (one, back, pack):
        command.add_argument("--data-dir", help="folder or file of the data")
    for command in (one, back, table):
        command.add_argument("--runs", help="folder of all runs; default: runs/")
    return whole


def main(arguments: list[str] | None = None) -> None:
    whole = parser()
    args = whole.parse_args(arguments)
    known: dict[str, Any] = {name: getattr(args, name, None) for name in ("data_dir", "runs")}
    try:
        if args.command == "list":
            print(listed())
        elif args.command == "aims":
            print(aims.table())
        elif args.command == "table":
            print(finished_table(args.runs))
        elif args.command == "unpack":
            unpack_all(args.archives, Place(**known))
        elif args.command == "pack-data":
            pack_data(faces_of("fer2013", args.data_dir), args.file)
            print(f"{args.file}: {args.file.stat().st_size / 2**20:.1f} MiB")
        elif args.command == "unpack-data":
            for faces in unpack_data(args.file):
                print(f"{home() / 'data' / faces.name}: {len(faces):,} faces")
        else:
            if args.weights and not Path(args.weights).is_file():
                raise InputError(f"{args.weights} does not exist: give a file of weights, or none")
            if args.minutes is not None and not args.minutes > 0:  # nor NaN
                raise InputError(f"--minutes must be above 0, not {args.minutes:g}")
            packed = os.environ.get("OUT") or home() / "runs" / "packed"
            args.out = expanded(args.out or packed)
            require_writable(args.out)  # before a training, not when its run is packed
            changes = parse_settings(args.set, (*APART, "seed", "labels", "pretrained"))
            place = Place(**known, weights=args.weights, dataset=args.dataset, changes=changes)
            sys.exit(run(args, place))
    except InputError as error:
        whole.error(str(error))


if __name__ == "__main__":
    end_as_interrupted()
    main()
