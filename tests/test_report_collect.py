"""Collecting results for a report: which runs belong to it, errors for stale files."""

import json
import re
import shutil
from pathlib import Path

import pytest
from report_fixtures import DATASET, RUN, run_file

from fer_lib import compare, pipeline
from fer_lib.changed import label
from fer_lib.files import InputError, read_json, write_json
from fer_lib.kept import keep_results
from fer_lib.models import MODULES
from fer_lib.recipes import recipe
from fer_lib.report.__main__ import main
from fer_lib.report.build import build, source
from fer_lib.report.collect import belongs, collect, gather, indexed, kept_runs
from fer_lib.report.parts import audited, refined

pytestmark = pytest.mark.xdist_group("report")  # they share one report


@pytest.fixture
def work(report_home, monkeypatch, tmp_path) -> Path:
    """A copy of `report_home` that a test may change, without the report; it is FER_HOME."""
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    for name in ("data", "runs"):
        shutil.copytree(report_home / name, tmp_path / name)
    return tmp_path


def test_a_network_without_gates_does_not_represent_its_model(report):
    path = run_file(report, "attention_cnn")
    bare = read_json(path)
    bare["config"]["train"]["options"]["attention"] = "none"
    bare["results"]["valid"]["full"]["accuracy"] = 1.0
    other = path.with_name("20990101-000000_attention_cnn_sample_s0.json")
    write_json(other, bare)
    shutil.copy(path.with_suffix(".npz"), other.with_suffix(".npz"))
    about = {"dataset": bare["config"]["data"]["dataset"], "preset": "sample"}
    index = indexed(report / "results", about, "")
    assert path.name in index["headlines"]
    assert "2099" not in index["best"]
    assert label(bare["config"]) == "attention_cnn without gates"


@pytest.mark.parametrize(
    ("data", "known"),
    [
        ({"dataset": "fer2013", "fingerprint": "a"}, True),
        ({"dataset": "fer2013", "fingerprint": "b"}, False),
        ({"dataset": "ferplus", "fingerprint": "b"}, True),
        ({"dataset": "ferplus", "fingerprint": "b", "mark": "sample data"}, False),
        ({"dataset": "mine", "fingerprint": "b"}, False),
        ({"dataset": "sample", "fingerprint": "b", "mark": "sample data"}, False),
    ],
)
def test_a_report_includes_runs_on_its_own_data_and_on_other_public_data(data, known, tmp_path):
    assert belongs(data, "fer2013", {"fingerprint": "a"}) == known
    path = tmp_path / "20260101-000000_baseline_cnn_x_s0.json"
    write_json(path, {"config": {"data": data, "train": {"preset": "full"}}})
    assert kept_runs(tmp_path, "fer2013", "full", {"fingerprint": "a"}) == [path] * known
    assert kept_runs(tmp_path, "fer2013", "quick", {"fingerprint": "a"}) == []


def test_a_report_on_drawn_faces_includes_no_other_data():
    manifest = {"fingerprint": "a", "mark": "sample data"}
    assert belongs({"dataset": "sample", "fingerprint": "a", "mark": "x"}, "sample", manifest)
    assert not belongs({"dataset": "fer2013", "fingerprint": "b"}, "sample", manifest)


def test_a_run_on_other_data_does_not_represent_its_model(tmp_path):
    train = recipe("vit_cnn").to_dict()
    for number, (dataset, accuracy) in enumerate({"fer2013": 0.5, "ferplus": 0.9}.items()):
        results = {"valid": {"full": {"accuracy": accuracy}}}
        config = {"train": train, "data": {"dataset": dataset}}
        path = tmp_path / f"{number}_vit_cnn_{dataset}_s0.json"
        write_json(path, {"config": config, "results": results})
    index = indexed(tmp_path, {"dataset": "fer2013", "preset": "full"}, "")
    assert index["headlines"] == [index["best"]] == ["0_vit_cnn_fer2013_s0.json"]
    assert "--dataset ferplus" in index["commands"][path.name]
    with pytest.raises(InputError, match="no finished run of sample is there"):
        indexed(tmp_path, {"dataset": "sample", "preset": "full"}, "")


