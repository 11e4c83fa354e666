"""Tests of `fer_lib.colab` with a stub of pip; test_notebooks.py runs it with the real one."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from fer_lib import colab


class Pip:
    """A stub of `subprocess.run` that keeps the lines of the files it is given."""

    def __init__(self) -> None:
        self.returncode = 0
        self.files: dict[str, list[str]] = {}

    def __call__(self, command, **_):
        for option, path in zip(command[-4::2], command[-3::2], strict=True):
            self.files[option] = Path(path).read_text(encoding="utf-8").splitlines()
        return subprocess.CompletedProcess(command, self.returncode)


@pytest.fixture
def pip(monkeypatch):
    stub = Pip()
    monkeypatch.setattr(subprocess, "run", stub)
    return stub


def test_pip_gets_all_but_the_front_end_and_keeps_the_builds_of_the_runtime(pip, capsys):
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
    assert colab.main() == 0
    assert pip.files["-c"] == kept
    lines = colab.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    (left_out,) = set(lines) - set(pip.files["-r"])
    assert left_out.startswith("jupyterlab")
    said = capsys.readouterr().out
    assert said == f"everything in requirements.txt is installed; {', '.join(kept)} stayed\n"


def test_a_package_that_is_absent_is_not_pinned(monkeypatch, pip):
    monkeypatch.setattr(colab, "find_spec", lambda name: name != "numpy")
    assert colab.main() == 0
    assert [one.split("==")[0] for one in pip.files["-c"]] == ["torch", "torchvision"]


def test_a_failure_of_pip_is_reported(pip, capsys):
    pip.returncode = 1
    assert colab.main() == 1
    said = capsys.readouterr().out
    assert said.startswith("pip could not install requirements.txt beside torch==")
    assert "choose a newer runtime" in said


def test_a_missing_requirements_file_is_reported(monkeypatch, tmp_path, pip, capsys):
    monkeypatch.setattr(colab, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert colab.main() == 1
    assert "requirements.txt does not exist: run this inside a clone" in capsys.readouterr().out
    assert pip.files == {}
