"""Consistency of the repository's files: addresses, notebooks, dependencies, imports, lengths."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fer_lib

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("fer_lib", "benchmarks", "demo", "tests")
PACKAGE = sorted((ROOT / "fer_lib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

ORDER = (
    "files",
    "markdown",
    "colab",
    "labels",
    "data",
    "augment",
    "batches",
    "models",
    "losses",
    "config",
    "arguments",
    "recipes",
    "changed",
    "checkpoints",
    "device",
    "optim",
    "evaluate",
    "plots",
    "starts",
    "provenance",
    "runs",
    "given",
    "epochs",
    "graph",
    "held_out",
    "learner",
    "training",
    "train",
    "refine",
    "pretrain",
    "explain",
    "from_weights",
    "in_depth",
    "kept",
    "compare",
    "report",
    "predict",
    "cards",
    "mirror",
    "stages",
    "pipeline",
)
"""A module imports only from those that stand before it."""


def texts() -> dict[str, str]:
    """Return the repository's text files by path, without virtual environments, data and runs."""
    folders = [".github", "fer_lib", "notebooks", "tests", "benchmarks", "demo", "docs", "report"]
    paths = [ROOT / "data" / "README.md", ROOT / "runs" / "README.md", *ROOT.iterdir()]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*")]
    endings = {".py", ".md", ".ipynb", ".toml", ".txt", ".lock", ".cff", ".yml", ".yaml", ""}
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path.is_file() and path.suffix in endings
    }


def requirements(name: str) -> dict[str, Requirement]:
    """Return the requirements in a file by canonical name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in parsed}


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at its top level or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_public_address_is_the_same_everywhere():
    address = PYPROJECT["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    owner, name = address.split("/")
    ours = re.compile(
        rf"git(?:hub\.com|@github\.com)[/:](?:{owner}/[\w.-]+|[\w.<>-]+/{name}(?![\w-]))"
        r"|colab\.research\.google\.com/github/[\w.<>-]+/[\w.<>-]+"
    )
    wrong = [
        f"{path}: {found}"
        for path, text in texts().items()
        for found in ours.findall(text)
        if not re.sub(r"(\.git)?\.?$", "", found).endswith(f"/{address}")
    ]
    assert not wrong
    assert f"url: https://github.com/{address}\n" in texts()["CITATION.cff"]


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fer_lib.__version__
    assert citation["cff-version"] == "1.2.0"


@pytest.fixture(scope="module")
def strip():
    """Command of the pre-commit hook that strips notebooks."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (arguments,) = [h["args"] for h in hooks["repos"][0]["hooks"] if h["id"] == "nbstripout"]
    return [sys.executable, "-m", "nbstripout", *arguments]


def test_notebooks_are_stripped(strip):
    done = subprocess.run([*strip, "--verify", *NOTEBOOKS], capture_output=True, text=True)
    assert done.returncode == 0, f"run `pre-commit run nbstripout --all-files`: {done.stdout}"


