"""Text of a report: marks, tags, results that may be absent, references and labels."""

import re
from pathlib import Path

import pytest
from pypdf import PdfReader
from report_fixtures import OF_WEIGHTS, RUN, run_file

from fer_lib.config import GONE
from fer_lib.files import read_json, write_json
from fer_lib.models import MODULES
from fer_lib.report.build import build, source, texts
from fer_lib.report.figures import FIGURES, MANIFEST
from fer_lib.report.results import Results

pytestmark = pytest.mark.xdist_group("report")  # they share one report


def text_of(path: Path) -> str:
    return "\f".join(page.extract_text() for page in PdfReader(path).pages)


@pytest.fixture(scope="module")
def text(report_home) -> str:
    """Text of the report as it was built, with form feeds between pages."""
    return text_of(report_home / "report" / "report.pdf")


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


def test_agreement_and_what_people_find_of_copied_images_have_tables(report, text):
    text = re.sub(r"\s+", " ", text)
    assert "the original labels 50.0 % 80.0 % +30.0 majority 40.0 % 90.0 % +50.0" in text
    found = read_json(report / "results" / "comparison.json")
    (row,) = [row for row in found["copied"]["kinds"] if row["kind"] == "same label"]
    shares = [f"{100 * row[key]:.1f} %" for key in ("found", "expected")]
    assert f"in training, all with the same label {row['images']} {' '.join(shares)}" in text
    share = found["annotators"]["majority"]["label_agrees"]
    assert f"The label itself is the majority on {100 * share:.1f} % of the" in text


def test_views_are_corrected_for_all_tests_of_their_table(report):
    for model, p in zip(RUN, (0.005, 0.011, 0.03), strict=True):
        content = read_json(run_file(report, model))
        score = {"n": 60, "accuracy": 0.5, "low": 0.4, "high": 0.6, "milliseconds": 1.0}
        content["evaluation"] |= {
            "views": {"one": score, "mirror": score | {"p": 0.9}, "ten_crop": score | {"p": p}},
            "computed": {"images": 60, "mark": ""},
        }
        write_json(run_file(report, model), content)
    text = re.sub(r"\s+", " ", text_of(build(report)))
    assert text.count("60 50.0 % (40.0 to 60.0) 0.0, 1.000 0.0, 0.") == 3
    assert all(f"0.0, 1.000 0.0, {p}" in text for p in ("0.030", "0.055", "0.120"))


def test_a_setting_of_earlier_versions_makes_no_run_another_one(report):
    """A table names the seed of a run if another run differs in it alone."""
    path = run_file(report, "baseline_cnn")
    content = read_json(path)
    old, draws = {"logit_adjustment": 0.0}, {"holes": 4, "hole": 0.125}
    assert old | draws == GONE
    content["config"]["train"] |= {"seed": 1, **old}
    content["config"]["train"]["augmentation"] |= draws
    earlier = path.with_name(path.name.replace("_s0", "_s1"))
    write_json(earlier, content)
    index = read_json(report / "results" / "index.json")
    index["files"].append(earlier.name)
    for part in ("networks", "settings", "commands"):
        index[part][earlier.name] = index[part][path.name]
    write_json(report / "results" / "index.json", index)
    text = re.sub(r"\s+", " ", text_of(build(report)))
    assert "baseline_cnn, seed 0" in text


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
            "mirror": {"passes": 2, "milliseconds": 2.0, "nll": 1.0, "p": 0.2, **score},
            "ten_crop": {"passes": 10, "nll": 1.0, "p": 0.005, **score, "accuracy": 0.6},
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
    assert "60 50.0 % (40.0 to 60.0) 0.0, 0.200 +10.0, 0.010" in text  # by Holm
    assert "Ten crops are significantly better than one view." in text
    assert re.search("passes 0.80 on average in the left half.{1,200}so one would say", text)
    assert "50.0 % (40.0 to 60.0), and answers 2.0 % of them otherwise. So it hardly" in text
    assert set(read_json(report / "figures" / MANIFEST)) >= OF_WEIGHTS
    assert text.count("vit_patch on dinov2") >= 5  # summary, classes, trainings, calibration, ...
    row = r"vit_patch on dinov2 ours optimizer=sgd file a/ ?start\.pt 0 2 \(recipe \d+\), best 2"
    assert re.search(row, text)
    assert re.search(r"predictions are kept vit_patch on dinov2, ours, seed 0, from file", text)
    content["evaluation"]["gates"]["maps"] = [[[0.5]]]  # one position, as in the published form
    write_json(path, content)
    text = text_of(build(report))
    assert "has their means over 60 test images" in re.sub(r"\s+", " ", text)
    assert "on average in the left half" not in text
    legend = FIGURES["curves"](Results(report / "results")).legends[0]
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


def test_the_colophon_has_commit_fingerprint_and_device(report, text):
    fingerprint = read_json(report / "results" / "index.json")["fingerprint"]
    assert all(one in text for one in (fingerprint, "01234567+", "A processor"))
    assert "/fer_lib/train.py" not in text  # paths of the user's machine are left out


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
