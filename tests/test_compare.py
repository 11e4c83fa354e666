"""Tests of the comparison of runs: names, scores, paired tests, and agreement."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from fer_lib.changed import changed_settings
from fer_lib.compare import (
    best_on_validation,
    by_test_set,
    finished_runs,
    leaderboard,
    marks,
    paired_tests,
    read_answers,
    records,
    sentences,
    short_names,
)
from fer_lib.compare.answers import Answers
from fer_lib.compare.names import settings, system_names
from fer_lib.compare.paired import agreement, letters, pair_up
from fer_lib.compare.scores import averaging, label_on_majority, systems
from fer_lib.config import PRESETS, TrainConfig
from fer_lib.data.ferplus import majority
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import mcnemar
from fer_lib.files import InputError, write_json
from fer_lib.recipes import RECIPES, recipe
from fer_lib.runs import Run


def test_the_best_run_is_chosen_on_validation_or_by_name(three_runs):
    assert best_on_validation(three_runs) is three_runs[0]
    assert best_on_validation(three_runs, three_runs[2].name) is three_runs[2]
    assert best_on_validation(three_runs, str(three_runs[2].folder)) is three_runs[2]


def test_missing_runs_and_unknown_names_are_refused(three_runs):
    with pytest.raises(InputError, match="train one first"):
        best_on_validation([])
    with pytest.raises(InputError, match="train one first"):
        leaderboard([])
    with pytest.raises(InputError, match=r"no run 'x'.*1_baseline_cnn_noise_s0"):
        best_on_validation(three_runs, "x")


def test_the_finished_runs_of_faces_and_a_preset_are_listed(three_runs, make_run, noise, tmp_path):
    make_run(preset="quick", time="4")
    other = noise.subset(np.arange(len(noise) - 1))
    make_run(faces=other, time="5")
    found = finished_runs(noise, "sample", tmp_path)
    assert [run.name for run in found] == [run.name for run in three_runs]
    with pytest.raises(InputError, match="preset is one of sample, quick, full, not 'sampel'"):
        finished_runs(noise, "sampel", tmp_path)
    text = (
        "with preset full: these data have 3 with sample and 1 with quick: set preset, or train one"
    )
    with pytest.raises(InputError, match=text):
        finished_runs(noise, "full", tmp_path)
    with pytest.raises(InputError, match=r"there is no finished run .* quick: train one first"):
        finished_runs(other, "quick", tmp_path / "none")


def test_names_tell_apart_different_runs_of_one_recipe(three_runs, make_run):
    shorter = make_run(slice(0, 5), time="4", epochs=5)
    again = make_run(slice(0, 5), time="5", epochs=5)
    other = make_run(slice(0, 5), time="6", seed=1, limit=64)
    assert short_names([*three_runs, shorter, again, other]) == [
        "baseline_cnn ours s0",
        "attention_cnn ours s0",
        "baseline_cnn ours s1",
        "baseline_cnn ours s0 epochs=5 4",
        "baseline_cnn ours s0 epochs=5 5",
        "baseline_cnn ours s1 limit=64",
    ]
    table = leaderboard([*three_runs, shorter, other])
    seeds = table.groupby(["model", "recipe", "setting"]).size()
    assert seeds.loc["baseline_cnn", "ours"].to_dict() == {"": 2, "epochs=5": 1, "limit=64": 1}


LONG = {"epochs": 5, "lr": 0.01, "batch_size": 16, "weight_decay": 0.5}


def test_a_long_setting_becomes_a_star_with_a_letter_if_there_are_several(make_run):
    one = make_run(slice(0, 5), time="7", **LONG)
    seed = make_run(slice(0, 5), time="8", seed=1, **LONG)
    assert short_names([one, seed]) == ["baseline_cnn ours* s0", "baseline_cnn ours* s1"]
    assert set(system_names([one, seed])) == {"baseline_cnn ours*"}
    other = make_run(slice(0, 5), time="9", **LONG | {"lr": 0.02})
    plain = make_run(slice(0, 5), time="A")
    runs = [other, one, plain, seed]
    names = ["baseline_cnn ours*b s0", "baseline_cnn ours*a s0", "baseline_cnn ours s0"]
    assert short_names(runs) == [*names, "baseline_cnn ours*a s1"]
    assert short_names(runs[::-1]) == short_names(runs)[::-1]  # in any order of the runs
    settings = leaderboard(runs)["setting"]
    assert settings["baseline_cnn ours*b s0"] == " ".join(changed_settings(other.train_config))


def test_runs_with_other_contents_of_the_same_file_are_another_system(make_run):
    def learned(time: str, digest: str, seed: int) -> Run:
        run = make_run(slice(0, 5), time=time, labels="refined_majority", seed=seed)
        config = run.config
        config["data"]["refined_sha256"] = digest * 32
        write_json(run.folder / "config.json", config)
        return Run(run.folder)

    first, again, better = learned("1", "ab", 0), learned("2", "ab", 1), learned("3", "cd", 1)
    assert set(system_names([first, again])) == {"baseline_cnn ours labels=refined_majority"}
    runs = [first, again, better]
    a, b = "baseline_cnn ours*a", "baseline_cnn ours*b"
    assert system_names(runs) == [a, a, b]
    assert settings(runs)[2] == ["labels=refined_majority", "refined_sha256=cdcdcdcd"]
    assert list(leaderboard(runs)["setting"]) == [" ".join(one) for one in settings(runs)]


def test_a_run_from_the_hub_without_a_record_of_its_weights_is_no_other_system(make_run):
    known, before = (
        make_run(slice(0, 5), model="vit_tiny", time=str(seed), seed=seed, pretrained=True)
        for seed in (0, 1)
    )
    config = known.config
    config["environment"]["pretrained_sha256"] = "ab" * 32
    write_json(known.folder / "config.json", config)
    known = Run(known.folder)
    assert settings([known, before])[0] == settings([known, before])[1]
    assert len(set(system_names([known, before]))) == 1


def test_the_name_of_a_run_includes_another_backbone(make_run):
    small = {"backbone": "vit_small_patch16_224", "img_size": 48}
    run = make_run(slice(0, 5), model="vit_tiny", **LONG, options=small)
    bare = make_run(
        slice(0, 5), model="vit_tiny", time="2", options={"backbone": "vit_small_patch16_224"}
    )
    assert short_names([run, bare]) == [
        "vit_tiny ours* on vit_small_patch16_224 s0",
        "vit_tiny ours on vit_small_patch16_224 s0",
    ]


def test_runs_that_differ_only_in_the_seed_are_one_system(three_runs, make_run):
    shorter = make_run(slice(0, 5), time="4", epochs=5, seed=2)
    plain = ["baseline_cnn ours", "attention_cnn ours", "baseline_cnn ours"]
    assert system_names([*three_runs, shorter]) == [*plain, "baseline_cnn ours epochs=5"]
    again = make_run(slice(0, 5), time="5", epochs=5, seed=3)
    assert set(system_names([shorter, again])) == {"baseline_cnn ours epochs=5"}


def test_a_system_has_the_mean_spread_and_interval_over_its_seeds(three_runs, noise):
    table = systems(leaderboard(three_runs), read_answers(three_runs, noise))
    assert list(table.index) == ["attention_cnn ours", "baseline_cnn ours"]
    two = table.loc["baseline_cnn ours"]
    assert (two["runs"], two["seeds"], two["best"], two["worst"]) == (2, "0, 1", 0.75, 0.7475)
    assert two["mean"] == pytest.approx((300 + 299) / 800)
    assert two["sd"] == pytest.approx(np.std([300 / 400, 299 / 400], ddof=1))
    assert two["valid_accuracy"] == pytest.approx((0.8 + 0.5) / 2)
    one = table.loc["attention_cnn ours"]
    assert np.isnan(one["sd"])
    # For one run it is the usual interval, whose half-width is 1.96 standard errors.
    error = np.sqrt(0.85 * 0.15 / 400)
    assert (one["high"] - one["low"]) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_only_the_newest_run_of_a_seed_counts(three_runs, make_run, noise):
    again = make_run(slice(0, 200), time="9", seed=1)
    table = leaderboard([*three_runs, again])
    row = systems(table, read_answers([*three_runs, again], noise)).loc["baseline_cnn ours"]
    assert (row["runs"], row["seeds"]) == (2, "0, 1")
    assert row["sd"] == pytest.approx(np.std([0.75, 0.5], ddof=1))  # with the newest run of seed 1
    assert (row["mean"], row["worst"], row["best"]) == (0.625, 0.5, 0.75)


def test_the_headline_run_of_a_system_is_its_best_on_validation(three_runs, make_run, noise):
    _, other, second = three_runs
    again = make_run(slice(0, 200), time="9", seed=0)  # a tie: lowest seed, newest run
    table = leaderboard([*three_runs, again])
    assert table["run"][table["headline"]].tolist() == [other.name, again.name]
    results = second.results
    results["valid"]["full"]["accuracy"] += 0.1
    write_json(second.folder / "results.json", results)
    table = leaderboard([*three_runs, again])
    assert set(table["run"][table["headline"]]) == {other.name, second.name}


def test_the_leaderboard_has_the_accuracy_without_the_mirror_image(three_runs):
    run = three_runs[0]
    results = run.results | {"one_view": {"valid": 0.7, "test": 0.74}}
    write_json(run.folder / "results.json", results)
    column = leaderboard([Run(run.folder), three_runs[1]])["one_view"]
    assert column["baseline_cnn ours s0"] == 0.74
    assert column["attention_cnn ours s0"] == three_runs[1].results["test"]["full"]["accuracy"]
    train = run.config["train"] | {"flip_tta": True}  # without `one_view`, this accuracy is unknown
    write_json(run.folder / "config.json", run.config | {"train": train})
    del results["one_view"]
    write_json(run.folder / "results.json", results)
    assert np.isnan(leaderboard([Run(run.folder)])["one_view"].item())


def test_of_many_tests_only_those_of_the_given_run_have_sentences():
    names = [f"m{i}" for i in range(8)]
    rows = [
        {"a": a, "b": b, "difference": 0.1 * (j - i), "only_a": 1, "only_b": 0, "p": 0.01,
         "p_holm": 0.02 if i == 1 else 0.2, "finding": i == 1}
        for i, a in enumerate(names) for j, b in enumerate(names) if i < j
    ]  # fmt: skip
    said = sentences(pd.DataFrame(rows), "m2")
    assert len(said) == 8
    assert all("m2" in line for line in said[:7])
    assert said[-1] == "Among the others, 5 of 21 differences are findings; the table has them."
    assert len(sentences(pd.DataFrame(rows[:3]), "m2")) == 3
    assert len(sentences(pd.DataFrame(rows))) == len(rows)


def test_a_plain_recipe_has_no_changed_settings():
    for (model, name), preset in product(RECIPES, PRESETS):
        config = recipe(model, name, preset, seed=3)
        assert changed_settings(config) == []
        assert changed_settings(TrainConfig.from_dict(config.to_dict())) == []


def test_changed_settings_are_exactly_those_that_differ_from_the_recipe():
    plain = recipe("attention_cnn", "ours", "full")
    milder = replace(plain.augmentation, rotate=3, scale=(0.5, 1.5))
    assert changed_settings(replace(plain, augmentation=milder)) == [
        "augmentation.rotate=3",
        "augmentation.scale=[0.5,1.5]",
    ]
    wider = recipe(
        "attention_cnn", options={"width": 32}, labels="votes", lr=0.5, class_weights=True
    )
    assert changed_settings(wider) == [
        *("labels=votes", "lr=0.5", "class_weights=true", "width=32")
    ]
    assert changed_settings(recipe("attention_cnn", epochs=2)) == ["epochs=2"]
    assert changed_settings(recipe("attention_cnn", epochs=2, warmup_epochs=1)) == [
        "epochs=2",
        "warmup_epochs=1",
    ]
    named = replace(recipe("attention_cnn", epochs=2), pretrained="/there/own faces.safetensors")
    assert changed_settings(named) == ["pretrained=own faces.safetensors", "epochs=2"]
    lacking = replace(recipe("attention_cnn", "published"), options={})
    assert changed_settings(lacking) == ["attention=default"]


def test_the_leaderboard_contains_the_scores_of_the_results(three_runs):
    table = leaderboard(three_runs)
    assert list(table.index) == [
        "attention_cnn ours s0",
        "baseline_cnn ours s0",
        "baseline_cnn ours s1",
    ]
    row = table.loc["baseline_cnn ours s0"]
    assert (row["accuracy"], row["valid_accuracy"]) == pytest.approx((0.75, 0.8))
    # The model is right on the one image that is left out of the clean ones.
    assert row["clean_accuracy"] == pytest.approx(299 / 399)
    assert row["low"] < 0.75 < row["high"]
    assert np.isnan(row["ferplus_majority"])  # there are no votes


def test_accuracies_are_listed_by_run_and_test_set(three_runs):
    table = by_test_set({"a": three_runs[0], "b": three_runs[1]})
    assert table.columns.tolist() == ["model", "set", "value", "low", "high"]
    assert table["model"].tolist() == ["a"] * (len(table) // 2) + ["b"] * (len(table) // 2)
    full = table[table["set"] == "all test images"].set_index("model")
    assert full["value"].tolist() == pytest.approx([0.75, 0.85])
    interval = three_runs[1].results["test"]["full"]["interval"]["accuracy"]
    assert full.loc["b", ["low", "high"]].tolist() == interval
    assert set(table["set"]) == {"all test images", "clean"}  # these faces have no votes


def test_runs_may_be_given_other_names(three_runs, noise):
    called = dict(zip(("one", "two", "three"), three_runs, strict=True))
    tests = paired_tests(called, noise)
    assert {*tests["a"], *tests["b"]} == {"one", "two", "three"}
    assert tests["p"].tolist() == paired_tests(three_runs, noise)["p"].tolist()
    table, plain = leaderboard(called), leaderboard(three_runs)
    assert table.index.map(called.get).map(lambda run: run.name).tolist() == table["run"].tolist()
    assert table["headline"].tolist() == plain["headline"].tolist()


def test_paired_tests_agree_with_the_binomial_test_and_holm(three_runs, noise):
    tests = paired_tests(three_runs, noise).set_index(["a", "b"])
    assert len(tests) == 3
    clear = tests.loc["attention_cnn ours s0", "baseline_cnn ours s0"]
    assert (clear["only_a"], clear["only_b"]) == (60, 20)
    assert clear["difference"] == pytest.approx(0.1)
    assert clear["p"] == pytest.approx(binomtest(60, 80).pvalue)
    assert clear["p_holm"] == pytest.approx(2 * binomtest(60, 80).pvalue)
    half = 1.96 * np.sqrt(60 + 20 - 40**2 / 400) / 400  # Wald interval of a paired difference
    assert [clear["low"], clear["high"]] == pytest.approx([0.1 - half, 0.1 + half], abs=0.006)
    assert clear["clean_difference"] == pytest.approx(40 / 399)  # one image is a copy
    assert clear["clean_p_holm"] == clear["p_holm"]  # on it, both are right or both wrong
    assert tests[["majority_difference", "majority_p_holm"]].isna().all(axis=None)  # no votes
    assert records(pd.DataFrame({"x": [np.nan]}, ["a"]), "index") == {"a": {"x": None}}
    row = records(tests.reset_index("b"))[0]
    assert row["a"] == tests.index[0][0]
    assert row["majority_p_holm"] is None  # JSON has no NaN
    close = tests.loc["baseline_cnn ours s0", "baseline_cnn ours s1"]
    assert (close["only_a"], close["only_b"], close["p"]) == (1, 0, 1)
    assert clear["half_width"] == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400))
    assert clear["finding"]
    assert not close["finding"]


def test_planned_tests_are_against_the_first_run_and_corrected_for_their_number_alone(
    three_runs, noise
):
    tests = paired_tests(dict(zip("abc", three_runs, strict=True)), noise, against_first=True)
    assert tests[["a", "b"]].to_numpy().tolist() == [["b", "a"], ["a", "c"]]
    assert tests["p_holm"].tolist() == pytest.approx([2 * binomtest(60, 80).pvalue, 1])


def test_a_difference_below_the_half_width_is_no_finding_however_small_its_p(noise):
    labels = noise.labels[noise.where("test")]
    answered = np.stack([labels, labels])
    answered[:, 200:400] = (labels[200:400] + 1) % 7  # both wrong
    answered[1, :12] = (labels[:12] + 1) % 7  # one of them wrong in twelve more
    given = np.eye(len(noise.classes))[answered]
    tests = pair_up(Answers(["one", "other"], noise, np.zeros((2, 1, 1)), given))
    row = tests.iloc[0]
    assert row["p_holm"] < 0.001
    assert 0 < row["difference"] < row["half_width"]
    assert not row["finding"]
    (said,) = sentences(tests)
    assert said.startswith("one is better than other by less than")
    assert said.endswith("no finding.")


def test_pairs_are_also_tested_against_the_majority_of_the_annotators():
    faces = make_sample(600)
    test, classes = faces.where("test"), len(faces.classes)
    seen = majority(faces.votes[test])
    known = (seen >= 0) & (seen < classes)
    by_label = np.eye(classes)[faces.labels[test]]
    by_vote = np.eye(classes)[np.where(known, seen, 0)]
    answers = Answers(["label", "vote"], faces, np.zeros((2, 1, 1)), np.stack([by_label, by_vote]))
    row = pair_up(answers).iloc[0]
    assert (row["a"], row["b"]) == ("label", "vote")
    assert row["difference"] == 1 - (by_vote.argmax(1) == faces.labels[test]).mean() > 0
    other = (faces.labels[test] == seen)[known].mean() - 1
    assert row["majority_difference"] == pytest.approx(other)
    assert label_on_majority(answers).to_dict() == {"label": 1, "vote": pytest.approx(1 + other)}
    assert row["majority_p_holm"] == mcnemar((faces.labels[test] == seen)[known], known[known])


def test_sentences_say_which_differences_are_findings(three_runs, noise):
    said = sentences(paired_tests(three_runs, noise))
    better = "attention_cnn ours s0 is better than baseline_cnn ours s0 (10.0 points"
    assert any(text.startswith(better) and text.endswith(": a finding.") for text in said)
    alike = "baseline_cnn ours s0 and baseline_cnn ours s1 cannot be told apart"
    assert any(text.startswith(alike) and text.endswith("no finding.") for text in said)


def test_a_run_trained_on_other_data_is_refused(three_runs, noise):
    other = noise.subset(np.arange(len(noise) - 1))
    with pytest.raises(InputError, match=r"trained on other data .*: give its own as data_dir"):
        paired_tests(three_runs, other)
    three_runs[0].config["data"]["dataset"] = "another"
    with pytest.raises(InputError, match=r"trained on other data .*: use runs on the same data"):
        paired_tests(three_runs, other)


def test_each_mark_of_data_and_runs_is_listed_once(three_runs, noise, make_run):
    assert marks(three_runs, noise) == "sample data"
    quick = make_run(slice(0, 5), time="4", mark="sample data; trained on 8,192 images")
    assert marks([*three_runs, quick, quick], noise) == "sample data; some trained on 8,192 images"
    assert marks([quick, quick], noise) == "sample data; trained on 8,192 images"
    plain = make_run(slice(0, 5), time="5", mark="")
    noise.manifest["mark"] = ""
    assert marks([plain], noise) == ""


def findings(names: str, pairs: list[str]) -> pd.DataFrame:
    """Return a table of tests of every two names; those in `pairs` are findings."""
    rows = [(a, b, a + b in pairs) for a, b in combinations(names, 2)]
    return pd.DataFrame(rows, columns=["a", "b", "finding"])


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([], "a a a a"),
        (["ad"], "a ab ab b"),
        (["ac", "ad"], "a ab b b"),
        (["ab", "ac", "ad", "bc", "bd", "cd"], "a b c d"),
        (["ac", "ad", "bd"], "a ab bc c"),
        (["ac", "bd"], "ab ac cd bd"),  # a cycle: the groups have no linear order
    ],
)
def test_letters_of_known_cases(pairs, wanted):
    assert letters("abcd", findings("abcd", pairs)) == dict(
        zip("abcd", wanted.split(), strict=True)
    )


def test_letters_are_shared_exactly_if_there_is_no_finding():
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = "abcdefghij"[: rng.integers(2, 11)]
        tests = findings(names, [])
        tests["finding"] = rng.random(len(tests)) < rng.random()
        given = letters(names, tests)
        for a, b, finding in tests.itertuples(index=False):
            assert bool(set(given[a]) & set(given[b])) == (not finding)
        groups = {x: {n for n in names if x in given[n]} for x in set("".join(given.values()))}
        assert not any(g < h for g in groups.values() for h in groups.values())  # none is redundant
        assert given[names[0]].startswith("a")


def test_agreement_matches_scikit_learn(three_runs, noise):
    answers = read_answers(three_runs, noise)
    kappa, equal = agreement(answers)
    first, second = answers.predicted[:2]
    names = answers.names
    assert equal.loc[names[0], names[1]] == (first == second).mean()
    assert kappa.loc[names[1], names[0]] == pytest.approx(cohen_kappa_score(first, second))
    assert np.diag(kappa).tolist() == [1, 1, 1]


def test_two_runs_that_always_predict_the_same_class_agree(make_run, noise):
    same = tuple(np.tile(np.eye(7)[3], (len(noise.where(s)), 1)) for s in ("valid", "test"))
    runs = [make_run(time=time, probabilities=same, seed=int(time)) for time in "12"]
    kappa, equal = agreement(read_answers(runs, noise))
    assert kappa.to_numpy().tolist() == equal.to_numpy().tolist() == [[1, 1], [1, 1]]


def test_the_average_is_compared_with_the_weights_themselves(three_runs):
    run, other = three_runs[0], three_runs[1].results | {"best_epoch": 2}
    write_json(run.folder / "results.json", run.results | {"best_epoch": 1})
    for decay, alone in ((0.0, "weights"), (0.9, "average")):
        train = run.config["train"] | {"ema_decay": decay}
        write_json(run.folder / "config.json", run.config | {"train": train})
        assert list(averaging(Run(run.folder)).index) == [alone]
    keys = ("best_epoch", "valid", "test")
    unaveraged = {"unaveraged": {key: other[key] for key in keys}}
    write_json(run.folder / "results.json", run.results | unaveraged)
    table = averaging(Run(run.folder))
    assert list(table["accuracy"]) == [300 / 400, 340 / 400]
    assert dict(table["best_epoch"]) == {"average": 1, "weights": 2}
    name = run.config["data"]["classes"][0]
    assert table[name]["weights"] == other["test"]["full"]["per_class"][name]["recall"]
