"""Test comparisons of runs: ensembles, copies, costs, claims, and files."""

import json
import re
import timeit
from dataclasses import replace
from functools import partial
from math import prod
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.transforms import Bbox

from fer_lib import plots
from fer_lib.compare import (
    comparison,
    cost,
    ensemble_sentence,
    figures,
    known_refinement,
    read_answers,
    timed,
    write_comparison,
)
from fer_lib.compare.__main__ import main
from fer_lib.compare.claims import CLAIMS, NOT_RUN, claims_table
from fer_lib.compare.copies import expected, inflation
from fer_lib.compare.cost import costs, macs
from fer_lib.compare.formatting import tables
from fer_lib.compare.voting import best_subset, ensemble, soft_vote
from fer_lib.evaluate import mcnemar
from fer_lib.files import InputError, read_json, write_json
from fer_lib.models import MODULES, create_model
from fer_lib.models.moe import ATTENTIONS
from fer_lib.plots import comparison as drawn
from fer_lib.recipes import recipe
from fer_lib.runs import Run


def leaning(labels: np.ndarray, right: np.ndarray, sure: float) -> np.ndarray:
    """Return (N, 7) probabilities: `sure` for the label where `right`, else for the next class."""
    rows = np.full((len(labels), 7), (1 - sure) / 6)
    rows[np.arange(len(labels)), np.where(right, labels, (labels + 1) % 7)] = sure
    return rows


@pytest.fixture
def voters(make_run, noise) -> list[Run]:
    """Return three runs that are wrong in turn, and a fourth that is confident and always wrong.

    Any two of the first three outvote the remaining one.
    """
    labels = [noise.labels[noise.where(split)] for split in ("valid", "test")]
    turn = [np.arange(len(some)) % 4 for some in labels]
    runs = []
    for number in range(4):
        right = [t != number if number < 3 else t > 3 for t in turn]
        probabilities = tuple(
            leaning(some, ok, 0.5 if number < 3 else 0.97)
            for some, ok in zip(labels, right, strict=True)
        )
        runs.append(make_run(time=str(number), seed=number, probabilities=probabilities))
    return runs


def test_a_soft_vote_is_the_mean_of_probabilities(voters, noise):
    answers = read_answers(voters, noise)
    names = answers.names
    assert np.array_equal(soft_vote(answers, names[:1]), answers.test[0])
    expected = (answers.test[0] + answers.test[2]) / 2
    np.testing.assert_allclose(soft_vote(answers, [names[2], names[0]]), expected, rtol=1e-6)
    with pytest.raises(InputError, match="no run 'x' here"):
        soft_vote(answers, ["x"])


@pytest.mark.parametrize("exhaustive", [10, 1])
def test_the_best_subset_is_chosen_on_validation_only(voters, noise, monkeypatch, exhaustive):
    monkeypatch.setattr("fer_lib.compare.voting.EXHAUSTIVE", exhaustive)
    answers = read_answers(voters, noise)
    blind = replace(answers, test=np.full_like(answers.test, np.nan))
    members, steps = best_subset(blind)
    assert members == answers.names[:3]
    assert [len(step["members"]) for step in steps] == [1, 2, 3, 4]
    assert steps[0]["valid_accuracy"] == 0.75
    assert steps[2]["valid_accuracy"] == 1
    assert steps[3]["valid_accuracy"] == 0.25  # the fourth run outweighs two right ones


def test_ties_on_validation_are_not_broken_by_test_accuracy(voters, noise):
    """Runs are listed by test accuracy, so taking the first of equals would use the test set."""
    answers = read_answers(voters[:3], noise)
    surer = answers.valid**2 / (answers.valid**2).sum(-1, keepdims=True)
    tied = replace(answers, valid=np.stack([answers.valid[0], surer[0], answers.valid[0]]))
    chosen = tied.names[1]
    for order in (slice(None), slice(None, None, -1)):
        other = replace(
            tied, names=tied.names[order], valid=tied.valid[order], test=tied.test[order]
        )
        assert best_subset(other)[1][0]["members"] == [chosen]


