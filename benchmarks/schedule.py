"""Choose which entry runs when: the most valuable one that fits into the time left, one at a time.

Four at once, tried on an H100, only shared it: each took four times as long. Under NVIDIA's MPS,
with a campaign for each entry, vit_cnn took one and a half times as long beside three others
(`README.md`).
"""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import estimate
import wanted
from entries import Autoencoder, Entry, Place, Refinement, rehearse
from packing import Archives, contents
from worker import Worker

from fer_lib.config import TrainConfig
from fer_lib.data.refined import refined_sha256
from fer_lib.files import InputError, read_json
from fer_lib.pretrain.config import pretraining_command
from fer_lib.provenance import pretrained_sha256
from fer_lib.runs import Run

RESULTS = Path(__file__).resolve().parent.parent / "report" / "results"
"""Folder of the kept results; an entry whose results are there is not run again."""

POLL = 5.0
"""Seconds between two checks of how far the running entry is."""


def kept_results(entry: Entry, place: Place | None = None) -> dict[str, Any] | None:
    """Return the kept results of an entry, or None.

    If the weights file that the entry starts from is not here, the kept run may have started from
    any. If that came from a pretraining, it must have had the settings of the entry in `needs`.

    Args:
        place: None: the name of the dataset suffices, whatever images it contained.
    """
    config = entry.config(place)
    start, settings = pretrained_sha256(config), without_start(config)
    refined = refined_sha256(place.faces(entry.dataset), config.labels) if place else None
    for path in sorted(RESULTS.glob("*.json")):
        kept = read_json(path)
        try:
            same = without_start(TrainConfig.from_dict(kept["config"]["train"])) == settings
        except (InputError, KeyError, TypeError):  # of another version, or not a run
            continue
        data = kept["config"]["data"]
        if place:
            same &= data["fingerprint"] == place.faces(entry.dataset).fingerprint
        else:
            same &= data["dataset"] == entry.dataset
        same &= refined in (None, data.get("refined_sha256"))
        if entry.start == "faces" and (before := kept["config"].get("pretraining")):
            same &= before["command"] == pretraining_command(entry.needs.config(), data["dataset"])
        if same and start in (None, kept["config"]["environment"].get("pretrained_sha256")):
            return kept["results"]
    return None


