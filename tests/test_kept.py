"""Test kept results: their files, what these must not contain, and the tables of the READMEs."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fer_lib import train as train_module
from fer_lib.config import PRESETS
from fer_lib.data.faceset import FaceSet
from fer_lib.data.loading import KINDS
from fer_lib.data.refined import (
    Refined,
    refined_sha256,
    save_refined,
)
from fer_lib.data.sample import make_sample
from fer_lib.evaluate import Predictions, evaluate, load_predictions, save_predictions
from fer_lib.files import InputError, read_json, write_json
from fer_lib.kept import best_of_each, keep_results, on_real_faces, results_table
from fer_lib.kept import results as kept_module
from fer_lib.kept.__main__ import main
from fer_lib.markdown import END, START, write_table
from fer_lib.provenance import training_command
from fer_lib.recipes import RECIPES, recipe
from fer_lib.runs import Run

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "report" / "results"
README = f"# Title\n\n{START}\nold\n{END}\n\nMore text.\n"


def make_run(
    root: Path,
    *,
    right: int,
    name: str = "1_baseline_cnn_noise_s0",
    mark: str = "",
    dataset: str = "fer2013",
    leak=False,
    valid: int = 20,
) -> Run:
    """Make a finished run, right on `right` of 20 test and on `valid` of 20 validation images.

    With `leak`, test images are copies of training images, so that none of them is clean.
    """
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "valid", "test"], 20)
    images = rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    if leak:
        images[40:] = images[:20]
    ids = np.array([f"face{row}" for row in range(60)])
    faces = FaceSet("noise", images, rng.integers(0, 7, 60), split, ids)
    answers = faces.labels.copy()
    answers[40 + right :] += 1
    answers[20 + valid : 40] += 1
    sure = np.eye(7)[answers % 7]
    predictions = Predictions.of(faces, sure[20:40], sure[40:])
    folder = root / "runs" / name
    environment = {
        "command": f"{root}/fer_lib/train.py baseline_cnn --data-dir {root}/secret --runs {root}",
        **{"processor": "A processor", "torch": "2", "commit": "0123456789abcdef"},
    }
    data = {"fingerprint": "f", "source": f"{root}/secret", "counts": faces.counts()}
    train = recipe("baseline_cnn").to_dict()
    write_json(folder / "config.json", {"train": train, "data": data, "environment": environment})
    results = {
        **{"model": "baseline_cnn", "recipe": "ours", "preset": "full", "seed": 0},
        **{"dataset": dataset, "mark": mark, "epochs": 3, "train_seconds": 90.0},
        **{part: evaluate(faces, predictions, part) for part in ("valid", "test")},
    }
    write_json(folder / "results.json", results)
    save_predictions(folder / "predictions.npz", predictions)
    (folder / "metrics.csv").write_text("epoch,valid_loss,lr\n1,1.123456789012,0.1\n2,,0.1\n")
    return Run(folder)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Make a repository with its two READMEs the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "report" / "results"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(README)
    return tmp_path


def test_kept_runs_are_in_the_tables_best_first(root):
    worse = make_run(root, right=10, valid=10, mark=r"\1 sample data")
    better = make_run(root, right=15, name="2_baseline_cnn_noise_s0")
    main([str(worse.folder)])
    main([str(better.folder)])
    text = (root / "README.md").read_text()
    assert text.startswith(f"# Title\n\n{START}\n| model | data | test accuracy (95 %) |")
    assert text.endswith(f"|\n{END}\n\nMore text.\n")
    first, second = text.splitlines()[5:7]
    assert first.startswith("| baseline_cnn | fer2013 | 75.0% (")
    assert r"| fer2013 \1 sample data | 50.0% (" in second
    assert "| ours, full | 1 | 3 |" in second
    every = (root / "report" / "results" / "README.md").read_text()
    assert "| ours, full | 0 | 3 | A processor, torch 2 | 01234567 |" in every
    main([])
    assert (root / "README.md").read_text() == text
    kept = read_json(root / "report/results" / f"{better.name}.json")
    assert kept["results"] == better.results
    assert kept["config"]["train"] == better.config["train"]
    assert kept["metrics"] == [
        {"epoch": 1, "valid_loss": 1.123456789012, "lr": 0.1},
        {"epoch": 2, "valid_loss": None, "lr": 0.1},
    ]


def test_best_of_each_returns_the_run_of_each_kind_that_is_best_on_validation(root):
    for right, valid, lr in ((15, 10, 0.1), (10, 15, 0.2), (12, 12, 0.3)):
        run = make_run(root, right=right, valid=valid, name=f"{right}_baseline_cnn_noise_s0")
        train = recipe("baseline_cnn", lr=lr).to_dict()
        write_json(run.folder / "config.json", run.config | {"train": train})
        keep_results(Run(run.folder), root / "kept")
    keep_results(make_run(root, right=11, valid=11, name="2_baseline_cnn_noise_s2"), root / "kept")
    published = make_run(root, right=20, valid=1, name="1_baseline_cnn_noise_s1")
    write_json(published.folder / "results.json", published.results | {"recipe": "published"})
    keep_results(Run(published.folder), root / "kept")
    table = results_table(root / "kept")
    best = best_of_each(table)
    assert len(table) == 5
    assert list(best["recipe"]) == ["ours*, full", "ours, full", "published, full"]
    assert list(best["runs"]) == ["3", "1", "1"]
    assert list(best["validation"]) == ["75.0%", "55.0%", "5.0%"]


def test_evaluation_and_times_of_a_run_are_kept_and_other_json_files_are_ignored(root):
    run = make_run(root, right=10)
    write_json(run.folder / "evaluation.json", {"calibration": 1})
    main([str(run.folder)])
    path = root / "report/results" / f"{run.name}.json"
    assert read_json(path)["evaluation"] == {"calibration": 1}
    assert "inference" not in read_json(path)
    write_json(run.folder / "inference.json", {"milliseconds": 2})
    keep_results(run, path.parent)
    assert read_json(path)["inference"] == {"milliseconds": 2}
    write_json(path.with_name("comparison.json"), {"no": "run"})
    main([])


@pytest.mark.parametrize("which", ["one_view", "unaveraged"])
def test_the_other_predictions_of_a_run_are_kept_and_restored(root, monkeypatch, which):
    run = make_run(root, right=10)
    given = load_predictions(run.folder / "predictions.npz")
    other = replace(given, test_probabilities=given.test_probabilities[:, ::-1].copy())
    save_predictions(run.folder / f"predictions_{which}.npz", other)
    keep_results(run, root / "kept")
    with np.load(root / "kept" / f"{run.name}_{which}.npz") as file:
        assert file["test_probabilities"].dtype == np.float16
    monkeypatch.setenv("FER_HOME", str(root / "elsewhere"))
    (back,) = kept_module.restore(root / "kept")
    read = load_predictions(back.folder / f"predictions_{which}.npz")
    np.testing.assert_allclose(read.test_probabilities, other.test_probabilities, atol=1e-3)


def test_the_table_has_the_changed_settings_and_the_accuracy_in_one_view(root):
    run = make_run(root, right=10)
    train = recipe("baseline_cnn", lr=0.5, epochs=7, labels="refined_majority").to_dict()
    train["flip_tta"] = True
    write_json(run.folder / "config.json", run.config | {"train": train})
    results = run.results | {"one_view": {"valid": 0.4, "test": 0.321}}
    write_json(run.folder / "results.json", results)
    keep_results(Run(run.folder), root / "kept")
    cells = results_table(root / "kept").iloc[0]
    assert cells["changed in the recipe"] == "epochs=7 lr=0.5 flip_tta=true"
    assert cells["one view"] == "32.1%"
    write_json(run.folder / "config.json", run.config | {"train": train | {"flip_tta": False}})
    keep_results(Run(run.folder), root / "kept")
    assert results_table(root / "kept").iloc[0]["one view"] == "50.0%"


def test_the_table_names_a_known_weights_file(root, monkeypatch):
    monkeypatch.setattr(kept_module, "KNOWN_FILES", {"0123": "known weights"})
    run = make_run(root, right=10)
    train = run.config["train"] | {"pretrained": "/home/me/a.safetensors"}
    environment = run.config["environment"] | {"pretrained_sha256": "0123"}
    changes = {"train": train, "environment": environment}
    write_json(run.folder / "config.json", run.config | changes)
    main([str(run.folder)])
    cells = results_table(root / "report" / "results").iloc[0]
    assert cells["changed in the recipe"] == "from known weights"


def test_rows_are_sorted_by_dataset_and_then_by_validation_accuracy(root):
    every = [("ferplus", 19, 20), ("fer2013", 15, 9), ("fer2013", 5, 10)]
    for number, (dataset, right, valid) in enumerate(every):
        name = f"{number}_baseline_cnn_noise_s0"
        run = make_run(root, right=right, valid=valid, name=name, dataset=dataset)
        main([str(run.folder)])
    rows = (root / "report/results/README.md").read_text().splitlines()[5:8]
    cells = [row.split(" | ") for row in rows]
    assert [(cell[1], cell[2][:5]) for cell in cells] == [
        ("fer2013", "25.0%"),
        ("fer2013", "75.0%"),
        ("ferplus", "95.0%"),
    ]


def test_a_kept_file_contains_no_folder_of_the_user(root):
    run = make_run(root, right=10)
    keep_results(run, root / "kept")
    text = (root / "kept" / f"{run.name}.json").read_text()
    assert str(root) not in text
    assert "secret" not in text
    kept = read_json(root / "kept" / f"{run.name}.json")["config"]
    assert "command" in run.config["environment"]
    assert "command" not in kept["environment"]
    assert kept["data"] == {k: v for k, v in run.config["data"].items() if k != "source"}
    assert "source" in run.config["data"]


def test_a_kept_run_shortens_the_path_of_its_weights_file(tmp_path):
    run = make_run(tmp_path, right=10)
    train = run.config["train"] | {"pretrained": "/home/me/pretraining/1_mae/encoder.safetensors"}
    write_json(run.folder / "config.json", run.config | {"train": train})
    keep_results(Run(run.folder), tmp_path / "kept")
    kept = read_json(tmp_path / "kept" / f"{run.name}.json")
    assert kept["config"]["train"]["pretrained"] == "1_mae/encoder.safetensors"


def test_a_run_without_clean_test_images_has_an_empty_cell(root):
    run = make_run(root, right=10, leak=True)
    assert run.results["test"]["clean"] is None
    keep_results(run, root / "kept")
    row = results_table(root / "kept").iloc[0]
    assert row["clean test"] == ""
    assert row["majority"] == ""  # the data have no votes


def test_a_kept_run_is_restored_without_its_weights(root, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(root / "home"))
    with pytest.raises(SystemExit):
        main(["--restore"])
    assert "has no predictions: run this from the root" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--restore", "runs/one"])
    assert "--restore takes no runs" in capsys.readouterr().err
    run = make_run(root, right=10)
    write_json(run.folder / "evaluation.json", {"calibration": 1})
    main([str(run.folder)])
    for said in ("is made, without weights", "already"):
        capsys.readouterr()
        main(["--restore"])
        assert said in capsys.readouterr().out
    back = Run(root / "home" / "runs" / run.name)
    assert back.finished
    assert back.results == run.results
    assert back.train_config == run.train_config
    assert back.metrics().equals(run.metrics())
    assert read_json(back.folder / "evaluation.json") == {"calibration": 1}
    mine, theirs = (load_predictions(r.folder / "predictions.npz") for r in (run, back))
    assert np.array_equal(mine.test_ids, theirs.test_ids)
    assert np.array_equal(mine.test_probabilities.argmax(1), theirs.test_probabilities.argmax(1))
    assert not list(back.folder.parent.glob(".*"))

    shutil.rmtree(back.folder)
    (root / "report" / "results" / f"{run.name}.npz").write_bytes(b"half a file")
    with pytest.raises(SystemExit):
        main(["--restore"])
    assert "not a complete file of predictions" in capsys.readouterr().err
    assert not list(back.folder.parent.iterdir())


def test_restoring_names_a_run_of_an_earlier_version_and_restores_the_others(
    root, monkeypatch, capsys
):
    monkeypatch.setenv("FER_HOME", str(root / "home"))
    results = root / "report" / "results"
    runs = [make_run(root, right=10), make_run(root, right=10, name="2_baseline_cnn_noise_s0")]
    main([str(run.folder) for run in runs])
    path = results / f"{runs[0].name}.json"
    kept = read_json(path)
    kept["config"]["train"]["frozen"] = 0
    write_json(path, kept)
    assert "left out" not in capsys.readouterr().out
    main(["--restore"])
    assert "left out: " in capsys.readouterr().out
    there = root / "home" / "runs"
    assert [path.name for path in there.iterdir()] == [runs[1].name]


def test_the_committed_tables_match_the_kept_results(root):
    texts = {path: path.read_bytes() for path in (ROOT / "README.md", RESULTS / "README.md")}
    for path in (*texts, *RESULTS.glob("*.json")):
        shutil.copy(path, root / path.relative_to(ROOT))
    main([])
    for path, text in texts.items():
        assert (root / path.relative_to(ROOT)).read_bytes() == text, path


def test_the_rows_of_some_models_are_those_of_the_readme():
    rows = on_real_faces("vit_cnn", "vit_tiny")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name.split()[0] for name in rows.index} == {"vit_cnn", "vit_tiny"}
    assert all(f"| {name} | {data} |" in text for name, data in rows["data"].items())


def refine(faces: FaceSet, shift: int = 0, voter: str = "a voter") -> Path:
    """Save refined labels, shifted by some classes, and return their file."""
    rows = faces.where("train")
    labels, why = (faces.labels[rows] + shift) % 7, np.full(len(rows), "why")
    soft = (np.eye(7, dtype=np.float32)[labels] + 1) / 8
    refined = Refined("majority", labels, soft, why)
    return save_refined(faces, rows, refined, (voter,))


@pytest.mark.parametrize("labels", ["refined_majority", "refined_majority:soft"])
def test_refined_labels_are_kept_with_a_run_that_learned_from_them(
    root, monkeypatch, capsys, labels
):
    monkeypatch.setenv("FER_HOME", str(root / "home"))
    monkeypatch.setitem(KINDS, "sample", ())  # as if it were real data
    faces, kept = make_sample(100), {}
    for k in (1, 2, 3):
        path = refine(faces, k)
        run = make_run(root, right=10, name=f"{k}_baseline_cnn_noise_s0", dataset="sample")
        config = run.config
        train = config["train"] | {"labels": labels}
        data = config["data"] | {"refined_sha256": refined_sha256(faces, labels)}
        write_json(run.folder / "config.json", config | {"train": train, "data": data})
        if k < 3:
            main([str(run.folder)])
        kept[k] = path.read_bytes()
    files = list((root / "report" / "results").glob("sample_refined_majority_*.npz"))
    assert sorted(file.read_bytes() for file in files) == sorted((kept[1], kept[2]))
    assert f"| sample {labels} labels | 50.0% (" in (root / "README.md").read_text()

    path.unlink()
    capsys.readouterr()
    main(["--restore"])
    said = capsys.readouterr().out
    assert f"{path} is made" in said
    assert f"{path} has other labels than 1_baseline_cnn_noise_s0 learned from" in said
    assert path.read_bytes() == kept[2]
    refine(faces, 2, "another name for the voter")
    main(["--restore"])
    assert "other labels than 2_" not in capsys.readouterr().out
    main([str(root / "runs" / "1_baseline_cnn_noise_s0")])  # again: its labels are kept already
    assert "not kept" not in capsys.readouterr().out
    main([str(run.folder)])
    assert f"the labels that {run.name} learned from are not kept" in capsys.readouterr().out
    assert len(list((root / "report" / "results").glob("sample_refined_*.npz"))) == 2


def test_refined_labels_are_kept_and_restored_without_a_run(root, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(root / "home"))
    faces = make_sample(100)
    main([str(make_run(root, right=10).folder)])
    path = refine(faces)
    for bad, message in ((path, "is of sample data"), (root / "no.npz", "does not exist")):
        with pytest.raises(SystemExit):
            main([str(bad)])
        assert message in capsys.readouterr().err
    faces.manifest["mark"] = ""
    refine(faces)
    with pytest.raises(SystemExit):
        main([str(path)])
    assert "is of sample, but" in capsys.readouterr().err
    monkeypatch.setitem(KINDS, "sample", ())  # as if it were real data
    main([str(path)])
    (kept,) = (root / "report" / "results").glob("sample_refined_majority_*.npz")
    path.unlink()
    main(["--restore"])
    assert path.read_bytes() == kept.read_bytes()


def test_loading_the_model_of_a_run_without_weights_is_refused(root):
    run = make_run(root, right=10)
    with pytest.raises(InputError, match=r"weights of .* are not here: delete that folder"):
        run.load_model()


@pytest.mark.parametrize(
    ("about", "message"),
    [({"mark": "sample data"}, "is of sample data"), ({"dataset": "mine"}, "is of mine, but")],
)
def test_a_run_on_sample_data_or_own_pictures_is_not_kept(root, capsys, about, message):
    run = make_run(root, right=15, **about)
    write_json(run.folder / "config.json", run.config | {"data": run.config["data"] | about})
    public = make_run(root, right=15, name="0_baseline_cnn_noise_s0")
    with pytest.raises(SystemExit) as stop:
        main([str(public.folder), str(run.folder)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in (root / "report" / "results").iterdir()] == ["README.md"]


def test_a_run_whose_predictions_cannot_be_written_is_not_kept(root, monkeypatch):
    def fail(*_, **__):
        raise InputError("no space left")

    monkeypatch.setattr(kept_module, "save_predictions", fail)
    with pytest.raises(InputError, match="no space left"):
        keep_results(make_run(root, right=10), root / "kept")
    assert not list(root.glob("kept/*.json"))


def test_an_unfinished_run_is_not_kept(root):
    run = make_run(root, right=10)
    (run.folder / "results.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        keep_results(run, root / "kept")


def test_a_folder_without_kept_results_is_refused(root, capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "report/results contains no kept results: keep a finished run" in capsys.readouterr().err
    assert (root / "README.md").read_text() == README


@pytest.mark.parametrize(
    "text", ["# Title\n", START, f"{END}\n{START}\n", f"{README}{START}\n{END}\n"]
)
def test_a_readme_without_its_two_markers_in_order_is_refused(root, text):
    readme = root / "README.md"
    readme.write_text(text)
    with pytest.raises(InputError, match="must have the lines"):
        write_table(readme, pd.DataFrame({"a": ["b"]}))
    assert readme.read_text() == text
    readme.unlink()
    with pytest.raises(InputError, match="root of the repository"):
        write_table(readme, pd.DataFrame({"a": ["b"]}))


def test_nothing_is_kept_outside_the_root_of_the_repository(tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run")])
    assert "run from the root of the repository" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 3, "labels": "votes", "epochs": 7, "warmup_epochs": 1, "patience": None},
        {
            "augmentation": {"rotate": 3, "scale": (0.9, 1.1)},
            "pretrained": "my files/a.safetensors",
        },
        {"options": {"num_heads": 1, "backbone_options": {"embed_dim": 32}}, "lr": 1e-5},
        {"options": {"backbone": "vit_small_patch14_dinov2", "img_size": 48}},
    ],
)
def test_the_training_command_of_a_config_gives_this_config_again(monkeypatch, preset, changes):
    class Done(Exception):
        pass

    given = []

    def stop(config, faces, runs):
        given.append(config)
        raise Done

    monkeypatch.setattr(train_module, "train", stop)
    monkeypatch.setattr(train_module, "load_faces", lambda *_, **__: None)
    for model, name in RECIPES:
        if name != "finetune":
            config = recipe(model, name, preset, **changes)
            words = shlex.split(training_command(config, "fer2013"))
            assert words[:3] == ["python", "-m", "fer_lib.train"]
            with pytest.raises(Done):
                train_module.main(words[3:])
            assert given.pop() == config


def test_the_command_of_a_start_from_another_run_names_its_file_in_runs():
    config = recipe("vit_moe", pretrained="/home/me/runs/1_vit_cnn_noise_s0/best.safetensors")
    words = shlex.split(training_command(config, "noise"))
    assert "pretrained=runs/1_vit_cnn_noise_s0/best.safetensors" in words


def test_the_command_of_a_start_from_a_pretraining_leaves_its_folder_open():
    path = "/home/me/runs/pretraining/1_mae_noise_s0/encoder.safetensors"
    words = shlex.split(training_command(recipe("vit_mae", pretrained=path), "noise"))
    assert "pretrained=runs/pretraining/FOLDER/encoder.safetensors" in words


def test_the_command_of_a_fine_tuning_names_the_run_that_it_starts_from():
    config = recipe("grefel", "finetune", pretrained="runs/1_grefel_noise_s0/best.safetensors")
    words = shlex.split(training_command(config, "noise"))
    assert words[words.index("--from-run") + 1] == "runs/1_grefel_noise_s0"
    assert words[words.index("--recipe") + 1] == "finetune"
    assert "--set" not in words