def test_the_ensemble_is_tested_against_the_best_single_run(voters, noise):
    answers = read_answers(voters, noise)
    found = ensemble(answers)
    assert found["single"] == answers.names[0]
    right = dict(zip(answers.names, answers.correct.mean(axis=1), strict=True))
    assert right[found["highest"]["single"]] == max(right.values())
    assert found["highest"]["difference"] == pytest.approx(1 - max(right.values()))
    assert found["results"]["full"]["accuracy"] == 1
    assert found["results"]["clean"]["n"] == 399
    assert (found["difference"], found["only_a"], found["only_b"]) == (0.25, 100, 0)
    assert found["p"] == mcnemar(np.ones(400), answers.correct[0])
    assert found["finding"]
    said = ensemble_sentence(found)
    assert "(100.0%) is the soft vote of" in said
    assert "25.0 points better than baseline_cnn ours s0, of single runs the best on" in said


def test_the_sentence_on_a_single_member_says_that_no_subset_is_better(make_run, noise):
    better, worse = make_run(slice(0, 5), valid=1), make_run(slice(0, 300), valid=0, time="2")
    found = ensemble(read_answers([worse, better], noise))
    assert found["members"] == [found["single"]]
    assert ensemble_sentence(found).startswith("No subset votes better on validation than")


def test_inflation_is_full_minus_clean_accuracy_with_its_interval(make_run, noise):
    test = noise.where("test")
    noise.images[test[:100]] = noise.images[:20].repeat(5, axis=0)  # 20 images, 5 times each
    noise.images[test[100:110]] = noise.images[test[110:120]]  # copies in the test set are no leak
    noise.manifest.pop("fingerprint", None)
    sure_of_copies = make_run(slice(100, 300), faces=noise)
    table = inflation(read_answers([sure_of_copies], noise))
    row = table.iloc[0]
    assert (row["copied"], row["distinct"]) == (101, 299)  # the last is a copy too (see `noise`)
    assert row["copied_accuracy"] == 1
    assert row["distinct_accuracy"] == pytest.approx(99 / 299)
    assert row["accuracy"] == 0.5
    clean = sure_of_copies.results["test"]["clean"]
    assert clean["n"] == 289
    assert row["clean_accuracy"] == pytest.approx(clean["accuracy"]) == pytest.approx(99 / 289)
    assert row["inflation"] == pytest.approx(0.5 - 99 / 289)
    assert 0 < row["low"] < row["inflation"] < row["high"]
    right, labels, copied = np.ones(400, bool), noise.labels[test], np.arange(400) < 100
    right[100:300], copied[399] = False, True
    wanted = sum((labels[copied] == c).sum() * right[~copied & (labels == c)].mean()
                 for c in range(7)) / 101  # fmt: skip
    assert row["expected"] == pytest.approx(wanted)
    assert row["copied_less_expected"] == pytest.approx(1 - wanted)


def test_the_expected_accuracy_of_copies_follows_their_mix_of_classes():
    labels, copied = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1], bool)
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    assert expected(right, labels, copied) == 0.5  # recall of class 1, not 0.75 as on all others
    assert np.isnan(expected(right, labels, labels == 1))  # no other image of class 1
    assert np.isnan(expected(right, labels, np.zeros(6, bool)))


def test_the_interval_of_inflation_matches_a_bootstrap_over_groups_of_copies(make_run, noise):
    test = noise.where("test")
    noise.images[test[:100]] = noise.images[:4].repeat(25, axis=0)  # 4 images, 25 times each
    noise.manifest.pop("fingerprint", None)
    run = make_run(slice(60, 200), faces=noise)
    row = inflation(read_answers([run], noise)).iloc[0]
    right = np.ones(400)
    right[60:200] = 0
    groups = [np.arange(25 * k, 25 * k + 25) for k in range(4)] + [[k] for k in range(100, 399)]
    groups[0] = [*groups[0], 399]  # another copy of the first image
    clean = np.isin(np.arange(400), np.arange(100, 399))
    rng, differences = np.random.default_rng(9), []
    for _ in range(1000):
        drawn = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
        drawn = drawn.astype(int)
        differences.append(right[drawn].mean() - right[drawn[clean[drawn]]].mean())
    expected = np.quantile(differences, [0.025, 0.975])
    assert [row["low"], row["high"]] == pytest.approx(expected.tolist(), abs=0.012)
    assert row["inflation"] == pytest.approx(right.mean() - right[clean].mean())


