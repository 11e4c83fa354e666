"""The wanted entries of the campaign: all systems, their settings, estimates and aims."""

import json
from dataclasses import replace
from types import SimpleNamespace

import aims
import campaign
import entries
import estimate
import pytest
import systems
import wanted
from campaign_fixtures import SAMPLE, tiny

from fer_lib.config import TrainConfig
from fer_lib.data.refined import load_refined
from fer_lib.files import InputError

pytestmark = pytest.mark.usefixtures("without_kept_results")


def test_every_system_is_listed_and_no_two_entries_are_the_same_run():
    configs = {e.name: e.config() for e in wanted.every() if e.model}
    assert {"baseline_cnn", "attention_cnn", "vit_patch", "vit_cnn"} < configs.keys()
    assert {"vit_small", "vit_tiny", "vit_mae", "vit_moe", "grefel"} < configs.keys()
    besides = {
        e.name: e.dataset + (e.needs.name if e.start == "faces" else "") for e in wanted.every()
    }
    text = {e: json.dumps(config.to_dict(), sort_keys=True) for e, config in configs.items()}
    texts = [besides[name] + text[name] for name in configs]
    assert len(set(texts)) == len(configs)
    assert configs["vit_small"].options["backbone"] == "vit_small_patch14_dinov2"
    moe, refined = configs["vit_moe"], configs["vit_moe, refined"]
    assert replace(refined, labels="original") == moe


def test_given_options_are_merged_with_those_of_an_entry():
    place = entries.Place(changes={"options": {"width": 16}, "epochs": 9})
    bare = wanted.by_name("attention_cnn, muon, no gates").config(place)
    assert (bare.options["attention"], bare.options["width"], bare.epochs) == ("none", 16, 9)
    assert bare.batch_size == 256
    place = entries.Place(changes={"augmentation": {"erase": 0.0}})
    draws = wanted.by_name("attention_cnn").config(place).augmentation
    assert draws == replace(systems.STRONG, erase=0.0)


def test_a_dry_run_is_long_enough_to_replay_a_recorded_step():
    for recorded, epochs in ((None, 1), (object(), 4)):
        done = []
        entries.train_one(SimpleNamespace(recorded=recorded, train_epoch=done.append))
        assert done == list(range(epochs))


def test_labels_by_other_voters_do_not_finish_a_refinement():
    place = entries.Place(dataset=SAMPLE)
    voters = ((tiny("one"), {"epochs": 1}),)
    entry = entries.Refinement("voters", voters=voters, folds=2)
    entry.do(place)
    assert entry.finished(place)
    files = entry.files(place)
    assert all(load_refined(place.faces(SAMPLE), rule).rule == rule for rule in files)
    before = files["majority"].read_bytes()
    soft = files["soft"].read_bytes()
    files["soft"].unlink()
    assert not entry.finished(place)
    entry.do(place)  # makes the missing file and leaves the other
    assert entry.finished(place)
    assert (files["majority"].read_bytes(), files["soft"].read_bytes()) == (before, soft)
    other = entries.Refinement("voters", voters=voters, folds=3)
    assert not other.finished(place)
    with pytest.raises(InputError, match=r"refined_majority\.npz is by other voters"):
        other.do(place)


def test_estimates_grow_with_image_size_and_steps_per_epoch():
    assumed = estimate.assumed
    small, large = (
        TrainConfig("vit_tiny", options=campaign.BACKBONE | {"img_size": size}, batch_size=512)
        for size in (112, 224)
    )
    assert 3 < assumed(large) / assumed(small) < 6
    few, many = (TrainConfig("baseline_cnn", batch_size=size) for size in (512, 32))
    assert assumed(many) > 5 * assumed(few)
    whole = sum(estimate.left(entry) for entry in (*wanted.FIRST, *wanted.LATER))
    assert 600 < whole < 7200


def test_every_training_belongs_to_an_aim_or_is_a_listed_exception():
    known = {name for aim in aims.AIMS for name in aim.entries}
    every = {entry.name for entry in wanted.every() if entry.model and not entry.seed}
    without = {
        *("baseline_cnn, published", "attention_cnn, published", "attention_cnn, muon, no gates"),
        "vit_mae, patches of 8, from scratch",
    }
    assert every - known == without
    assert known <= every


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.6399, "missed"), (0.64, "as expected"), (0.67, "as hoped for"), (None, "")],
)
def test_an_aim_counts_the_entry_that_is_best_on_validation(monkeypatch, accuracy, verdict):
    test = {"accuracy": accuracy, "interval": {"accuracy": [0.2, 0.9]}}
    better = {"test": {"full": {**test, "accuracy": 0.99}}, "valid": {"full": {"accuracy": 0.5}}}
    best = {"test": {"full": test}, "valid": {"full": {"accuracy": 0.6}}}
    known = {"a": better, "b": better, "b, seed 2": best} if accuracy else {}
    aim = aims.Aim("system", ("a", "b"), expected=64, hoped=67, limits="size")
    monkeypatch.setattr(aims, "AIMS", (aim,))
    monkeypatch.setattr(wanted, "by_name", campaign.Entry)
    monkeypatch.setattr(aims, "kept_results", lambda entry: known.get(entry.name))
    row = aims.table().splitlines()[-1]
    shown = f"{accuracy:.1%} (20.0% to 90.0%)" if accuracy else "not run yet"
    who = "b, seed 2" if accuracy else ""
    assert row == f"| system | 64% | 67% | {shown} | {verdict} | {who} | size |"
