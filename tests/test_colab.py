"""Tests of `fer_lib.colab`, with a stub of pip, and real or stubbed versions of packages."""

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from fer_lib import colab

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")

# The GPU runtime's packages in June 2026 (Python 3.12); no jupyterlab, papermill, cleanlab, typst.
RUNTIME = {
    "torch": "2.11.0+cu128",
    "torchvision": "0.26.0+cu128",
    "numpy": "2.0.2",
    "timm": "1.0.27",
    "transformers": "5.9.0",
    "accelerate": "1.13.0",
    "safetensors": "0.7.0",
    "pandas": "2.2.2",
    "scipy": "1.16.3",
    "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "pillow": "11.3.0",
    "opencv-python-headless": "4.13.0.92",
    "filelock": "3.29.0",
    "packaging": "26.2",
    "tqdm": "4.67.3",
    "kagglehub": "1.0.1",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "nbclient": "0.10.4",
    "nbconvert": "7.17.1",
}


class Pip:
    """A stub of `subprocess.run` that keeps the packages and constraints it is given."""

    def __init__(self, returncode: int = 0) -> None:
        self.returncode = returncode
        self.installed: list[str] = []
        self.constraints: list[str] = []

    def __call__(self, command, **_):
        at = command.index("--constraint")
        self.constraints = Path(command[at + 1]).read_text().split()
        self.installed = command[at + 2 :]
        return subprocess.CompletedProcess(command, self.returncode)


@pytest.fixture
def runtime(monkeypatch):
    """The installed versions that `fer_lib.colab` finds; a test may change them."""
    # certifi is there too, as requests needs it; its version was not noted.
    versions = RUNTIME | {"certifi": "2025.1.31"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(colab, "version", version)
    return versions


@pytest.fixture
def pip(monkeypatch):
    stub = Pip()
    monkeypatch.setattr(subprocess, "run", stub)
    return stub


def test_missing_with_the_real_metadata():
    wanted = """
    # a comment, then a package that is here, two that are not, one too new and one kept
    pytest>=1

    no-such-package-of-fer>=1.2  # with a comment
    Packaging>=999
    numpy>=999
    absent; sys_platform == 'none'
    """
    assert colab.missing(wanted) == ["no-such-package-of-fer>=1.2", "packaging>=999"]


def test_environment_of_the_project_satisfies_requirements():
    assert colab.missing(REQUIREMENTS) == []
    assert colab.unsuited(REQUIREMENTS) == []


def test_colab_runtime_needs_only_three_packages(runtime, pip, capsys):
    assert colab.main() == 0
    assert [one.split(">")[0] for one in pip.installed] == ["cleanlab", "papermill", "typst"]
    assert pip.constraints == [
        "torch==2.11.0+cu128",
        "torchvision==0.26.0+cu128",
        "numpy==2.0.2",
    ]
    assert capsys.readouterr().out == f"installed {', '.join(pip.installed)}\n"


def test_complete_runtime_installs_nothing(runtime, pip, capsys):
    runtime |= {"papermill": "2.7.0", "cleanlab": "2.9.0", "typst": "0.15.2"}
    assert colab.main() == 0
    assert pip.installed == []
    assert capsys.readouterr().out == "nothing to install\n"


def test_too_old_torch_is_named_and_kept(runtime, pip, capsys):
    runtime["torch"] = "2.0.1"
    assert colab.main() == 0
    assert "torch==2.0.1" in pip.constraints
    assert not any(one.startswith("torch") for one in pip.installed)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("torch is 2.0.1, the project is made for torch>=")


def test_absent_numpy_is_named_and_not_constrained(runtime, pip, capsys):
    del runtime["numpy"]
    assert colab.main() == 0
    assert [one.split("==")[0] for one in pip.constraints] == ["torch", "torchvision"]
    assert "numpy is not installed" in capsys.readouterr().out


def test_a_failure_of_pip_is_reported(runtime, pip, capsys):
    pip.returncode = 1
    assert colab.main() == 1
    assert capsys.readouterr().out.startswith("pip could not install cleanlab>=")


def test_a_missing_requirements_file_is_reported(monkeypatch, tmp_path, pip, capsys):
    monkeypatch.setattr(colab, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert colab.main() == 1
    assert "requirements.txt does not exist: run this inside a clone" in capsys.readouterr().out
    assert pip.installed == []