def hand_count(width: int) -> int:
    """Return the MACs of `baseline_cnn` for a 48×48 grey image: 3×3 convolutions and the head."""
    stages = [(48 * 48, 1, width), (24 * 24, width, 2 * width), (12 * 12, 2 * width, 4 * width)]
    return sum(9 * prod(stage) for stage in stages) + 4 * width * 2 * width + 2 * width * 7


def test_macs_agree_with_a_count_by_hand(make_run):
    assert macs(create_model("baseline_cnn", width=8)) == hand_count(8)
    runs = [make_run(options={"width": w}, time=str(w)) for w in (4, 16)]
    assert costs(runs)["macs"].tolist() == [hand_count(4), hand_count(16)]
    assert costs(runs)["input"].tolist() == ["1x48x48"] * 2


def test_macs_of_attention_are_counted():
    """A block has 12 N D² for projections and MLP and 2 N² D for attention (N tokens, width D)."""
    tokens, width, depth = 1 + 36, 48, 2
    model = create_model("vit_patch", patch_size=8, embed_dim=width, depth=depth, num_heads=3)
    blocks = depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    others = 36 * 64 * width + width * width + width * 7
    assert macs(model) == blocks + others


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_macs_are_counted_for_every_attention_of_vit_moe(attention):
    options = recipe("vit_moe", "ours", "sample").options | {"attention": attention}
    assert macs(create_model("vit_moe", **options)) > 0


@pytest.mark.parametrize("model", MODULES)
def test_macs_do_not_depend_on_the_weights(make_run, model):
    """Zeros and random weights give the same count, also with experts or anchors."""
    run = make_run(model=model)
    torch.manual_seed(1)
    built = create_model(model, num_classes=7, **run.train_config.options)
    assert costs([run])["macs"].item() == macs(built) > 0


def test_times_are_read_from_the_run_folder_or_measured_on_demand(make_run):
    known, unknown = make_run(options={"width": 4}), make_run(time="2", options={"width": 8})
    alike = make_run(time="3", options={"width": 4, "dropout": [0.5, 0.5]})
    times = {"ms an image, batch of 1": 2.0, "ms an image, batch of 64": 0.5}
    write_json(
        known.folder / "inference.json", {"device": "cpu", "threads": 2, "milliseconds": times}
    )
    table = costs([known, unknown])
    assert table["ms_1"].tolist()[0] == 2
    assert table["ms_1"].isna().tolist() == [False, True]
    assert table["device"].isna().tolist() == [False, True]
    assert costs([known, alike])["ms_64"].tolist() == [0.5, 0.5]  # those of the same network
    main(["--time", str(unknown.folder)])
    again = costs([known, unknown]).iloc[1]
    assert again["ms_1"] > 0
    assert again["ms_64"] > 0
    assert again["threads"] == torch.get_num_threads()
    assert not (unknown.folder / "best.safetensors").exists()
    table = timed({"small": known})
    assert table.index.tolist() == ["small"]
    assert (table.to_numpy() > 0).all()
    assert table.attrs["on"].endswith(f", {torch.get_num_threads()} threads")
    assert costs([known])["ms_1"].item() == table["ms an image, batch of 1"].item()


def test_the_clock_stops_after_the_answer_is_copied_to_the_cpu(make_run, monkeypatch):
    seen = []

    def seconds():
        seen.append("clock")
        return float(len(seen))

    class OnItsWay:
        def cpu(self):
            seen.append("answer")

    monkeypatch.setattr(cost, "probabilities", lambda *_: OnItsWay())
    monkeypatch.setattr(cost, "repeat", partial(timeit.repeat, timer=seconds))
    cost.measure(make_run(options={"width": 4}))
    each = 1 + cost.CALLS  # the first call is a warm-up
    assert seen == ["clock", "answer", "clock"] * each * len(cost.BATCHES)


def test_timing_starts_from_bytes_in_memory_on_any_device(make_run, monkeypatch):
    seen = set()

    def elsewhere(network, images, prepare):
        seen.add((prepare.device.type, images.device.type, images.dtype))
        return torch.zeros(())

    monkeypatch.setattr(cost, "processes", lambda: SimpleNamespace(device=torch.device("meta")))
    monkeypatch.setattr(cost, "probabilities", elsewhere)
    cost.measure(make_run(options={"width": 4}))
    assert seen == {("meta", "cpu", torch.uint8)}


