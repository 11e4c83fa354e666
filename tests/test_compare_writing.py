"""Files of a comparison: their numbers, marks and LaTeX, and those of an earlier one."""

import re

import pandas as pd
import pytest

from fer_lib.compare import comparison, figures, write_comparison
from fer_lib.files import read_json


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