def test_a_finished_run_is_collected_as_it_is_now_and_not_as_it_was_kept(make_run, tmp_path):
    run, staged = make_run(), tmp_path / "staged"
    (run.folder / "metrics.csv").write_text("epoch\n1\n")
    keep_results(run, tmp_path / "kept")
    write_json(run.folder / "evaluation.json", {"coverage": 1})
    kept = [tmp_path / "kept" / f"{run.name}.json"]
    staged.mkdir()
    gather(staged, kept, [], {"refinement.json": None})
    assert {path.name for path in staged.iterdir()} == {kept[0].name, f"{run.name}.npz"}
    gather(staged, kept, [run], {})
    assert read_json(staged / f"{run.name}.json")["evaluation"] == {"coverage": 1}


def test_an_audit_is_collected_without_the_names_of_images(fer_home):
    content = {"fingerprint": "a", "clean_test_ids": ["face1"], "distinct": 2}
    write_json(fer_home / "data" / "mine" / "audit.json", content)
    found = audited("mine", {"fingerprint": "a", "counts": 3, "data_dir": "/home/me"})
    known = {"counts": 3, "layout": None, "dropped": None}
    assert found == {"fingerprint": "a", "distinct": 2, "manifest": known}


def test_a_refinement_is_of_the_data_and_the_preset_and_names_no_folder(fer_home, tmp_path):
    train = {"preset": "full", "pretrained": "/home/me/pretraining/1_mae/encoder.safetensors"}
    content = {"fingerprint": "a", "configs": [train], "student": train}
    path, same = fer_home / "data" / "mine" / "refinement.json", {"fingerprint": "a"}
    write_json(path, content)
    found = refined("mine", "full", same, tmp_path)
    assert "/home/me" not in json.dumps(found)
    path.rename(tmp_path / "refinement.json")
    assert refined("mine", "full", same, tmp_path) == content
    assert refined("mine", "quick", same, tmp_path) is None
    assert refined("mine", "full", {"fingerprint": "b"}, tmp_path) is None


def test_collecting_records_headline_runs_changed_settings_and_claims(report):
    index, printed = (
        read_json(report / "results" / name) for name in ("index.json", "comparison.json")
    )
    files = {model: run_file(report, model).name for model in RUN}
    assert index["headlines"] == [files[model] for model in MODULES if model in files]
    assert index["best"] == files["attention_cnn"]
    assert index["settings"] == dict.fromkeys(files.values(), "")
    told = compare.tables(printed)["claims"].reset_index().to_dict(orient="records")
    assert printed["printed_claims"] == told


def test_a_run_without_predictions_does_not_represent_its_model(report):
    path = run_file(report, "attention_cnn")
    better = read_json(path)
    better["results"]["valid"]["full"]["accuracy"] = 1.0
    write_json(path.with_name("20990101-000000_attention_cnn_sample_s0.json"), better)
    index = indexed(report / "results", {"dataset": DATASET, "preset": "sample"}, "")
    assert (index["best"], path.name in index["headlines"]) == (path.name, True)


def test_a_run_without_evaluation_does_not_represent_its_model(report):
    first = run_file(report, "vit_patch")
    other = report / "results" / "20990101-000000_vit_patch_x_s0.json"
    content = read_json(first)
    content["results"]["valid"]["full"]["accuracy"] = 1.0
    shutil.copy(first.with_suffix(".npz"), other.with_suffix(".npz"))
    known = read_json(report / "results" / "index.json")["headlines"]
    for evaluated in (True, False):
        if not evaluated:
            del content["evaluation"]
        write_json(other, content)
        index = indexed(report / "results", {"dataset": DATASET, "preset": "sample"}, "")
        assert (index["headlines"] == known) is not evaluated