def without_start(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without `cuda_graph`, and with "FILE" for any weights file."""
    values = config.to_dict()
    del values["cuda_graph"]  # how steps are launched, not what they compute
    return values | {"pretrained": "FILE"} if isinstance(config.pretrained, str) else values


def with_needs(entry: Entry) -> list[Entry]:
    """Return the entries that an entry needs, directly or not, and then the entry itself."""
    return [*(with_needs(entry.needs) if entry.needs else []), entry]


class Campaign:
    """Runs the entries of the list until a given time.

    Args:
        until: when to stop, in seconds of `time.time`.
        out: folder of the archives.
        only: names of the entries to run, besides those that they need; empty: all.

    Attributes:
        results: name of each finished entry -> its results; {} if it has none.
        failed: name of each failed entry -> reason.
    """

    def __init__(self, place: Place, *, until: float, out: Path, only: Iterable[str] = ()):
        self.place, self.until = place, until
        self.archives, self.worker = Archives(out), Worker(place)
        self.named = list(only)
        every = [one for name in self.named for one in with_needs(wanted.by_name(name))]
        self.only = list({entry.name: entry for entry in every}.values())
        self.results: dict[str, dict[str, Any]] = {}
        self.looked_up: set[str] = set()
        self.failed: dict[str, str] = {}
        self.ratios: dict[str, float] = {}  # of measured to assumed time, by name
        for entry in self.entries():
            self.look_up(entry)

    def entries(self) -> list[Entry]:
        """Return all entries that can run here, most valuable first, given the results so far."""
        every = self.only or [*wanted.FIRST, *self.further_seeds(), *wanted.LATER]
        return [entry for entry in every if self.place.weights or not entry.wants_file()]

    def further_seeds(self) -> list[Entry]:
        """Return the best systems on FER2013's validation images, with further seeds."""
        best: dict[str, tuple[float, Entry]] = {}
        for entry in wanted.FIRST:
            results = self.results.get(entry.name, {})
            plain = entry.dataset == "fer2013" and entry.labels == "original"
            if plain and "valid" in results:
                score = results["valid"]["full"]["accuracy"]
                if score > best.get(entry.system, (0.0,))[0]:
                    best[entry.system] = score, entry
        chosen = sorted(best.values(), key=lambda one: -one[0])[: wanted.BEST]
        every = [entry.seeded(seed) for seed in wanted.SEEDS for _, entry in chosen]
        for entry in every:
            self.look_up(entry)
        return every

    def look_up(self, entry: Entry) -> None:
        """Look for an entry's results: in its finished run, which is packed, or among kept ones."""
        if entry.name in self.looked_up:
            return
        self.looked_up.add(entry.name)
        trains = not isinstance(entry, Autoencoder | Refinement)
        try:
            if entry.finished(self.place):
                self.pack(entry)
            elif trains and (kept := kept_results(entry, self.place)):
                self.results[entry.name] = kept
        except InputError as error:  # its data are not here: other entries may still run
            self.failed[entry.name] = str(error)

    def pack(self, entry: Entry) -> None:
        """Store the results of a finished entry in `results`, and pack its files."""
        run = entry.run(self.place)
        self.results[entry.name] = run.results if run else {}
        files = contents(run) if run else {}
        if isinstance(entry, Refinement):
            for path in entry.files(self.place).values():
                files[f"data/{path.parent.name}/{path.name}"] = path.read_bytes()
            if other := self.archives.other(files):
                raise InputError(
                    f"the archives in {self.archives.folder} contain another file {other[0]}: give "
                    "another folder (--out)"
                )
        held = self.archives.names()
        if new := {name: data for name, data in files.items() if name not in held}:
            archive = self.archives.add(new)
            print(f"{entry.name}: packed into {archive}", flush=True)

    def wanted(self) -> list[Entry]:
        """Return the entries that are neither finished nor failed, most valuable first.

        A pretraining or a refinement is among them only if it was named or another entry needs it.
        """
        gone = self.failed.keys() | self.results.keys()
        every = [entry for entry in self.entries() if entry.name not in gone]
        needed = {entry.needs.name for entry in every if entry.needs} | {*self.named}
        trains = lambda entry: not isinstance(entry, Autoencoder | Refinement)
        return [entry for entry in every if entry.name in needed or trains(entry)]

    def ready(self) -> list[Entry]:
        """Return the wanted entries that could begin now."""
        return [
            entry for entry in self.wanted() if not entry.needs or entry.needs.finished(self.place)
        ]

    def left(self, entry: Entry) -> float:
        """Estimate the seconds that an entry still takes, at the pace measured so far."""
        factor = median(self.ratios.values()) if self.ratios else 1.0
        return estimate.left(entry, self.place, factor)

    def fitting(self, *, but: Entry | None = None) -> Entry | None:
        """Return the most valuable entry, except `but`, that fits into the time left, or None."""
        seconds = self.until - time.time()
        fits = (one for one in self.ready() if one != but and self.left(one) <= seconds)
        return next(fits, None)

    def next(self) -> Entry | None:
        """Return the entry to run now: one that fits or, if none does, what ends soonest."""
        return self.fitting() or min(self.ready(), key=self.left, default=None)

    def run(self) -> None:
        """Run entries until the time is over or all are done, or until this is interrupted.

        An unfinished entry can later resume after its last complete epoch.
        """
        try:
            while time.time() < self.until and (entry := self.next()):
                seconds = self.until - time.time()
                end = f" of {seconds:.0f} s left" if math.isfinite(seconds) else ""
                print(f"{entry.name}: begins, about {self.left(entry):.0f} s{end}", flush=True)
                self.worker.start(entry.name, entry.do)
                while self.worker.name and time.time() < self.until:
                    if self.answers():
                        self.finish(entry)
                    else:
                        self.look_after(entry)
        finally:
            if self.worker.name:
                print(f"{self.worker.name}: not finished, resumes when it is run again", flush=True)
            self.worker.end()

    def answers(self) -> bool:
        """Wait for the worker for up to `POLL` seconds; return whether it has an answer."""
        return self.worker.pipe.poll(min(POLL, max(0.0, self.until - time.time())))

    def finish(self, entry: Entry) -> None:
        """Pack an entry that the worker has done, or note why it failed; print either."""
        seconds = time.time() - self.worker.began
        _, problem = self.worker.answer()
        if not problem:
            try:
                self.pack(entry)
            except (InputError, OSError) as error:
                problem = f"it could not be packed: {error}"
        if problem:
            self.failed[entry.name] = problem
            print(f"{entry.name}: failed, {problem}", flush=True)
            return
        results = self.results[entry.name]
        score = (
            f"validation {results['valid']['full']['accuracy']:.2%}, " if "valid" in results else ""
        )
        mark = results.get("mark", "")
        print(f"{entry.name}: {score}{seconds:.0f} s {mark}".rstrip(), flush=True)

    def look_after(self, entry: Entry) -> None:
        """Note the pace of the running entry; put it aside if it is too long and another fits."""
        rows = entry.progress(self.place)
        if not (each := estimate.measured(rows)):
            return
        self.ratios[entry.name] = each / estimate.assumed(entry.config(self.place))
        if self.left(entry) - estimate.START > self.until - time.time() and (
            other := self.fitting(but=entry)
        ):
            self.worker.end()
            print(
                f"{entry.name}: {each:.2f} s an epoch, so it does not fit: put aside after epoch "
                f"{len(rows)} for {other.name}",
                flush=True,
            )

    def dry_run(self) -> None:
        """Try a small run up to its archive, then a step of every entry still wanted.

        Entries that fail are added to `failed` and not run.
        """
        tasks = {"rehearsal": rehearse}
        tasks |= {entry.name: entry.dry_run for entry in self.wanted()}
        for name, task in tasks.items():
            self.worker.start(name, task)
            while not self.answers():
                if time.time() >= self.until:
                    print(f"dry run, {name}: ended, as the time is over", flush=True)
                    self.worker.end()
                    return
            seconds = time.time() - self.worker.began
            value, problem = self.worker.answer()
            if name == "rehearsal" and not problem:
                with TemporaryDirectory() as folder:
                    Archives(Path(folder)).add(contents(Run(value)))
            if problem:
                self.failed[name] = problem
            print(f"dry run, {name}: {problem or f'{seconds:.1f} s'}", flush=True)
