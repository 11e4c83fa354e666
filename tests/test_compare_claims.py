"""Published claims: the runs that reproduce them, changed settings, and other networks."""

import numpy as np
import pandas as pd
import pytest

from fer_lib.compare import comparison, figures, known_refinement
from fer_lib.compare.claims import NOT_RUN, claims_table
from fer_lib.compare.formatting import tables
from fer_lib.compare.published import CLAIMS
from fer_lib.files import write_json
from fer_lib.models import MODULES
from fer_lib.runs import Run


def full(make_run, **options) -> Run:
    return make_run(preset="full", mark="", dataset="fer2013", **options)


def test_claims_are_listed_with_the_runs_that_reproduce_them(make_run):
    runs = [
        full(make_run, name="published", valid=0.6, time="1"),
        full(make_run, name="published", valid=0.7, time="2", seed=1),
        full(make_run, name="published", valid=0.9, time="3", epochs=3),
        full(make_run, wrong=slice(0, 100), time="4"),
        make_run(model="vit_cnn", name="published", dataset="fer2013", mark="", time="5"),
        full(make_run, model="vit_tiny", name="published", pretrained="there/w.safetensors"),
        full(make_run, model="grefel", name="published", time="6"),
        make_run(name="published", preset="full", dataset="fer2013", mark="some", time="7", seed=2),
    ]
    table = claims_table(runs)
    assert table["system"].tolist() == [claim.system for claim in CLAIMS]
    first = table.iloc[0]
    assert first["published_runs"] == 2  # with the unchanged recipe, so not epochs=3, and unmarked
    assert first["published_alike"] == pytest.approx(0.65)
    assert first["difference"] == pytest.approx(0.65 - 0.5203)
    assert (first["ours_runs"], first["ours_test"]) == (1, 0.75)
    assert first["ours_clean"] == pytest.approx(299 / 399)
    by_system = table.groupby("system", sort=False).first()
    assert by_system.loc["vit_cnn", "published_runs"] == 0  # another preset
    assert by_system.loc["vit_tiny", "published_runs"] == 1
    assert by_system.loc["grefel", "published_runs"] == 0  # not on the dataset of the claim
    assert table["note"].tolist() == [""] * (len(CLAIMS) - 1) + [NOT_RUN]


def test_changes_to_the_recipe_are_listed_with_the_claim(make_run, noise):
    run = full(make_run, name="published", valid=0.9, epochs=3)
    row = claims_table([run]).iloc[0]
    assert (row["published_runs"], row["published_setting"]) == (1, "epochs=3")
    printed = tables(comparison([run], noise))["claims"]
    alike = printed["published recipe, images alike"]
    assert alike.iloc[0] == "90.0% (+38.0 points, epochs=3)"
    assert set(alike.iloc[1:]) == {NOT_RUN}


def test_random_weights_or_a_start_from_a_run_are_changes_to_the_recipe(make_run):
    made = {"model": "vit_tiny", "name": "published"}
    starts = {"1": "/a/backbone.safetensors", "2": False, "3": "/runs/1_vit_tiny/best.safetensors"}
    runs = [
        full(make_run, valid=0.7 if time == "1" else 0.9, time=time, pretrained=start, **made)
        for time, start in starts.items()
    ]
    by_system = claims_table(runs).groupby("system", sort=False).first()
    assert by_system.loc["vit_tiny", "published_runs"] == 1  # the path of the file is no change
    assert by_system.loc["vit_tiny", "published_alike"] == pytest.approx(0.7)
    # Starts from different weights are different settings, even if the files have one name.
    config = runs[0].config
    write_json(runs[0].folder / "config.json", config | {"environment": {"pretrained_sha256": "a"}})
    other = full(make_run, valid=0.8, time="4", seed=1, pretrained=starts["1"], **made)
    both = claims_table([Run(runs[0].folder), other]).groupby("system", sort=False).first()
    assert both.loc["vit_tiny", ["published_runs", "published_alike"]].tolist() == [1, 0.8]
    alone = claims_table([runs[1]]).groupby("system", sort=False).first()
    assert alone.loc["vit_tiny", "published_setting"] == "pretrained=false"


def test_a_start_from_an_own_pretraining_is_named_by_its_epochs(make_run):
    runs, made = [], {"model": "vit_mae", "pretrained": "/r/encoder.safetensors"}
    for time, epochs, valid in (("1", 5, 0.5), ("2", 9, 0.7)):
        run = full(make_run, time=time, valid=valid, **made)
        write_json(run.folder / "config.json", run.config | {"pretraining": {"epochs": epochs}})
        pd.DataFrame({"epoch": [1], "valid_accuracy": [0.5]}).to_csv(run.folder / "metrics.csv")
        runs.append(Run(run.folder))
    row = claims_table(runs).query("system == 'vit_mae'").iloc[-1]
    assert (row["ours_runs"], row["ours_setting"]) == (1, "pretraining_epochs=9")


