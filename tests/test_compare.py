"""The comparison of runs: who is best, which differences are findings, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from fer_lib.compare import (
    best_on_validation,
    by_test_set,
    leaderboard,
    marks,
    paired_tests,
    sentences,
    setting,
    short_names,
    write_comparison,
)
from fer_lib.config import PRESETS, TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import InputError, write_json
from fer_lib.recipes import recipe
from fer_lib.runs import Run

TEST = 400


@pytest.fixture
def faces() -> FaceSet:
    """Noise images with random labels and a mark: 40 to train, 100 to validate, `TEST` to test."""
    rng = np.random.default_rng(3)
    split = np.repeat(["train", "valid", "test"], [40, 100, TEST])
    n = len(split)
    images = rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    images[-1] = images[0]  # one test image that is not clean
    ids = np.array([f"face{row:04d}" for row in range(n)])
    manifest = {"mark": "sample data"}
    return FaceSet("noise", images, rng.integers(0, 7, n), split, ids, manifest=manifest)


def make_run(
    root: Path,
    faces: FaceSet,
    wrong: slice,
    *,
    valid: float = 0.5,
    time: str = "1",
    mark: str = "sample data",
    **config,
) -> Run:
    """A finished run that is right on every test image but those of `wrong`."""
    settings = recipe(config.pop("model", "baseline_cnn"), "ours", "sample", **config)
    answers = faces.labels.copy()
    test, held = faces.where("test"), faces.where("valid")
    answers[test[wrong]] += 1
    answers[held[: round((1 - valid) * len(held))]] += 1
    sure = np.eye(7)[answers % 7]
    # Kept in another order than that of the faces: they are found by their ids.
    predictions = Predictions.of(faces, sure[held], sure[test])
    backwards = {
        name: getattr(predictions, name)[::-1] for name in ("test_ids", "test_probabilities")
    }
    predictions = Predictions(**{**vars(predictions), **backwards})
    folder = root / f"{time}_{settings.model}_noise_s{settings.seed}"
    write_json(
        folder / "config.json",
        {"train": settings.to_dict(), "data": {"fingerprint": faces.fingerprint}},
    )
    save_predictions(folder / "predictions.npz", predictions)
    results = {
        **{key: getattr(settings, key) for key in ("model", "recipe", "seed")},
        **{"parameters": 7, "train_images": 64, "epochs": 2, "mark": mark},
        **{part: evaluate(faces, predictions, part) for part in ("valid", "test")},
    }
    write_json(folder / "results.json", results)
    return Run(folder)


@pytest.fixture
def runs(tmp_path, faces) -> list[Run]:
    """Right on 300, on 340 and on 299 of 400; the first is best on validation."""
    return [
        make_run(tmp_path, faces, slice(0, 100), valid=0.8),
        make_run(tmp_path, faces, slice(60, 120), model="attention_cnn", time="2"),
        make_run(tmp_path, faces, slice(0, 101), seed=1, time="3"),
    ]


def test_the_best_on_validation_is_not_chosen_by_the_test(runs):
    assert best_on_validation(runs) is runs[0]
    assert best_on_validation(runs, runs[2].name) is runs[2]


def test_without_runs_or_with_a_wrong_name_one_is_told_what_to_do(runs):
    with pytest.raises(InputError, match="train one first"):
        best_on_validation([])
    with pytest.raises(InputError, match="train one first"):
        leaderboard([])
    with pytest.raises(InputError, match=r"no run 'x'.*1_baseline_cnn_noise_s0"):
        best_on_validation(runs, "x")


def test_runs_of_one_recipe_that_differ_are_told_apart(tmp_path, faces, runs):
    shorter = make_run(tmp_path, faces, slice(0, 5), time="4", epochs=5)
    again = make_run(tmp_path, faces, slice(0, 5), time="5", epochs=5)
    other = make_run(tmp_path, faces, slice(0, 5), time="6", seed=1, limit=64)
    assert short_names([*runs, shorter, again, other]) == [
        "baseline_cnn ours s0",
        "attention_cnn ours s0",
        "baseline_cnn ours s1",
        "baseline_cnn ours s0 epochs=5 4",
        "baseline_cnn ours s0 epochs=5 5",
        "baseline_cnn ours s1 limit=64",
    ]
    table = leaderboard([*runs, shorter, other])
    seeds = table.groupby(["model", "recipe", "setting"]).size()
    assert seeds.loc["baseline_cnn", "ours"].to_dict() == {"": 2, "epochs=5": 1, "limit=64": 1}


def test_what_all_runs_of_a_recipe_changed_alike_is_not_in_their_names(tmp_path, faces):
    few = make_run(tmp_path, faces, slice(0, 5), time="7", epochs=5, limit=64)
    many = make_run(tmp_path, faces, slice(0, 5), time="8", epochs=5)
    assert short_names([few, many]) == ["baseline_cnn ours s0 limit=64", "baseline_cnn ours s0"]
    assert short_names([many]) == ["baseline_cnn ours s0 epochs=5"]


def test_of_many_tests_only_those_of_the_best_run_are_said():
    names = [f"m{i}" for i in range(8)]
    rows = [
        {"a": a, "b": b, "difference": 0.1 * (j - i), "only_a": 1, "only_b": 0, "p": 0.01,
         "p_holm": 0.02, "finding": i == 1}
        for i, a in enumerate(names) for j, b in enumerate(names) if i < j
    ]  # fmt: skip
    said = sentences(pd.DataFrame(rows))
    assert len(said) == 8
    assert all(line.startswith("m0 and m") for line in said[:7])
    assert said[-1] == "Among the others, 6 of 21 differences are findings; the table has them."
    assert len(sentences(pd.DataFrame(rows[:3]))) == 3


@pytest.mark.parametrize("model", ["baseline_cnn", "attention_cnn"])
@pytest.mark.parametrize("name", ["ours", "published"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_plain_recipe_has_no_setting(model, name, preset):
    config = recipe(model, name, preset, seed=3)
    assert setting(config) == ""
    assert setting(TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))) == ""


def test_a_setting_names_all_that_differs_and_nothing_else():
    plain = recipe("attention_cnn", "ours", "full")
    milder = replace(plain.augmentation, rotate=3, scale=(0.5, 1.5))
    assert setting(replace(plain, augmentation=milder)) == (
        "augmentation.rotate=3 augmentation.scale=[0.5,1.5]"
    )
    wider = recipe(
        "attention_cnn", options={"width": 32}, labels="votes", lr=0.5, class_weights=True
    )
    assert setting(wider) == "labels=votes lr=0.5 class_weights=true width=32"
    assert setting(recipe("attention_cnn", epochs=2)) == "epochs=2"
    assert setting(recipe("attention_cnn", epochs=2, warmup_epochs=1)) == "epochs=2 warmup_epochs=1"
    lacking = replace(recipe("attention_cnn", "published"), options={})
    assert setting(lacking) == "attention=default"


def test_the_leaderboard_holds_the_scores_of_the_results(runs):
    table = leaderboard(runs)
    assert list(table.index) == [
        "attention_cnn ours s0",
        "baseline_cnn ours s0",
        "baseline_cnn ours s1",
    ]
    row = table.loc["baseline_cnn ours s0"]
    assert (row["accuracy"], row["valid_accuracy"]) == pytest.approx((0.75, 0.8))
    # The image that is left out of the clean ones is one that the model has right.
    assert row["clean_accuracy"] == pytest.approx(299 / 399)
    assert row["low"] < 0.75 < row["high"]
    assert np.isnan(row["ferplus_majority"])  # there are no votes


def test_accuracies_stand_by_test_set_and_name(runs, faces):
    table = by_test_set({"a": runs[0], "b": runs[1]})
    assert table.columns.tolist() == ["model", "set", "value", "low", "high"]
    assert table["model"].tolist() == ["a"] * (len(table) // 2) + ["b"] * (len(table) // 2)
    full = table[table["set"] == "all test images"].set_index("model")
    assert full["value"].tolist() == pytest.approx([0.75, 0.85])
    interval = runs[1].results["test"]["full"]["interval"]["accuracy"]
    assert full.loc["b", ["low", "high"]].tolist() == interval
    assert set(table["set"]) == {"all test images", "clean"}  # these faces have no votes


def test_paired_tests_agree_with_the_binomial_and_with_holm(runs, faces):
    tests = paired_tests(runs, faces).set_index(["a", "b"])
    assert len(tests) == 3
    clear = tests.loc["attention_cnn ours s0", "baseline_cnn ours s0"]
    assert (clear["only_a"], clear["only_b"]) == (60, 20)
    assert clear["difference"] == pytest.approx(0.1)
    assert clear["p"] == pytest.approx(binomtest(60, 80).pvalue)
    assert clear["p_holm"] == pytest.approx(2 * binomtest(60, 80).pvalue)
    close = tests.loc["baseline_cnn ours s0", "baseline_cnn ours s1"]
    assert (close["only_a"], close["only_b"], close["p"]) == (1, 0, 1)
    assert clear["finding"]
    assert not close["finding"]


def test_a_difference_that_chance_makes_is_called_no_finding(runs, faces):
    said = sentences(paired_tests(runs, faces))
    better = "attention_cnn ours s0 is better than baseline_cnn ours s0 (10.0 points"
    assert any(text.startswith(better) and text.endswith(": a finding.") for text in said)
    alike = "baseline_cnn ours s0 and baseline_cnn ours s1 cannot be told apart"
    assert any(text.startswith(alike) and text.endswith("no finding.") for text in said)


def test_one_run_alone_has_no_pair(runs, faces, tmp_path):
    tests = paired_tests(runs[:1], faces)
    assert tests.empty
    assert "nothing to compare" in sentences(tests)[0]
    write_comparison(tmp_path / "out", leaderboard(runs[:1]), tests, "")
    assert "nothing to compare" in (tmp_path / "out/comparison.md").read_text()


def test_a_run_of_other_data_is_refused(runs, faces):
    other = faces.subset(np.arange(len(faces) - 1))
    with pytest.raises(InputError, match="trained on other data"):
        paired_tests(runs, other)


def test_predictions_of_other_images_are_refused_with_a_sentence(runs, faces):
    path = runs[0].folder / "predictions.npz"
    fewer = faces.subset(np.arange(len(faces) - 1))
    sure = np.eye(7)[fewer.labels]
    save_predictions(
        path, Predictions.of(fewer, sure[fewer.where("valid")], sure[fewer.where("test")])
    )
    with pytest.raises(InputError, match="lack 1 of the 400 test images"):
        paired_tests(runs, faces)


def test_marks_of_data_and_runs_stand_once_each(tmp_path, runs, faces):
    assert marks(runs, faces) == "sample data"
    quick = make_run(
        tmp_path, faces, slice(0, 5), time="4", mark="sample data; trained on 8,192 images"
    )
    assert marks([*runs, quick, quick], faces) == "sample data; some trained on 8,192 images"
    assert marks([quick, quick], faces) == "sample data; trained on 8,192 images"
    plain = make_run(tmp_path, faces, slice(0, 5), time="5", mark="")
    faces.manifest["mark"] = ""
    assert marks([plain], faces) == ""


def test_every_file_has_the_mark_and_the_same_numbers(runs, faces, tmp_path):
    table, tests = leaderboard(runs), paired_tests(runs, faces)
    write_comparison(tmp_path, table, tests, faces.mark)

    read = pd.read_csv(tmp_path / "comparison.csv", index_col="name")
    assert set(read["mark"]) == {"sample data"}
    assert read["accuracy"].tolist() == table["accuracy"].tolist()
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["mark"] == "sample data"
    assert [row["accuracy"] for row in kept["runs"]] == table["accuracy"].tolist()
    assert kept["runs"][0]["ferplus_majority"] is None
    assert [row["p_holm"] for row in kept["tests"]] == pytest.approx(tests["p_holm"].tolist())
    text = (tmp_path / "comparison.md").read_text()
    assert text.splitlines()[2] == "**Sample data**"
    assert (
        "| attention_cnn ours s0 | attention_cnn | ours |  | 0 | 7 | 2 | 64 | 0.5 | 0.85 |" in text
    )
    assert "nan" not in text


def test_without_a_mark_none_is_written(runs, faces, tmp_path):
    write_comparison(tmp_path, leaderboard(runs), paired_tests(runs, faces), "")
    assert "**" not in (tmp_path / "comparison.md").read_text()
    assert pd.read_csv(tmp_path / "comparison.csv")["mark"].isna().all()
