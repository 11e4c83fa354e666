"""The campaign's schedule: what runs next, what no longer fits into the time, further seeds."""

import time
from dataclasses import replace
from pathlib import Path

import entries
import estimate
import pandas as pd
import pytest
import schedule
import wanted
import worker
from campaign_fixtures import SAMPLE, tiny

from fer_lib.runs import Run

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("without_kept_results")


def test_an_entry_cut_off_at_the_time_limit_resumes(long, tmp_path):
    place = entries.Place(dataset=SAMPLE)

    class Cut(schedule.Campaign):
        def look_after(self, entry):
            if entry.progress(place) is not None:
                self.until = 0.0

    cut = Cut(place, until=float("inf"), out=tmp_path)
    cut.run()
    assert [one.name for one in cut.ready()] == ["long"]
    assert not cut.failed
    begun = long.run(place)
    assert not begun.finished
    assert 1 <= len(long.progress(place)) < 40
    long.do(place)
    assert len(Run(begun.folder).metrics()) == 40
    again = schedule.Campaign(place, until=float("inf"), out=tmp_path)
    assert again.ready() == []
    assert again.archives.names()


def test_a_dry_run_that_the_time_limit_ends_is_not_called_an_unfinished_run(long, tmp_path, capsys):
    cut = schedule.Campaign(entries.Place(dataset=SAMPLE), until=time.time(), out=tmp_path)
    cut.dry_run()
    assert cut.worker.process is None
    cut.run()
    assert capsys.readouterr().out == "dry run, rehearsal: ended, as the time is over\n"


class Still:
    """A stand-in for `Worker` that starts no process and counts the calls of `end`."""

    def __init__(self, place):
        self.name, self.ended = None, 0

    def end(self):
        self.name, self.ended = None, self.ended + 1


@pytest.fixture
def still(monkeypatch, tmp_path):
    """A campaign with 100 s left, of a long entry that has begun and a short one."""
    rows = pd.DataFrame({"seconds": [9.0] + [1.0] * 4})

    class Begun(entries.Entry):
        def progress(self, place):
            return rows

    settings = tiny("long", epochs=300).settings
    long, short = Begun("long", model="baseline_cnn", settings=settings), tiny("short")
    monkeypatch.setattr(wanted, "FIRST", (long, short))
    monkeypatch.setattr(wanted, "LATER", ())
    monkeypatch.setattr(schedule, "Worker", Still)
    place = entries.Place(dataset=SAMPLE)
    return schedule.Campaign(place, until=time.time() + 100, out=tmp_path)


def test_the_first_entry_that_fits_the_remaining_time_starts(still):
    long, short = still.ready()
    assert 0 < estimate.saving(long.config()) < 0.1  # overlaps the next epoch
    assert still.left(long) == estimate.START + 295 * 1.0
    assert still.next() is short
    still.until += 300
    assert still.next() is long
    still.until = time.time() + 1  # nothing fits, so the one that ends soonest
    assert still.next() is short


def test_an_entry_that_turns_out_too_long_gives_way_to_one_that_fits(still, capsys):
    long = still.ready()[0]
    still.worker.name = "long"
    still.look_after(long)
    assert still.worker.ended == 1
    assert "does not fit: put aside after epoch 5 for short" in capsys.readouterr().out
    assert still.ratios["long"] > 0
    still.results["short"] = {}
    still.look_after(long)  # nothing else is waiting
    assert still.worker.ended == 1


def test_further_seeds_are_of_the_systems_that_are_best_on_validation(still):
    names = ("a", "a, variant", "b", "c", "d", "e")
    every = [tiny(name) for name in names]
    wanted.FIRST = tuple(every)
    for name, score in zip(names, (0.5, 0.9, 0.6, 0.7, 0.2, 0.8), strict=True):
        still.results[name] = {"valid": {"full": {"accuracy": score}}}
    chosen = [entry.name for entry in still.further_seeds()]
    best = ("a, variant", "e", "c", "b")
    assert chosen == [f"{name}, seed {seed}" for seed in (1, 2) for name in best]


def test_a_needed_entry_runs_first_and_only_while_another_entry_needs_it(still):
    mae = entries.Autoencoder("mae", settings={"epochs": 1})
    wants = entries.Entry("vit_mae", model="vit_mae", start="faces", needs=mae)
    wanted.FIRST = (mae, wants)
    assert still.ready() == [mae]
    still.results["vit_mae"] = {}
    assert still.ready() == []


def test_missing_data_fail_the_entry_that_needs_them(still):
    absent = replace(tiny("absent"), dataset="ferplus")
    still.place = entries.Place(data_dir="nowhere")
    still.looked_up = set()
    still.look_up(absent)
    assert list(still.failed) == ["absent"]


def test_kept_results_are_of_a_run_after_the_needed_pretraining(monkeypatch):
    monkeypatch.setattr(schedule, "RESULTS", ROOT / "report" / "results")
    names = ("vit_mae, patches of 8", "vit_mae, patches of 8, longer pretraining")
    entries = [wanted.by_name(name) for name in names]
    assert entries[0].config() == entries[1].config()  # "ENCODER" stands for the weights file
    short, long = (schedule.kept_results(entry) for entry in entries)
    assert short != long
    assert short["valid"]["full"]["accuracy"] < long["valid"]["full"]["accuracy"]


@pytest.mark.parametrize(
    ("command", "left"),
    [
        (["campaign.py", "run"], ["campaign.py", "run"]),
        (["campaign.py", "--only", "a", "b, seed 1"], ["campaign.py"]),
        (["campaign.py", "--only", "a", "--out", "x"], ["campaign.py", "--out", "x"]),
        (["campaign.py", "--only=a", "b", "--only", "c"], ["campaign.py"]),
    ],
)
def test_a_run_records_its_own_entry_in_place_of_all_that_the_command_named(command, left):
    assert worker.without_only(command) == left
