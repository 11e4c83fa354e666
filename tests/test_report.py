"""Report: built from results alone, the same bytes for the same results, errors for bad files."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader

from fer_lib import compare, pipeline
from fer_lib.compare import comparison, write_comparison
from fer_lib.data import load_faces
from fer_lib.data.audit import audit
from fer_lib.evaluate import Predictions, evaluate, save_predictions
from fer_lib.files import InputError, read_json, write_json
from fer_lib.models import MODULES
from fer_lib.networks import label
from fer_lib.recipes import recipe
from fer_lib.refine import rules, worth
from fer_lib.refine.ballots import Ballots
from fer_lib.report.__main__ import main
from fer_lib.report.build import build, source, texts
from fer_lib.report.collect import belongs, collect, indexed, kept_runs
from fer_lib.report.figures import FIGURES, MANIFEST, refresh
from fer_lib.report.results import Results
from fer_lib.runs import Run

DATASET = "sample-10-600"
RUN = ("baseline_cnn", "attention_cnn", "vit_patch")
OF_WEIGHTS = {"robustness", "gates"}  # figures of results that take a run's weights to compute


def answer(faces, rows, share, rng) -> np.ndarray:
    """Return probabilities (n, 7) that favour the label on about `share` of the rows."""
    logits = rng.normal(size=(len(rows), 7))
    right = rng.random(len(rows)) < share
    logits[np.flatnonzero(right), faces.labels[rows[right]]] += 3
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def make_run(root: Path, faces, model: str, share: float, number: int) -> Run:
    """Make a finished run without weights."""
    rng = np.random.default_rng(number)
    config = recipe(model, "ours", "sample")
    valid, test = (answer(faces, faces.where(split), share, rng) for split in ("valid", "test"))
    predictions = Predictions.of(faces, valid, test)
    folder = root / f"20260102-03040{number}_{model}_{DATASET}_s0"
    data = {"dataset": faces.name, "classes": list(faces.classes), "counts": faces.counts()}
    data |= {"fingerprint": faces.fingerprint, "mark": faces.mark}
    environment = {"started": f"2026-01-02T03:04:0{number}+00:00", "commit": "0123456789abcdef+"}
    environment |= {"processor": "A processor", "torch": "2.0", "timm": "1.0", "precision": "no"}
    environment |= {"command": f"{root}/fer_lib/train.py {model} --runs {root}"}
    write_json(
        folder / "config.json",
        {"train": config.to_dict(), "data": data, "environment": environment},
    )
    save_predictions(folder / "predictions.npz", predictions)
    rows = [f"{epoch},{2 / epoch},{0.2 * epoch}" for epoch in (1, 2)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,valid_loss,valid_accuracy", *rows]))
    results = {key: getattr(config, key) for key in ("model", "recipe", "preset", "seed")}
    results |= {"mark": faces.mark, "dataset": faces.name, "classes": list(faces.classes)}
    results |= {"parameters": 1000 * number, "train_images": 480, "epochs": 2, "best_epoch": 2}
    results |= {"train_seconds": 90.0, "images_per_second": 10.7}
    results |= {part: evaluate(faces, predictions, part) for part in ("valid", "test")}
    write_json(folder / "results.json", results)
    return Run(folder)


def refine(faces) -> dict:
    """Return what notebook 02 would write, with three voters that are right on about two thirds."""
    rows = faces.where("train")
    rng = np.random.default_rng(0)
    said = np.stack([answer(faces, rows, 0.67, rng) for _ in range(3)]).astype(np.float32)
    ballots = Ballots(("one", "two", "three"), said)
    labels, votes, classes = faces.labels[rows], faces.votes[rows], faces.classes
    split, truth = faces.split[rows], faces.truth[rows]
    made = rules.apply_rules(ballots, labels, classes, votes)
    students = [
        {"model": rule, "set": "all test images", "value": 0.5, "low": 0.4, "high": 0.6}
        for rule in ("original", *made)
    ]
    return {
        **{"dataset": faces.name, "mark": faces.mark, "fingerprint": faces.fingerprint},
        **{"kappa": 0.5, "voters": ballots.voters, "folds": 3, "students": students, "tests": []},
        "configs": [recipe("baseline_cnn", "ours", "sample").to_dict()] * 3,
        "voted": worth.voters_table(ballots, labels, votes).to_dict("index"),
        "rules": {r: o.settings for r, o in made.items()},
        "changed": {r: worth.changes(labels, split, o, classes) for r, o in made.items()},
        "against_truth": {r: worth.against_truth(labels, o, truth) for r, o in made.items()},
        "against_annotators": {
            r: worth.against_annotators(labels, o, votes, classes) for r, o in made.items()
        },
        "agreement_not_accuracy": {"original": {"accuracy": 0.5, "agreement": 0.8}},
        "student": recipe("baseline_cnn", "ours", "sample").to_dict(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A FER_HOME with drawn faces, audit, refinement, a comparison of three runs and a report."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(root))
        patch.setattr("fer_lib.compare.writing.figures", lambda compared: {})  # not needed here
        faces = load_faces(DATASET, say=lambda line: None)
        kept = {"dataset": DATASET, "mark": faces.mark, "fingerprint": faces.fingerprint}
        folder = root / "data" / DATASET
        write_json(folder / "audit.json", kept | audit(faces, threshold=0.95))
        write_json(folder / "refinement.json", refine(faces))
        runs = [
            make_run(root / "runs", faces, model, share, number)
            for number, (model, share) in enumerate(zip(RUN, (0.6, 0.7, 0.4), strict=True), 1)
        ]
        write_comparison(
            root / "runs" / f"comparison_{DATASET}_sample", comparison(runs, faces, every=runs)
        )
        collect(root / "report", dataset=DATASET, preset="sample")
        build(root / "report")
    return root


@pytest.fixture
def work(home, monkeypatch, tmp_path) -> Path:
    """A copy of `home` that a test may change, without the report; it is FER_HOME."""
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    for name in ("data", "runs"):
        shutil.copytree(home / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def report(home, tmp_path) -> Path:
    """A copy of the report that a test may change, with results, figures and PDF."""
    return Path(shutil.copytree(home / "report", tmp_path / "report"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def run_file(report: Path, model: str) -> Path:
    (path,) = (report / "results").glob(f"*_{model}_*.json")
    return path


def test_a_second_build_gives_the_same_bytes_and_redraws_no_figure(report):
    before = (report / "report.pdf").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (report / "figures").iterdir()}
    assert build(report).read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (report / "figures").iterdir()} == times


def test_redrawn_figures_give_the_same_report(report):
    before = (report / "report.pdf").read_bytes()
    shutil.rmtree(report / "figures")
    assert build(report).read_bytes() == before


def test_a_changed_number_changes_the_text_and_the_figures_made_from_it(report):
    before, figure = (report / "report.pdf").read_bytes(), report / "figures" / "leak.svg"
    drawn = figure.read_bytes()
    path = report / "results" / "audit.json"
    content = read_json(path)
    leak = content["copies"]["test"]
    leak["by_class"]["happy"]["in_train_or_valid"] += 7
    write_json(path, content)
    after = build(report).read_bytes()
    assert after != before
    assert figure.read_bytes() != drawn
    content["distinct"] = 123456
    write_json(path, content)
    pages = PdfReader(build(report)).pages
    assert any("123,456" in page.extract_text() for page in pages)  # reads no page after it


def test_an_altered_figure_is_redrawn(report):
    figure = report / "figures" / "leak.svg"
    drawn, before = figure.read_bytes(), (report / "report.pdf").read_bytes()
    change(figure, "<svg", "<svg id='other'")
    assert build(report).read_bytes() == before
    assert figure.read_bytes() == drawn


@pytest.mark.parametrize(
    "name", ["comparison.json", "audit.json", "refinement.json", "models.json", "index.json"]
)
def test_a_missing_file_is_named_in_the_error(report, name):
    before = (report / "report.pdf").read_bytes()
    (report / "results" / name).unlink()
    with pytest.raises(InputError, match=name):
        build(report)
    assert (report / "report.pdf").read_bytes() == before


def test_a_missing_run_is_named_in_the_error(report):
    path = run_file(report, "vit_patch")
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} is missing"):
        build(report)


def test_a_missing_key_is_named_in_the_error_with_its_file(report):
    path = report / "results" / "comparison.json"
    whole = read_json(path)
    write_json(path, {key: part for key, part in whole.items() if key != "inflation"})
    with pytest.raises(InputError, match=r"comparison\.json lacks 'inflation'"):
        build(report)
    del whole["runs"][0]["one_view"]
    write_json(path, whole)
    with pytest.raises(InputError, match=r"comparison\.json lacks runs\.one_view: run notebook 10"):
        build(report)


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


def test_results_from_other_data_are_refused_as_stale(report):
    path = report / "results" / "audit.json"
    write_json(path, read_json(path) | {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match=r"audit\.json is stale.*ffffffffffff"):
        build(report)


def test_a_key_missing_only_in_the_text_is_named_in_the_error_with_its_chapter(report):
    path = report / "results" / "comparison.json"
    content = read_json(path)
    del content["runs"][0]["macro_f1"]
    write_json(path, content)
    with pytest.raises(InputError, match=r"could not be set.*macro_f1.*chapters/results\.typ"):
        build(report)


def text_of(path: Path) -> str:
    return "\f".join(page.extract_text() for page in PdfReader(path).pages)


@pytest.fixture(scope="module")
def text(home) -> str:
    """Text of the report as it was built, with form feeds between pages."""
    return text_of(home / "report" / "report.pdf")


def test_pages_and_tables_of_sample_data_are_marked_and_every_figure_is_drawn(report, text):
    pages = text.split("\f")
    assert len(pages) > 15
    assert all("SAMPLE DATA" in page for page in pages)
    text = re.sub(r"\s+", " ", text)
    captions = re.findall(r"Table \d+\. .*?\(sample data\)", text)
    numbers = [int(re.match(r"Table (\d+)", one)[1]) for one in captions]
    mentioned = map(int, re.findall(r"Table (\d+)", text))
    assert numbers == list(range(1, max(mentioned) + 1))
    drawn = [path for path in (report / "figures").glob("*.svg")]
    assert {path.stem for path in drawn} == set(FIGURES) - OF_WEIGHTS


def test_models_without_a_run_are_shown_as_not_run_yet(text):
    for model in MODULES:
        waits = re.search(rf"{model}\s+not run yet", text)
        assert bool(waits) == (model not in RUN), model


def test_the_pdf_has_tags_metadata_fonts_and_the_date_of_the_newest_run(report):
    reader = PdfReader(report / "report.pdf")
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]
    assert reader.trailer["/Root"]["/Lang"].startswith("en")
    assert "FER2013" in reader.metadata.title
    assert reader.metadata.author
    assert reader.metadata.creation_date.isoformat() == "2026-01-02T03:04:03+00:00"
    fonts = {
        str(font["/BaseFont"])
        for page in reader.pages
        for font in map(lambda one: one.get_object(), page["/Resources"].get("/Font", {}).values())
    }
    assert fonts
    assert all(re.match(r"/[A-Z]{6}\+", name) for name in fonts)  # subsets, so embedded


def test_a_report_without_refinement_says_that_it_was_not_run(report):
    path = report / "results" / "index.json"
    index = read_json(path)
    index["files"].remove("refinement.json")
    write_json(path, index)
    (report / "results" / "refinement.json").unlink()
    text = re.sub(r"\s+", " ", text_of(build(report)))
    assert "not been run on these data with voters trained at full length: not run yet" in text
    assert not (report / "figures" / "students.svg").exists()


def test_optional_results_of_a_run_are_shown(report):
    """These are views, gates and robustness, another backbone, and changed settings."""
    path, index = run_file(report, "vit_patch"), report / "results" / "index.json"
    content = read_json(path)
    score = {"n": 60, "accuracy": 0.5, "low": 0.4, "high": 0.6}
    steps = [{"severity": s, "unit": "pixels", **score} for s in (0, 1, 2)]
    content["evaluation"] |= {
        "views": {
            "one": {"passes": 1, "milliseconds": 1.0, "nll": 1.0, **score},
            "mirror": {"passes": 2, "milliseconds": 2.0, "nll": 1.0, "p_holm": 0.2, **score},
            "ten_crop": {"passes": 10, "milliseconds": 9.0, "nll": 1.0, "p_holm": 0.01, **score},
        },
        "gates": {
            "maps": [[[0.9, 0.1]], [[0.8, 0.3]]],
            "covered": {"none": score, "left": score, "right": score},
            "mirrored": {"changed": 0.02, **score},
        },
        "robustness": {"blur": steps, "noise": steps},
        "computed": {"images": 60, "mark": ""},
    }
    content["config"]["train"] |= {"options": {"backbone": "dinov2"}, "pretrained": "a/start.pt"}
    write_json(path, content)
    named = read_json(index)
    named["settings"] |= {path.name: "optimizer=sgd"}
    named["networks"] |= {path.name: {"label": "vit_patch on dinov2", "own": False}}
    named["best"] = path.name  # whatever its score: only collecting chooses the best run
    write_json(index, named)
    text = re.sub(r"\s+", " ", text_of(build(report)))
    assert "60 50.0 % (40.0 to 60.0) 0.0, 0.200 0.0, 0.010" in text
    assert "Ten crops are significantly better than one view." in text
    assert "passes 0.80 on average in the left half and 0.30 in the right one, so one" in text
    assert "50.0 % (40.0 to 60.0), and answers 2.0 % of them otherwise. So it hardly" in text
    assert set(read_json(report / "figures" / MANIFEST)) >= OF_WEIGHTS
    assert text.count("vit_patch on dinov2") >= 5  # summary, classes, trainings, calibration, ...
    row = r"vit_patch on dinov2 ours optimizer=sgd file a/ ?start\.pt 0 2 of \d+ \(2\)"
    assert re.search(row, text)
    assert re.search(r"predictions are kept vit_patch on dinov2, ours, seed 0, from file", text)
    content["evaluation"]["gates"]["maps"] = [[[0.5]]]  # one position, as in the published form
    write_json(path, content)
    text = text_of(build(report))
    assert "has their means over 60 test images" in re.sub(r"\s+", " ", text)
    assert "on average in the left half" not in text
    legend = FIGURES["curves"](Results(report / "results")).axes[1].get_legend()
    assert "vit_patch on dinov2" in [one.get_text() for one in legend.get_texts()]


def test_a_report_is_built_from_data_without_votes(report):
    results = report / "results"
    write_json(results / "audit.json", read_json(results / "audit.json") | {"votes": None})
    for model in RUN:
        content = read_json(run_file(report, model))
        content["evaluation"]["accuracy_by_agreement"] = []
        for part in ("valid", "test"):
            content["results"][part].pop("ferplus_majority")
        write_json(run_file(report, model), content)
    content = read_json(results / "comparison.json")
    content["runs"] = [row | {"ferplus_majority": None} for row in content["runs"]]
    content["test_sets"] = [row for row in content["test_sets"] if "votes" not in row["set"]]
    write_json(results / "comparison.json", content)
    judged = {"against_annotators": {}, "agreement_not_accuracy": {}}
    write_json(results / "refinement.json", read_json(results / "refinement.json") | judged)
    text = re.sub(r"\s+", " ", text_of(build(report)))
    assert text.count("These data have no votes of annotators.") == 2
    assert not {"annotators", "agreement_steps"} & set(read_json(report / "figures" / MANIFEST))


def test_figures_are_redrawn_when_the_code_that_draws_them_changes(report, monkeypatch):
    results = Results(report / "results")
    assert refresh(results, report / "figures") == []
    monkeypatch.setattr("fer_lib.report.figures.code_digest", lambda names: "other code")
    assert set(refresh(results, report / "figures")) == set(FIGURES) - OF_WEIGHTS


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


def test_the_colophon_has_commit_fingerprint_and_device(report, text):
    fingerprint = read_json(report / "results" / "index.json")["fingerprint"]
    assert all(one in text for one in (fingerprint, "01234567+", "A processor"))
    assert "/fer_lib/train.py" not in text  # paths of the user's machine are left out


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


def test_collecting_renews_an_old_evaluation_and_keeps_what_is_from_weights(report, work):
    path = next((work / "runs").rglob("evaluation.json"))
    whole, calibration = read_json(path), {"temperature": 1.0}
    from_weights = {"views": {"one": 1}, "robustness": {"blur": []}, "computed": {"images": 60}}
    write_json(path, whole | from_weights | {"calibration": calibration})
    collect(report, dataset=DATASET, preset="sample")
    assert read_json(path) == whole | from_weights


def test_a_comparison_that_lacks_a_kept_run_is_refused(gone, report, work):
    compared = work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json"
    content = read_json(compared)
    content["runs"] = [row for row in content["runs"] if row["run"] != gone]
    write_json(compared, content)
    with pytest.raises(InputError, match=rf"lacks {gone}, which is kept in .*--restore"):
        collect(report, dataset=DATASET, preset="sample")


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


def test_collecting_refuses_missing_or_stale_files_and_changes_nothing(home, work, tmp_path):
    compared = work / "runs" / f"comparison_{DATASET}_sample" / "comparison.json"
    content = read_json(compared)
    gone = content["runs"].pop()["run"]
    write_json(compared, content)
    with pytest.raises(InputError, match=rf"stale.*{gone}.*10_comparison"):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    fresh = shutil.copy(home / "runs" / compared.relative_to(tmp_path / "runs"), compared)
    content = read_json(compared)
    content["runs"][0]["name"] = "as it was called"
    write_json(compared, content)
    with pytest.raises(InputError, match=r"stale: it calls .* 'as it was called', and its name is"):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    report = shutil.copytree(home / "report", tmp_path / "kept")
    before = {path: path.read_bytes() for path in (report / "results").iterdir()}
    write_json(compared, read_json(compared) | {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match=r"comparison\.json is stale, made from other data"):
        collect(report, dataset=DATASET, preset="sample")
    audited = tmp_path / "data" / DATASET / "audit.json"
    fresh = shutil.copy(home / "runs" / compared.relative_to(tmp_path / "runs"), compared)
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
    write_json(audited.with_name("manifest.json"), {"data_dir": None})  # while the cache is written
    with pytest.raises(
        InputError, match=r"manifest\.json is not there or not complete: run notebook"
    ):
        collect(tmp_path / "report", dataset=DATASET, preset="sample")
    assert not (tmp_path / "report").exists()


def test_the_command_line_builds_a_report_or_names_a_missing_file(report, capsys, tmp_path):
    main(["--folder", str(report)])
    assert f"report: {report / 'report.pdf'}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--folder", str(tmp_path / "empty")])
    assert "index.json does not exist" in capsys.readouterr().err


def test_the_command_line_collects_and_builds(home, report, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(home))
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


TEXT = "\n".join(path.read_text(encoding="utf-8") for path in texts())


def test_every_reference_is_cited_and_listed_once():
    references = re.findall(r"^@\w+\{(\w+),", TEXT, re.MULTILINE)
    assert len(references) == len(set(references)) > 20
    cited = set(re.findall(r"@([a-z]+\d*[a-z]*)\b(?!\{)", TEXT))
    assert set(references) <= cited


def test_every_labelled_table_and_figure_is_referred_to():
    labels = re.findall(r"<((?:tab|fig)-[\w-]+)>", TEXT)
    assert len(labels) == len(set(labels)) > 30
    missing = [label for label in labels if not re.search(rf"@{label}(?![\w-])", TEXT)]
    assert not missing
    assert not [name for name in FIGURES if f'"{name}"' not in TEXT]  # every figure is shown


def test_every_figure_and_table_has_a_label():
    shown = len(re.findall(r"^ *#(?:drawing|shown|figure)\(", TEXT, re.MULTILINE))
    assert shown == len(re.findall(r"^ *\) <(?:tab|fig)-", TEXT, re.MULTILINE))


def test_the_committed_report_has_real_data_and_is_reproducible_byte_for_byte(tmp_path):
    committed = source() / "report.pdf"
    if not committed.exists():
        pytest.skip("no report has been committed yet")
    for name in ("results", "figures"):
        shutil.copytree(source() / name, tmp_path / name)
    assert "sample" not in Results(tmp_path / "results").mark
    made = build(tmp_path)
    here, then = (PdfReader(path).metadata.creator for path in (made, committed))
    if here != then:
        locked = (source().parent / "requirements.lock").read_text(encoding="utf-8").split()
        assert f"typst=={version('typst')}" not in locked, (
            f"the report was set by {then}, and requirements.lock has {here}: run make report"
        )
        pytest.skip(f"the report was set by {then}, and here is {here}")
    assert made.read_bytes() == committed.read_bytes()


def test_no_table_of_the_committed_report_runs_off_its_page():
    """Typst sets a float that is taller than its page without an error, and cuts off the rest."""
    reader, lowest, commands = PdfReader(source() / "report.pdf"), [], 0
    for page in reader.pages:
        heights = []

        def seen(text, cm, tm, font, size, heights=heights):
            if text.strip():
                heights.append(tm[4] * cm[1] + tm[5] * cm[3] + cm[5])

        commands += page.extract_text(visitor_text=seen).count("python -m fer_lib.train ")
        lowest += sorted(heights)[1:2]  # the lowest text is the page number
    assert min(lowest) > 60  # points; the margin is 71
    assert commands >= len(Results(source() / "results").runs)


def test_index_and_manifest_contain_no_date_and_no_local_path(report, home):
    for path in (report / "results" / "index.json", report / "figures" / MANIFEST):
        text = json.dumps(read_json(path))
        assert str(home) not in text
        assert "2026-" not in text