def test_the_command_line_prints_scores_and_the_results_of_the_tests(
    three_runs, noise, monkeypatch, capsys
):
    monkeypatch.setattr("fer_lib.compare.__main__.load_faces", lambda *_: noise)
    main([str(run.folder) for run in three_runs])
    text = capsys.readouterr().out
    assert "| attention_cnn ours s0 | 0." in text
    assert "attention_cnn ours s0 is better than baseline_cnn ours s0" in text
    assert text.endswith("sample data\n")
    (three_runs[0].folder / "results.json").unlink()
    with pytest.raises(SystemExit):
        main([str(three_runs[0].folder)])
    assert "is unfinished: train it to its end first" in capsys.readouterr().err


def test_with_many_runs_the_command_line_shows_only_tests_of_the_best_on_validation(
    make_run, noise, monkeypatch, capsys
):
    monkeypatch.setattr("fer_lib.compare.__main__.load_faces", lambda *_: noise)
    runs = [
        make_run(slice(0, 50 - number), valid=0.7 - 0.01 * number, time=str(number), seed=number)
        for number in range(7)
    ]
    main([str(run.folder) for run in runs])
    text = capsys.readouterr().out
    said = [line for line in text.splitlines() if "finding." in line]
    assert len(said) == 6
    assert all("baseline_cnn ours s0" in line for line in said)  # the worst on test images
    assert "Among the others, 0 of 15 differences are findings" in text


def test_the_figure_of_times_shows_one_machine_only(make_run, noise):
    runs = [make_run(time=t, seed=int(t), epochs=int(t) + 1) for t in "1234"]  # the last is untimed
    for run, processor in zip(runs[:3], ("slow", "fast", "slow"), strict=True):
        write_json(
            run.folder / "inference.json",
            {"device": "cpu", "processor": processor, "threads": 1,
             "milliseconds": {"ms an image, batch of 1": 3.0}},
        )  # fmt: skip
    drawn = figures(comparison(runs, noise))
    axis = drawn["cost_time"].axes[0]
    assert axis.get_xlabel().endswith("slow (cpu, 1 thread)")
    assert sorted(text.get_text() for text in axis.texts if text.get_text()) == [
        "baseline_cnn epochs=2",
        "baseline_cnn epochs=4",
        "baseline_cnn epochs=5",  # not timed: has the times of the newest run of its network
    ]


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
    ]
    table = claims_table(runs)
    assert table["system"].tolist() == [claim.system for claim in CLAIMS]
    first = table.iloc[0]
    assert first["published_runs"] == 2  # with the unchanged recipe, so not epochs=3
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
    other = full(make_run, valid=0.8, time="4", pretrained=starts["1"], **made)
    both = claims_table([Run(runs[0].folder), other]).groupby("system", sort=False).first()
    assert both.loc["vit_tiny", ["published_runs", "published_alike"]].tolist() == [1, 0.8]
    alone = claims_table([runs[1]]).groupby("system", sort=False).first()
    assert alone.loc["vit_tiny", "published_setting"] == "pretrained=false"


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
    assert 0.9 in [x for line in crosses for x in np.atleast_1d(line.get_xdata())]
    # A run with the network of the recipe is preferred even if it scores less.
    own = full(make_run, model="vit_tiny", valid=0.1, wrong=slice(0, 200), time="2", epochs=3)
    row = claims_table([run, own]).set_index("system").loc["vit_tiny"]
    assert (row["ours_test"], row["ours_setting"]) == (0.5, "epochs=3")
    assert row["ours_other_test"] == pytest.approx(0.9)
    plain = tables(comparison([own], noise))["claims"]
    assert "on another network" not in plain


def test_only_one_seed_of_a_system_is_tested_and_has_a_letter(three_runs, noise):
    compared = comparison(three_runs, noise)
    assert len(compared["tests"]) == 1  # two of the three runs are seeds of one system
    (test,) = compared["tests"]
    assert test["p"] == test["p_holm"]
    assert tables(compared)["comparison"]["group"].tolist() == ["a", "b", ""]


