"""Test that the pipeline runs changed stages, skips the others, and reports errors."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest

from fer_lib import arguments, pipeline, stages
from fer_lib.files import InputError
from fer_lib.pipeline import Pipeline
from fer_lib.stages import Stage, choose_stages

DATASET = "sample-10-100"
WRITE_HTML = pipeline.write_html
PAPERMILL = papermill.execute_notebook


def notebook(path: Path, code: str, parameters: str = 'dataset = ""\nruns_dir = ""\nword = "a"'):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(cell) for cell in code.split("\n---\n")]
    nb = nbformat.v4.new_notebook(cells=cells)
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(nbformat.writes(nb))


def at_once(source, target, values, **_):
    """Execute a notebook in this process, without a kernel."""
    first, *rest = (cell.source for cell in nbformat.read(source, 4).cells)
    names = {}
    exec(first, names)
    names |= values
    for code in rest:
        exec(code, names)


@pytest.fixture
def papermill_itself(monkeypatch, two_stages):
    monkeypatch.setattr(papermill, "execute_notebook", PAPERMILL)


@pytest.fixture
def two_stages(tmp_path, monkeypatch):
    """Return a function that runs two small notebooks and returns the names of those executed.

    The second notebook reads the output of the first. No HTML is written.
    """
    monkeypatch.setattr(pipeline, "write_html", lambda path: None)
    monkeypatch.setattr(papermill, "execute_notebook", at_once)
    books = tmp_path / "notebooks"
    books.mkdir()
    log = 'open(f"{runs_dir}/log", "a").write("NAME\\n")\n---\n'
    write = 'open(f"{runs_dir}/one.txt", "w").write(word)'
    notebook(books / "01_one.ipynb", log.replace("NAME", "one") + write)
    double = 'text = open(f"{runs_dir}/one.txt").read()\n'
    double += 'open(f"{runs_dir}/two.txt", "w").write(text * 2)'
    notebook(books / "02_two.ipynb", log.replace("NAME", "two") + double)
    monkeypatch.setattr(stages, "NOTEBOOKS", books)
    monkeypatch.setattr(
        stages,
        "STAGES",
        (
            Stage("01_one", ("{data}/manifest.json",), ("{runs}/one.txt",)),
            Stage("02_two", ("{runs}/one.txt",), ("{runs}/two.txt",), ("{runs}/extra_*.txt",)),
        ),
    )
    runs = tmp_path / "runs"
    runs.mkdir()

    def run(**options):
        (runs / "log").write_text("")
        Pipeline(dataset=DATASET, runs=str(runs), **options).run()
        return (runs / "log").read_text().split()

    run.runs, run.books = runs, books
    return run


@pytest.mark.usefixtures("papermill_itself")
def test_only_changed_stages_run_again(two_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "write_html", WRITE_HTML)
    assert two_stages() == ["one", "two"]
    assert two_stages() == []
    folder = two_stages.runs / f"notebooks_{DATASET}_sample_s0"
    assert {p.name for p in folder.iterdir()} >= {"01_one.ipynb", "01_one.html", "02_two.html"}
    assert two_stages(extra={"word": "b"}) == ["one", "two"]
    assert (two_stages.runs / "two.txt").read_text() == "bb"


def test_a_missing_output_or_a_changed_notebook_reruns_its_stage(two_stages):
    two_stages()
    (two_stages.runs / "two.txt").unlink()
    assert two_stages() == ["two"]
    book = two_stages.books / "02_two.ipynb"
    book.write_text(book.read_text().replace("text * 2", "text * 3"))
    assert two_stages() == ["two"]
    assert (two_stages.runs / "two.txt").read_text() == "aaa"


def test_an_output_overwritten_by_another_seed_reruns_its_stage(two_stages):
    """All presets and seeds write refined labels, for example, to one place."""
    two_stages()
    assert two_stages(seed=1, extra={"word": "b"}) == ["one", "two"]
    assert two_stages() == ["one", "two"]
    assert (two_stages.runs / "two.txt").read_text() == "aa"


def test_a_file_system_whose_clock_is_behind_does_no_harm(two_stages, monkeypatch):
    ahead = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert two_stages() == ["one", "two"]


def test_a_new_or_changed_optional_input_reruns_its_stage(two_stages):
    two_stages()
    for text in ("a", "b"):
        (two_stages.runs / "extra_1.txt").write_text(text)
        assert two_stages() == ["two"]
        assert two_stages() == []


def test_changed_code_of_the_package_reruns_all_stages(two_stages, monkeypatch, tmp_path):
    two_stages()
    package = tmp_path / "fer_lib"
    package.mkdir()
    (package / "new.py").write_text("")
    monkeypatch.setattr(pipeline, "__file__", str(package / "pipeline.py"))
    assert two_stages() == ["one", "two"]


@pytest.mark.usefixtures("papermill_itself")
def test_after_a_failure_the_same_command_continues_there(two_stages):
    book = two_stages.books / "02_two.ipynb"
    good = book.read_text()
    book.write_text(good.replace("text = open", "raise ValueError('no luck')\\ntext = open"))
    with pytest.raises(InputError, match=r"02_two failed.*no luck.*02_two\.ipynb\. .* out of --st"):
        two_stages()
    book.write_text(good)
    assert two_stages() == ["two"]


def test_a_stage_that_does_not_write_its_output_is_an_error(two_stages):
    notebook(two_stages.books / "01_one.ipynb", "pass")
    with pytest.raises(InputError, match=r"01_one ended without writing .*one\.txt"):
        two_stages()


@pytest.mark.usefixtures("papermill_itself")
def test_a_cell_that_hangs_is_stopped(two_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "SAMPLE_SECONDS", 2)
    notebook(two_stages.books / "01_one.ipynb", "import time; time.sleep(60)")
    with pytest.raises(InputError, match=r"01_one failed, a cell took more than 2 seconds"):
        two_stages()


def test_the_options_of_the_command_reach_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(Pipeline, "run", lambda self: made.append(self) or [])
    text = "--dataset mine --data-dir pictures --preset quick --seed 7 --runs there --stages 01"
    pipeline.main(text.split())
    assert made[0].values(made[0].stages[0]) == {
        **{"dataset": "mine", "preset": "quick", "seed": 7, "interactive": False},
        "data_dir": str(tmp_path / "pictures"),
        "runs_dir": str(tmp_path / "there"),
    }


def test_a_stage_without_its_input_is_refused(two_stages):
    with pytest.raises(InputError, match=r"02_two needs .*one\.txt"):
        two_stages(stages="02")


def test_paths_in_parameters_are_made_absolute(two_stages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "voter").mkdir()
    long = 300 * "x"
    given = {"hub_voters": ["voter", "hub/name", "", "~nobody/x", long], "word": "voter"}
    changes = {"changes": {"pretrained": "weights.safetensors"}}
    assert arguments.absolute(given | changes) == {
        "hub_voters": [str(tmp_path / "voter"), "hub/name", "", "~nobody/x", long],
        "word": "voter",  # this parameter never names a path
        "changes": {"pretrained": str(tmp_path / "weights.safetensors")},
    }
    monkeypatch.setattr(arguments, "PATHS", ("word",))
    assert Pipeline(extra={"word": "voter"}).extra == {"word": str(tmp_path / "voter")}


def test_a_change_to_a_file_named_by_a_parameter_reruns_its_stage(
    two_stages, tmp_path, monkeypatch
):
    monkeypatch.setattr(arguments, "PATHS", ("word",))
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    given = {"extra": {"word": str(folder)}}
    assert two_stages(**given) == ["one", "two"]
    assert two_stages(**given) == []
    (folder / "a.txt").write_text("b")
    assert two_stages(**given) == ["one", "two"]


def test_unknown_parameters_and_stages_are_errors(two_stages):
    with pytest.raises(InputError, match=r"wrod.*word"):
        Pipeline(extra={"wrod": "x"})
    with pytest.raises(InputError, match=r"'17'.*01_one, 02_two"):
        Pipeline(stages="17")


@pytest.mark.parametrize("name", ["changes", "models"])
def test_a_value_whose_quotes_the_shell_removed_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"^{name}=.epochs: 5. cannot replace .*quotes"):
        Pipeline(stages="03", runs=str(tmp_path), extra={name: "{epochs: 5}"})


def test_stages_are_chosen_by_number_or_name_and_keep_their_order():
    assert [s.name for s in choose_stages("10, 01_data")] == ["01_data", "10_comparison"]
    with pytest.raises(InputError, match="names no stage"):
        choose_stages(" ,")


def test_a_stage_without_its_notebook_names_the_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "NOTEBOOKS", tmp_path)  # as in an installed package
    with pytest.raises(InputError, match=r"01_data\.ipynb does not exist: .* from a clone"):
        stages.STAGES[0].notebook()


def test_unusable_data_are_reported_before_any_stage_runs(two_stages):
    with pytest.raises(InputError, match="/nowhere does not exist"):
        Pipeline(dataset="fer2013", data_dir="/nowhere", runs=str(two_stages.runs)).run()
    assert not (two_stages.runs / "log").exists()


def test_an_unwritable_runs_folder_is_reported_before_the_data_are_read(two_stages, monkeypatch):
    (two_stages.runs / "file").touch()
    monkeypatch.setattr(pipeline, "load_faces", None)  # it must not be called
    with pytest.raises(InputError, match="file cannot be written to"):
        Pipeline(dataset=DATASET, runs=str(two_stages.runs / "file")).run()


@pytest.mark.usefixtures("papermill_itself")
def test_the_command_line(two_stages, capsys):
    pipeline.main(["--dataset", DATASET, "--runs", str(two_stages.runs), "--set", "word=c"])
    printed = capsys.readouterr().out
    assert "02_two" in printed
    assert "executed notebooks" in printed
    folder = two_stages.runs / f"notebooks_{DATASET}_sample_s0"
    assert json.loads((folder / "state.json").read_text())
    with pytest.raises(SystemExit, match="2"):
        pipeline.main(["--stages", "99"])
    assert "'99' is unknown" in capsys.readouterr().err
    shutil.rmtree(two_stages.runs)


@pytest.mark.parametrize("done", ["01_data", "10_comparison", "report"])
def test_only_results_of_the_chosen_stages_are_printed(tmp_path, monkeypatch, capsys, done):
    for name in ("comparison_sample_sample/comparison.md", "report_sample_sample/report.pdf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("of earlier runs")
    monkeypatch.setattr(Pipeline, "run", lambda self: [(done, "up to date", 0.0)])
    pipeline.main(["--runs", str(tmp_path), "--stages", done])
    printed = capsys.readouterr().out
    assert ("comparison: " in printed) is (done == "10_comparison")
    assert ("report: " in printed) is (done == "report")


def test_stages_that_read_no_data_need_none(two_stages, monkeypatch):
    one, two = stages.STAGES
    monkeypatch.setattr(stages, "STAGES", (replace(one, inputs=()), two))
    Pipeline(dataset="fer2013", data_dir="/nowhere", runs=str(two_stages.runs), stages="01").run()
    assert (two_stages.runs / "one.txt").exists()


def test_every_training_runs_again_after_a_new_refinement():
    """Each of them takes --set "changes={'labels': 'refined_majority'}"."""
    for name in stages.TRAININGS:
        (stage,) = choose_stages(name)
        assert stages.REFINED in stage.optional
