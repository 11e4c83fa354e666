"""Building a report: the same bytes for the same results, errors for missing or stale ones."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from pypdf import PdfReader
from report_fixtures import OF_WEIGHTS, run_file

from fer_lib.files import InputError, read_json, write_json
from fer_lib.report.__main__ import main
from fer_lib.report.build import build, source
from fer_lib.report.figures import FIGURES, MANIFEST, refresh
from fer_lib.report.results import Results

pytestmark = pytest.mark.xdist_group("report")  # they share one report


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


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
    with pytest.raises(InputError, match=r"json lacks 'inflation': run notebook 10"):
        build(report)
    del whole["runs"][1]["one_view"]
    write_json(path, whole)
    with pytest.raises(InputError, match=r"json lacks 'runs\.one_view': run notebook 10"):
        build(report)
    run = run_file(report, "vit_patch")
    whole = read_json(run)
    del whole["evaluation"]["coverage"]
    write_json(run, whole)
    with pytest.raises(
        InputError, match=rf"{run.name} lacks 'evaluation.coverage': run .*--restore"
    ):
        build(report)


def test_only_models_with_a_run_are_needed(report):
    path = report / "results" / "models.json"
    whole = read_json(path)
    write_json(path, {name: whole[name] for name in whole if name != "vit_mae"})
    Results(report / "results")
    write_json(path, {name: whole[name] for name in whole if name != "vit_patch"})
    with pytest.raises(InputError, match=r"models\.json lacks 'vit_patch'"):
        Results(report / "results")


def test_an_index_without_runs_or_with_an_unlisted_headline_is_refused(report):
    path, name = report / "results" / "index.json", run_file(report, "vit_patch").name
    whole = read_json(path)
    write_json(path, whole | {"files": [one for one in whole["files"] if one != name]})
    with pytest.raises(InputError, match=f"names {name} as a headline but does not list it"):
        Results(report / "results")
    write_json(path, whole | {"files": ["audit.json"]})
    with pytest.raises(InputError, match=r"index\.json lists no run: train one"):
        Results(report / "results")


def test_results_from_other_data_are_refused_as_stale(report, report_home):
    path = report / "results" / "audit.json"
    write_json(path, read_json(path) | {"fingerprint": "f" * 64})
    with pytest.raises(InputError, match=r"audit\.json is stale.*ffffffffffff"):
        build(report)
    shutil.copy(report_home / "report" / "results" / path.name, path)
    path = run_file(report, "vit_patch")
    content = read_json(path)
    content["config"]["data"]["fingerprint"] = "e" * 64
    write_json(path, content)
    with pytest.raises(InputError, match=rf"{path.name} is stale.*eeeeeeeeeeee"):
        build(report)


def test_a_key_missing_only_in_the_text_is_named_in_the_error_with_its_chapter(report):
    path = report / "results" / "comparison.json"
    content = read_json(path)
    del content["runs"][0]["macro_f1"]
    write_json(path, content)
    with pytest.raises(InputError, match=r"could not be set.*macro_f1.*chapters/results\.typ"):
        build(report)


def test_figures_are_redrawn_when_the_code_that_draws_them_changes(report, monkeypatch):
    results = Results(report / "results")
    assert refresh(results, report / "figures") == []
    monkeypatch.setattr("fer_lib.report.figures.code_digest", lambda names: "other code")
    assert set(refresh(results, report / "figures")) == set(FIGURES) - OF_WEIGHTS


def test_the_command_line_builds_a_report_or_names_a_missing_file(
    report, capsys, tmp_path, monkeypatch
):
    main(["--folder", str(report)])
    assert f"report: {report / 'report.pdf'}" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main(["--folder=~/empty"])
    said = capsys.readouterr().err
    assert "index.json does not exist" in said
    assert f"python -m fer_lib.report --collect --folder {tmp_path / 'empty'}" in said


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


def test_index_and_manifest_contain_no_date_and_no_local_path(report, report_home):
    for path in (report / "results" / "index.json", report / "figures" / MANIFEST):
        text = json.dumps(read_json(path))
        assert str(report_home) not in text
        assert "2026-" not in text