def test_figures_of_many_runs_show_one_run_of_each_system(make_run, noise):
    runs = [make_run(time=str(10 + n), seed=n % 7, epochs=5 + n // 7) for n in range(14)]
    compared = comparison(runs[:12], noise)
    drawn = figures(compared)
    rows = lambda made, name: len(made[name].axes[0].get_yticklabels())
    names = ("accuracies", "recalls", "agreement", "copies")
    assert [rows(drawn, name) for name in names] == [12] * 4
    drawn = figures(comparison(runs, noise))
    assert [rows(drawn, name) for name in names] == [2] * 4


def test_a_claim_is_compared_on_its_own_images_and_at_its_own_epoch(make_run):
    run = full(make_run, model="vit_mae", name="published", valid=0.8, wrong=slice(0, 100))
    pd.DataFrame({"epoch": [3, 4, 5], "valid_accuracy": [0.1, 0.2, 0.3]}).to_csv(
        run.folder / "metrics.csv", index=False
    )
    early, late = claims_table([run]).query("system == 'vit_mae'")["published_alike"]
    assert early == 0.2
    assert late == pytest.approx((80 + 300) / 500)  # validation and test pooled


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


def test_every_file_has_the_mark_and_the_same_numbers(three_runs, noise, tmp_path):
    compared = comparison(three_runs, noise)
    write_comparison(tmp_path / "out", compared)
    folder = tmp_path / "out"
    kept = read_json(folder / "comparison.json")
    assert kept == compared
    assert kept["mark"] == "sample data"
    assert [row["accuracy"] for row in kept["runs"]] == [0.85, 0.75, 0.7475]
    assert [row["letters"] for row in kept["runs"]] == ["a", "b", None]
    assert kept["runs"][0]["ferplus_majority"] is None
    assert kept["images"] == {"valid": 100, "test": 400, "clean": 399}
    assert kept["agreement"]["names"] == [row["name"] for row in kept["runs"]]

    stems = {path.stem for path in folder.glob("*.csv")}
    assert stems == {"comparison", "recalls", "systems", "tests", "costs", "copies", "claims"}
    assert {path.stem for path in folder.glob("*.tex")} == stems
    for path in folder.glob("*.csv"):
        assert set(pd.read_csv(path)["mark"]) == {"sample data"}
    read = pd.read_csv(folder / "comparison.csv", index_col="name")
    assert read["accuracy"].tolist() == [0.85, 0.75, 0.7475]
    text = (folder / "comparison.md").read_text()
    assert text.splitlines()[2] == "**Sample data**"
    assert text.count("**Sample data**") == 1 + 7 + 1  # the top, seven tables, the ensemble
    assert "| attention_cnn ours s0 | a | 85.0% (" in text
    assert "nan" not in text
    assert {path.stem for path in folder.glob("*.svg")} == set(figures(compared))


@pytest.fixture
def undrawn(monkeypatch):
    """Skip the figures, which take most of the time."""
    monkeypatch.setattr("fer_lib.compare.writing.figures", lambda compared: {})


@pytest.mark.usefixtures("undrawn")
def test_latex_has_booktabs_rules_and_no_unescaped_characters(three_runs, noise, tmp_path):
    write_comparison(tmp_path, comparison(three_runs, noise))
    for path in tmp_path.glob("*.tex"):
        text = path.read_text()
        for rule in (r"\toprule", r"\midrule", r"\bottomrule", "(sample data)}"):
            assert rule in text, path
        plain = text.replace(r"\_", "").replace(r"\%", "").replace(r"\&", "")
        assert "%" not in plain
        assert "_" not in plain
        columns = re.search(r"\\begin{tabular}{(.*)}$", text, re.MULTILINE)[1]
        number = len(re.findall(r"l|p\{[^}]*\}", columns))
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {line.replace(r"\&", "").count("&") for line in rows} == {number - 1}, path
    assert r"p{0.2\linewidth}" in (tmp_path / "claims.tex").read_text()
    assert r"attention\_cnn ours s0 & a & 85.0\% (" in (tmp_path / "comparison.tex").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_has_no_paired_tests_and_no_ensemble(three_runs, noise, tmp_path):
    write_comparison(tmp_path, comparison(three_runs, noise))
    assert (tmp_path / "tests.tex").exists()
    (tmp_path / "my faces.png").touch()
    (tmp_path / "ensemble.png").touch()
    compared = comparison(three_runs[:1], noise)
    assert compared["tests"] == []
    assert compared["ensemble"] is None
    write_comparison(tmp_path, compared)
    assert "nothing to compare" in (tmp_path / "comparison.md").read_text()
    assert not list(tmp_path.glob("tests.*"))  # those of the earlier comparison are deleted
    assert [path.name for path in tmp_path.glob("*.png")] == ["my faces.png"]
    assert "ensemble" not in figures(compared)


@pytest.mark.usefixtures("undrawn")
def test_no_mark_is_written_for_runs_without_one(make_run, noise, tmp_path):
    noise.manifest["mark"] = ""
    write_comparison(tmp_path, comparison([make_run(mark=""), make_run(mark="", time="2")], noise))
    assert "**" not in (tmp_path / "comparison.md").read_text()
    assert pd.read_csv(tmp_path / "comparison.csv")["mark"].isna().all()


def test_points_of_equal_cost_are_drawn_apart():
    table = pd.DataFrame(
        {"model": "vit_cnn", "recipe": "ours", "cost": [1e6, 1e6, 2e6], "accuracy": [0.5, 0.6, 0.7],
         "low": 0.4, "high": 0.8},
        index=["a", "b", "c"],
    )  # fmt: skip
    (axis,) = plots.cost(table, mark="", xlabel="MACs").axes
    costs = sorted(bars[0].get_xdata().item() for bars in axis.containers)
    assert costs == pytest.approx([1e6 / 1.08**0.5, 1e6 * 1.08**0.5, 2e6])


@pytest.mark.parametrize(("other", "side"), [(0.45, "center"), (0.3, "right")])
def test_no_other_point_is_between_a_label_and_its_point(monkeypatch, other, side):
    monkeypatch.setattr(drawn, "AROUND", [(-30, 0), (0, 30)])
    _, axis = plots.new_figure(4, 3, mark="")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    drawn.label_points(axis, np.array([[0.5, 0.5], [other, 0.5]]), ["b", ""])
    (label,) = [text for text in axis.texts if text.get_text() == "b"]
    assert label.get_horizontalalignment() == side


def test_labels_do_not_cover_each_other_or_points():
    """There are sixteen points, of which eight are close together."""
    models = list(MODULES)
    rng = np.random.default_rng(0)
    cost = np.r_[10 ** rng.uniform(6, 8, 8), 10 ** rng.uniform(9.9, 10, 8)]
    accuracy = np.r_[rng.uniform(0.5, 0.7, 8), rng.uniform(0.68, 0.72, 8)]
    table = pd.DataFrame(
        {"model": models * 2, "recipe": ["ours"] * 8 + ["published"] * 8, "cost": cost,
         "accuracy": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01},
        index=[*models, *(f"{name} published" for name in models)],
    )  # fmt: skip
    figure = plots.cost(table, mark="", xlabel="MACs")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    labels = [text for text in axis.texts if text.get_text()]
    assert {text.get_text() for text in labels} == set(table.index)
    boxes = [text.get_window_extent() for text in labels]
    points = axis.transData.transform(table[["cost", "accuracy"]].to_numpy())
    inside = axis.get_window_extent().padded(1)
    for number, box in enumerate(boxes):
        assert not any(Bbox.intersection(box, other) for other in boxes[number + 1 :])
        assert not any(box.contains(*point) for point in points)
        assert inside.contains(box.x0, box.y0)
        assert inside.contains(box.x1, box.y1)


def test_figures_need_only_the_content_of_comparison_json(three_runs, noise):
    compared = json.loads(json.dumps(comparison(three_runs, noise)))
    drawn = figures(compared)
    assert set(drawn) == {
        *("accuracies", "recalls", "agreement", "copies", "claims"),
        *("cost_parameters", "cost_macs", "ensemble"),
    }
    for name, figure in drawn.items():
        assert figure.get_supxlabel() == "sample data", name
        assert figure._repr_png_(), name
    shown = drawn["agreement"].axes[0]
    assert [label.get_text() for label in shown.get_yticklabels()] == [
        f"{name}  {number}" for number, name in enumerate(compared["agreement"]["names"], 1)
    ]
    kappa = [text.get_text() for text in shown.texts]
    assert f"{compared['agreement']['kappa'][0][1]:.2f}"[1:] in kappa  # .77
    right = {row["name"]: row["valid_accuracy"] for row in compared["runs"]}
    lead = compared["lead"]
    first, second = sorted(right, key=right.get, reverse=True)[:2]
    assert (lead["first"], lead["second"]) == (first, second)
    assert lead["difference"] == pytest.approx(right[first] - right[second])