def test_another_network_is_no_reproduction_and_is_listed_separately(make_run, noise):
    small = {"backbone": "vit_small_patch16_224"}
    run = full(make_run, model="vit_tiny", valid=0.9, wrong=slice(0, 40), options=small)
    table = claims_table([run]).set_index("system")
    row = table.loc["vit_tiny"]
    assert (row["ours_runs"], row["ours_other_runs"]) == (0, 1)
    assert np.isnan(row["ours_test"])
    assert row["ours_other_test"] == pytest.approx(0.9)
    compared = comparison([run], noise)
    printed = tables(compared)["claims"].loc["vit_tiny"]
    assert printed["our recipe, test"] == NOT_RUN
    assert printed["on another network"] == (
        "our recipe, test: 90.0% (backbone=vit_small_patch16_224)"
    )
    (axis,) = figures(compared)["claims"].axes
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    (cross,) = [line for line in crosses if 0.9 in np.atleast_1d(line.get_xdata())]
    assert np.mod(cross.get_ydata(), 1) == pytest.approx(0.33)  # beside the bar, not on it
    why = [text.get_text() for text in axis.texts]
    assert why.count("not an accuracy") == 1
    assert set(why) == {"not an accuracy", "not run yet"}
    # A run with the network of the recipe is preferred even if it scores less.
    own = full(make_run, model="vit_tiny", valid=0.1, wrong=slice(0, 200), time="2", epochs=3)
    row = claims_table([run, own]).set_index("system").loc["vit_tiny"]
    assert (row["ours_test"], row["ours_setting"]) == (0.5, "epochs=3")
    assert row["ours_other_test"] == pytest.approx(0.9)
    plain = tables(comparison([own], noise))["claims"]
    assert "on another network" not in plain


def test_a_claim_is_compared_on_its_own_images_and_at_its_own_epoch(make_run):
    run = full(make_run, model="vit_mae", name="published", valid=0.8, wrong=slice(0, 100))
    pd.DataFrame({"epoch": [3, 4, 5], "valid_accuracy": [0.1, 0.2, 0.3]}).to_csv(
        run.folder / "metrics.csv", index=False
    )
    early, late = claims_table([run]).query("system == 'vit_mae'")["published_alike"]
    assert early == 0.2
    assert late == pytest.approx((80 + 300) / 500)  # validation and test pooled


def test_a_claim_that_is_no_accuracy_is_not_compared(make_run, noise):
    run = full(make_run, model="vit_moe", name="published")
    printed = tables(comparison([run], noise))["claims"].loc["vit_moe"]
    assert printed["published recipe, images alike"] == "the claim is no accuracy"


def test_the_note_on_refinement_counts_the_changed_labels(make_run):
    kept = {"dataset": "fer2013", "mark": "", "voters": ["a", "b", "c"], "changed": {
        "majority": {"train": {"changed": 1234, "images": 28709}}}}  # fmt: skip
    note = claims_table([], kept)["note"].iloc[-1]
    assert note == "1,234 of 28,709 training labels, by 3 voters"
    kept["changed"]["majority"] |= {
        split: {"changed": n, "images": 3589} for split, n in (("valid", 500), ("test", 600))
    }
    more = claims_table([], kept)["note"].iloc[-1]
    assert more == f"{note}; it would change 1,100 of the 7,178 others"
    for other in ({"mark": "trained on 64 images"}, {"dataset": "ferplus"}):
        assert claims_table([], kept | other)["note"].iloc[-1] == NOT_RUN


def test_a_refinement_of_other_data_or_another_preset_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    folder = tmp_path / "data" / "fer2013"
    assert known_refinement("full") is None
    found = {"fingerprint": "a", "student": {"preset": "full"}}
    for name, content in (("refinement", found), ("manifest", {"fingerprint": "a"})):
        write_json(folder / f"{name}.json", content)
    assert known_refinement("full") == found
    assert known_refinement("quick") is None
    for other in ({"fingerprint": "b"}, {"data_dir": None}):  # no fingerprint while data are read
        write_json(folder / "manifest.json", other)
        assert known_refinement("full") is None


def test_the_published_recipe_includes_the_labels_of_the_claim(make_run):
    of = {"model": "grefel", "name": "published", "preset": "full", "mark": ""}
    of["dataset"] = "ferplus"
    votes = make_run(slice(0, 100), labels="votes", time="1", **of)
    runs = [votes, make_run(time="2", **of)]
    row = claims_table(runs).query("dataset == 'ferplus'").iloc[0]
    assert (row["published_setting"], row["published_test"]) == ("", pytest.approx(0.75))
    row = claims_table(runs[1:]).query("dataset == 'ferplus'").iloc[0]
    assert row["published_setting"] == "labels=original"


def test_only_the_newest_run_of_a_seed_counts(make_run):
    runs = [
        full(make_run, valid=valid, time=time, seed=seed, name="published")
        for time, seed, valid in (("1", 0, 0.5), ("3", 1, 0.7), ("2", 0, 0.6))
    ]
    row = claims_table(runs).iloc[0]
    assert (row["published_runs"], row["published_alike"]) == (2, pytest.approx(0.65))


def test_every_claim_is_complete():
    assert {claim.system for claim in CLAIMS} == {*MODULES, "refinement"}
    for claim in CLAIMS:
        assert all((claim.claimed, claim.on, claim.source, claim.fault, claim.instead))
        if claim.accuracy is not None:
            assert f"{100 * claim.accuracy:.2f}%" in claim.claimed
