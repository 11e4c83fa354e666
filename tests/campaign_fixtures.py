"""Fixtures for tests of the campaign: small entries, and the archive of a finished one."""

from pathlib import Path

import pytest

SAMPLE = "sample-10-100"  # the data of the campaign in tests


def tiny(name: str, **settings):
    """Return an entry of the campaign: a small CNN for two epochs, some settings changed."""
    from entries import Entry

    small = {"batch_size": 16, "warmup_epochs": 0, "options": {"width": 4}, "flip_tta": True}
    return Entry(name, model="baseline_cnn", settings=small | {"epochs": 2} | settings)


@pytest.fixture
def without_kept_results(monkeypatch):
    """Leave out the kept results of the checkout; start workers of the campaign fast."""
    import campaign
    import entries
    import schedule
    import worker
    from forked import CONTEXT

    monkeypatch.setattr(worker, "get_context", lambda method: CONTEXT)
    entries.faces_of.cache_clear()
    for module in (campaign, schedule):
        monkeypatch.setattr(module, "RESULTS", Path(__file__).parent / "no such folder")


@pytest.fixture
def long(monkeypatch):
    """The only entry of the list, of 40 epochs, whose progress is looked at often."""
    import schedule
    import wanted

    entry = tiny("long", epochs=40)
    for name, every in (("FIRST", (entry,)), ("LATER", ()), ("SEEDS", ())):
        monkeypatch.setattr(wanted, name, every)
    monkeypatch.setattr(schedule, "POLL", 0.05)
    return entry


@pytest.fixture
def packed(tmp_path):
    """A finished run of an entry, and the path of the archive that contains it."""
    import packing
    from entries import Place

    place, entry = Place(dataset=SAMPLE), tiny("one")
    entry.do(place)
    run = entry.run(place)
    return run, packing.Archives(tmp_path / "out").add(packing.contents(run))