@pytest.fixture
def gone(work) -> str:
    """The name of a run whose folder is missing in FER_HOME."""
    name = f"20260102-030403_vit_patch_{DATASET}_s0"
    shutil.rmtree(work / "runs" / name)
    return name


def test_collecting_needs_no_weights_and_keeps_runs_whose_folder_was_deleted(gone, report, work):
    assert not list((work / "runs").rglob("*.safetensors"))
    before = (report / "report.pdf").read_bytes()
    names = collect(report, dataset=DATASET, preset="sample")
    assert f"{gone}.json" in names
    assert build(report).read_bytes() == before


def test_a_comparison_by_an_earlier_version_is_refused(report, work):
    path = work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json"
    content = read_json(path)
    del content["tests"][1]["low"]
    write_json(path, content)
    with pytest.raises(InputError, match=r"lacks tests\.low: run notebook 10_comparison again"):
        collect(report, dataset=DATASET, preset="sample")


def test_collecting_renews_an_old_evaluation_and_keeps_what_is_from_weights(
    report, work, monkeypatch, capsys
):
    path = next((work / "runs").rglob("evaluation.json"))
    whole, calibration = read_json(path), {"temperature": 1.0}
    from_weights = {"views": {"one": 1}, "robustness": {"blur": []}, "computed": {"images": 60}}
    write_json(path, whole | from_weights | {"calibration": calibration})
    monkeypatch.setattr("fer_lib.report.collect.keep_labels", lambda run, to: f"{run.name} {to}")
    collect(report, dataset=DATASET, preset="sample")
    assert read_json(path) == whole | from_weights
    assert f"{path.parent.name} {report / 'results'}" in capsys.readouterr().out.splitlines()


def test_a_comparison_that_lacks_a_kept_run_is_refused(gone, report, work):
    compared = work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json"
    content = read_json(compared)
    content["runs"] = [row for row in content["runs"] if row["run"] != gone]
    write_json(compared, content)
    with pytest.raises(InputError, match=rf"lacks {gone}, which is kept in .*--restore"):
        collect(report, dataset=DATASET, preset="sample")
    (report / "results" / f"{gone}.npz").unlink()  # without predictions, none can compare it
    assert f"{gone}.json" in collect(report, dataset=DATASET, preset="sample")


def test_runs_on_other_public_data_are_collected_but_not_compared(report, work):
    manifest = work / "data" / DATASET / "manifest.json"
    write_json(manifest, read_json(manifest) | {"mark": ""})
    (run,) = (work / "runs").glob("*_vit_patch_*")
    other = shutil.copytree(run, run.with_name("20990101-000000_vit_patch_ferplus_s0"))
    config = read_json(other / "config.json")
    config["data"] |= {"dataset": "ferplus", "fingerprint": "f" * 64, "mark": ""}
    write_json(other / "config.json", config)
    (other / "evaluation.json").unlink()
    assert f"{other.name}.json" in collect(report, dataset=DATASET, preset="sample")
    assert not (other / "evaluation.json").exists()  # the faces here are not its own


def test_a_comparison_with_a_run_that_is_gone_is_refused(gone, report):
    run_file(report, "vit_patch").unlink()
    with pytest.raises(InputError, match=f"is stale: the folder of its run {gone} is gone"):
        collect(report, dataset=DATASET, preset="sample")
    assert (report / "results" / "comparison.json").exists()


def test_a_kept_refinement_stays_and_one_of_another_preset_is_left_out(report, work, capsys):
    path = work / "data" / DATASET / "refinement.json"
    content = read_json(path)
    content["configs"][0]["pretrained"] = "/home/me/pretraining/1_mae/encoder.safetensors"
    write_json(path, content)
    collect(report, dataset=DATASET, preset="sample")
    (config, *_) = read_json(report / "results" / "refinement.json")["configs"]
    assert config["pretrained"] == "1_mae/encoder.safetensors"
    content["student"]["preset"] = "full"
    write_json(path, content)
    assert "refinement.json" in collect(report, dataset=DATASET, preset="sample")
    assert "is of the preset full, so it is left out" in capsys.readouterr().out
    path.unlink()
    assert "refinement.json" in collect(report, dataset=DATASET, preset="sample")
    assert read_json(report / "results" / "refinement.json")["student"]["preset"] == "sample"
    assert "refinement.json" not in collect(work / "new", dataset=DATASET, preset="sample")