def test_stripping_removes_outputs_and_keeps_tags(strip, tmp_path):
    cell = {
        "cell_type": "code",
        "id": "parameters",
        "metadata": {
            "tags": ["parameters"],
            "papermill": {"duration": 1.0},
            "execution": {"iopub.status.busy": "2026-01-01"},
        },
        "execution_count": 3,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}],
        "source": ["seed = 0"],
    }
    metadata = {"papermill": {"duration": 2.0}, "widgets": {}, "language_info": {"name": "python"}}
    notebook = {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    subprocess.run([*strip, path], check=True)
    cell |= {"metadata": {"tags": ["parameters"]}, "execution_count": None, "outputs": []}
    stripped = json.loads(path.read_text(encoding="utf-8"))
    assert stripped == notebook | {"metadata": {"language_info": {"name": "python"}}}


def test_dependencies_are_declared_once_and_the_lock_satisfies_them():
    project = PYPROJECT["project"]
    assert "dependencies" in project["dynamic"]
    dynamic = PYPROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    extras = project["optional-dependencies"]
    extra = [Requirement(one) for some in extras.values() for one in some]
    extra = [one for one in extra if one.name != project["name"]]  # an extra within another
    wanted = requirements("requirements.txt") | {canonicalize_name(one.name): one for one in extra}
    locked = requirements("requirements.lock")
    assert wanted.keys() <= locked.keys()
    for name, one in wanted.items():
        (pin,) = locked[name].specifier
        assert pin.operator == "=="
        assert one.specifier.contains(pin.version), f"{name}: run `make lock`"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements.lock"])
def test_requirements_name_no_index(name):
    assert not re.search(r"index|://|find-links", (ROOT / name).read_text(encoding="utf-8"))


def test_every_imported_package_is_required():
    extra = PYPROJECT["project"]["optional-dependencies"]["onnx"]
    required = set(requirements("requirements.txt"))
    distributions = packages_distributions()
    optional = ROOT / "fer_lib" / "predict" / "onnx.py"  # its error names the extra
    top = {name.split(".")[0] for path in PACKAGE if path != optional for name in imported(path)}
    in_extra = {canonicalize_name(Requirement(one).name) for one in extra}
    assert {"onnx", "onnxruntime", "onnxscript"} <= in_extra
    outside = top - sys.stdlib_module_names - {"fer_lib"}
    unnamed = {
        name
        for name in outside
        if not required & {canonicalize_name(one) for one in distributions.get(name, [])}
    }
    assert not unnamed


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("fer_lib", {"torch", "timm", "transformers", "numpy"}),
        ("fer_lib.runs", {"timm", "transformers"}),
        ("fer_lib.data", {"timm", "transformers", "sklearn"}),
        ("fer_lib.colab", {"torch", "numpy"}),
        ("fer_lib.predict", {"timm", "transformers", "matplotlib", "pandas", "scipy"}),
    ],
)
def test_import_stays_light(module, absent):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not absent & set(done.stdout.split())


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_from_modules_before_it(path):
    module = path.relative_to(ROOT / "fer_lib").parts[0].removesuffix(".py")
    if module == "__init__":
        assert not [name for name in imported(path) if name.startswith("fer_lib")]
        return
    assert module in ORDER, f"{module} has no place in ORDER: give it one"
    above = {module, *ORDER[: ORDER.index(module)]}
    used = {name.split(".")[1] for name in imported(path) if name.startswith("fer_lib.")}
    assert used & set(ORDER) <= above


def test_files_and_functions_are_no_longer_than_contributing_says():
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for path in [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        assert len(text.splitlines()) <= 300 or name.parts[0] == "tests", name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, functions):
                assert node.end_lineno - node.lineno < 60, f"{name}: {node.name}"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that runs make with a stand-in for Python.

    With `-c`, which make uses to check the version, the stand-in exits with the status `check`;
    otherwise it makes an environment in which pip fails.
    """
    if not shutil.which("make"):
        pytest.skip("there is no make on this machine")
    monkeypatch.delenv("MAKEFLAGS", raising=False)

    def run(*arguments: str, check: int = 0) -> subprocess.CompletedProcess:
        python, venv = tmp_path / "python", tmp_path / "venv"
        python.write_text(
            f'#!/bin/sh\n[ "$1" = -c ] && exit {check}\nmkdir -p "{venv}/bin"\n'
            f'printf "#!/bin/sh\\nexit 1\\n" >"{venv}/bin/python"\nchmod +x "{venv}/bin/python"\n'
        )
        python.chmod(0o755)
        variables = [f"PYTHON={python}", f"VENV={venv}"]
        command = ["make", "--no-print-directory", "-C", ROOT, *arguments, *variables]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def test_make_refuses_an_unsupported_python_version(make, tmp_path):
    done = make("venv", check=1)
    assert done.returncode
    assert done.stderr.startswith("Python 3.11, 3.12 or 3.13 is needed")
    assert "or get one first: uv python install 3.12, the system's package manager" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_failed_installation_leaves_no_stamp(make, tmp_path):
    assert make("venv", check=0).returncode
    assert (tmp_path / "venv" / "bin" / "python").exists()
    assert not (tmp_path / "venv" / ".installed").exists()


def test_make_run_accepts_dataset_preset_and_a_folder_with_a_space(make, tmp_path):
    def command(*variables):
        """Return the last command that `make -n run` prints."""
        printed = make("run", "-n", *variables).stdout.replace("\\\n", " ")
        return shlex.split(printed.splitlines()[-1])

    start = [str(tmp_path / "venv/bin/python"), "-m", "fer_lib.pipeline"]
    assert command() == [*start, "--dataset", "sample", "--seed", "0"]
    given = command("DATASET=fer2013", "PRESET=full", "DATA_DIR=my data/fer2013")
    wanted = "--dataset fer2013 --seed 0 --preset full --data-dir"
    assert given == [*start, *wanted.split(), "my data/fer2013"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_that_a_notebook_imports_from_the_package_exist(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    (source,) = [text for cell in cells if "from fer_lib" in (text := "".join(cell["source"]))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fer_lib"):
            module = import_module(node.module)
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or find_spec(name), name