def test_collecting_refuses_missing_or_stale_files_and_changes_nothing(report_home, work, tmp_path):
    compared = work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json"
    content = read_json(compared)
    gone = content["runs"].pop()["run"]
    write_json(compared, content)
    with pytest.raises(InputError, match=rf"stale.*{gone}.*10_comparison"):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    fresh = shutil.copy(report_home / "runs" / compared.relative_to(tmp_path / "runs"), compared)
    content = read_json(compared)
    content["runs"][0]["name"] = "as it was called"
    write_json(compared, content)
    with pytest.raises(InputError, match=r"stale: it calls .* 'as it was called', and its name is"):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    report = shutil.copytree(report_home / "report", tmp_path / "kept")
    before = {path: path.read_bytes() for path in (report / "results").iterdir()}
    write_json(compared, read_json(compared) | {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match=r"comparison\.json is stale, made from other data"):
        collect(report, dataset=DATASET, preset="sample")
    audited = tmp_path / "data" / DATASET / "audit.json"
    fresh = shutil.copy(report_home / "runs" / compared.relative_to(tmp_path / "runs"), compared)
    content = read_json(audited)
    del content["near_copies"]
    write_json(audited, content)
    with pytest.raises(InputError, match="lacks 'near_copies'"):
        collect(report, dataset=DATASET, preset="sample")
    assert {path: path.read_bytes() for path in (report / "results").iterdir()} == before
    assert not list(report.glob(".collect*"))
    fresh.unlink()
    with pytest.raises(InputError, match=r"comparison\.json does not exist.*10_comparison"):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    with pytest.raises(InputError, match="have no place in"):
        collect(source(), dataset=DATASET, preset="sample")
    mine = tmp_path / "data" / "mine" / "manifest.json"
    mine.parent.mkdir()
    write_json(mine, {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match="numbers from mine, which is not a public dataset, have"):
        collect(source(), dataset="mine", preset="sample")
    write_json(audited.with_name("manifest.json"), {"data_dir": None})  # while the cache is written
    with pytest.raises(
        InputError, match=r"manifest\.json is not there or not complete: run notebook"
    ):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    assert not (tmp_path / "report").exists()


def test_the_command_line_collects_and_builds(report_home, report, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(report_home))
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    shutil.rmtree(report / "results")
    (report / "report.pdf").unlink()
    main(["--collect", "--folder", str(report), "--dataset", DATASET, "--preset", "sample"])
    said = capsys.readouterr().out.splitlines()
    count = len(read_json(report / "results" / "index.json")["files"])
    assert said == [
        f"collected {count} files into {report / 'results'}",
        f"report: {report / 'report.pdf'}",
    ]
    assert {path: path.read_bytes() for path in report.rglob("*") if path.is_file()} == before


def test_the_pipeline_ends_with_a_report_of_its_own_runs(work, capsys):
    for path in (work / "runs").rglob("evaluation.json"):
        path.unlink()
    made = work / "runs" / f"report_{DATASET}_sample" / "report.pdf"
    for done in ("run", "up to date"):
        pipeline.main(["--dataset", DATASET, "--stages", "report"])
        printed = capsys.readouterr().out
        assert re.search(rf"^report +{done}", printed, re.MULTILINE)
        assert f"report: {made}\n" in printed
    assert made.read_bytes().startswith(b"%PDF")
    (work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json").unlink()
    before = sorted(made.parent.rglob("*"))
    with pytest.raises(SystemExit):
        pipeline.main(["--dataset", DATASET, "--stages", "report"])
    assert sorted(made.parent.rglob("*")) == before
