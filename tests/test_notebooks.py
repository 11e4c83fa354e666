"""The notebooks: their form, their execution in another folder, the setup on Colab, the widgets."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from unittest.mock import Mock

import nbformat
import numpy as np
import papermill
import pytest
from forked import Kernel
from jupyter_client.provisioning import local_provisioner

from fer_lib import plots, recipes
from fer_lib.arguments import own_changes, side_by_side
from fer_lib.compare import figures
from fer_lib.data.layout_writers import write_layout
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError
from fer_lib.models import MODULES
from fer_lib.pretrain import pretraining
from fer_lib.recipes import merged_options, recipe
from fer_lib.stages import STAGES, TRAININGS
from fer_lib.train import fine_tuning, require_buildable

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = {"epochs": 1, "limit": 128}
TINY = {
    "02_label_refinement": {
        "changes": SHORT | {"options": {"width": 4}},
        "voters": [["baseline_cnn", {}], ["attention_cnn", {"label_smoothing": 0.1}]],
        "folds": 2,
        "published": True,
    },
    "03_cnn": {"changes": SHORT | {"options": {"width": 4}}},
    "04_vit_scratch": {"changes": SHORT, "recipe_name": "published"},
    "05_vit_tiny": {"changes": SHORT},
    "06_vit_mae": {"changes": SHORT, "pretrain_changes": SHORT},
    "07_vit_moe": {"changes": SHORT},
    "08_grefel": {"changes": SHORT},
}
"""Parameters that make a run short, by notebook; the others are short by themselves."""
DATASET = "sample-10-600"
SHARED = ("preset", "dataset", "data_dir", "seed", "interactive", "runs_dir")

notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    return content


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def code_of(content: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in content.cells if cell.cell_type == "code"]


def test_the_notebooks_match_the_stages():
    assert {path.stem for path in NOTEBOOKS} == {
        stage.name for stage in STAGES if not stage.is_report
    }
    assert set(TINY) == {"02_label_refinement", *TRAININGS}


@notebook
def test_a_notebook_is_prose_with_a_little_code(path):
    content = read(path)
    code = code_of(content)
    prose = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    total = sum(map(lines, code))

    assert 20 <= len(content.cells) <= 35
    assert total <= 120
    assert max(map(lines, code)) <= 15
    words = len(re.findall(r"\w+", re.sub(r"\(http\S+\)", "", prose)))
    assert words >= 5 * total
    assert not re.search(r"^\s*class ", "\n".join(code), re.MULTILINE)
    assert len(re.findall(r"^\s*def ", "\n".join(code), re.MULTILINE)) <= 2
    assert "sys.path" not in "\n".join(code)


@notebook
def test_prose_contains_no_measured_number(path):
    prose = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    text = re.sub(r"`[^`]*`|\([^)]*http[^)]*\)", "", "\n".join(prose))
    assert not re.findall(r"\d+[.,]\d+|\d+ ?%", text)


@notebook
def test_the_first_three_cells_and_the_last_have_the_expected_form(path):
    title, setup, parameters, *rest = read(path).cells
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert all(word in title.source for word in ("**Question.**", "**Needs**", "**Makes**"))
    address = f"github/fer-reference/fer2013/blob/main/notebooks/{path.name})"
    assert f"https://colab.research.google.com/{address}" in title.source
    assert setup.source == read(NOTEBOOKS[0]).cells[1].source
    assert parameters.metadata.tags == ["parameters"]
    assert rest[-1].cell_type == "code"
    with_imports = [
        c for c in code_of(read(path)) if re.search(r"^(from|import) ", c, re.MULTILINE)
    ]
    assert with_imports[0] == setup.source
    assert len(with_imports) == 2


@notebook
def test_every_notebook_takes_the_shared_parameters(path):
    found = papermill.inspect_notebook(str(path))
    assert set(SHARED) <= set(found)
    assert [found[name]["default"] for name in SHARED] == [
        *('"sample"', '"sample"', "None", "0", "True", "None"),
    ]


@notebook
def test_the_kernel_is_python3_and_cell_ids_are_readable(path):
    content = read(path)
    assert content.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in content.cells]
    assert len(set(ids)) == len(ids)
    # Ids are chosen by hand, so a cell keeps its id when the file is written again.
    assert not [name for name in ids if re.fullmatch(r"[0-9a-f]{8}", name)]


@pytest.mark.parametrize("name", ["05_vit_tiny", "06_vit_mae", "07_vit_moe", "08_grefel"])
def test_the_start_is_set_by_its_parameter_and_not_by_changes(name):
    code = "\n".join(code_of(read(ROOT / "notebooks" / f"{name}.ipynb")))
    (call,) = re.findall(r"^changes = (own_changes\(.*\))$", code, re.MULTILINE)
    with pytest.raises(InputError, match="pretrained in changes has a parameter of its own"):
        eval(call, {"own_changes": own_changes, "changes": {"pretrained": False}})


def test_fine_tuning_starts_from_the_run_whatever_the_start_and_predicts_as_it_does():
    cells = {cell.id: cell.source for cell in read(ROOT / "notebooks/08_grefel.ipynb").cells}
    names = {"recipe": recipe, "fine_tuning": fine_tuning, "side_by_side": side_by_side}
    names |= {"preset": "full", "recipe_name": "ours", "seed": 1, "labels": "votes", "faces": None}
    names |= {"backbone": None, "img_size": None, "pretrained": False, "changes": {"limit": 64}}
    names |= {"fine_tune": True, "runs_dir": None, "interactive": False, "plots": Mock()}
    names |= {"compare": Mock(), "train": lambda config, *_, **__: Mock(train_config=config)}
    for name in ("recipes", "train"):
        exec(cells[name], names)
    first, second = (run.train_config for run in names["runs"])
    assert (first.pretrained, second.recipe) == (False, "finetune")
    assert isinstance(second.pretrained, str)
    assert first.flip_tta
    assert second.flip_tta
    assert (second.seed, second.labels, second.limit) == (1, "votes", 64)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"backbone": "vit_smal_patch16", "published": True}, "vit_smal_patch16"),
        ({"changes": {"frozen_layers": 99}}, "frozen_layers is at most"),
        ({"changes": {"options": {"dept": 3}}}, "dept"),
        ({"recipe_name": "our"}, "there is no recipe 'our'"),
        ({"few_labels": 0}, "limit"),
        ({}, None),
        ({"published": True}, None),
    ],
)
def test_the_trainings_after_the_pretraining_are_checked_before_it(given, text):
    content = read(ROOT / "notebooks/06_vit_mae.ipynb")
    cells = {cell.id: cell.source for cell in content.cells}
    order = [cell.id for cell in content.cells]
    assert order.index("networks") < order.index("pretrain")
    names = {"recipe": recipe, "require_buildable": require_buildable}
    names |= {"merged_options": merged_options, "faces": Mock(classes=range(7))}
    exec(cells["parameters"], names)
    names |= {"task": pretraining("sample")} | given
    if text:
        with pytest.raises(InputError, match=text):
            exec(cells["networks"], names)
    else:
        exec(cells["networks"], names)


def test_all_heads_are_checked_before_the_first_is_trained():
    cells = {cell.id: cell.source for cell in read(ROOT / "notebooks/07_vit_moe.ipynb").cells}
    names = {"recipes": recipes, "require_buildable": require_buildable, "train": Mock()}
    exec(cells["parameters"], names)
    names |= {"changes": {"options": {"top_k": 9}}, "faces": Mock(classes=range(7))}
    names |= {"refined": None}  # so that the first network has one layer, which takes any top_k
    exec(cells["variants"], names)
    with pytest.raises(InputError, match="top_k"):
        exec(cells["train"], names)
    assert not names["train"].called


@pytest.fixture
def folders(tmp_path) -> Path:
    """Pictures in class folders as on Kaggle, with neither votes nor true labels."""
    write_layout(make_sample(300), "emotion-detection", tmp_path / "kaggle")
    return tmp_path / "kaggle"


def test_the_data_notebook_runs_on_class_folders_without_votes(folders, tmp_path):
    path, home = ROOT / "notebooks" / "01_data.ipynb", tmp_path / "home"
    given = {"dataset": "fer2013", "data_dir": str(folders), "interactive": False}
    text = papermill_run(path, tmp_path / "out.ipynb", environment(home, ROOT), **given)
    audit = json.loads((home / "data" / "fer2013" / "audit.json").read_text())
    assert audit["votes"] is None
    assert "test = PublicTest + PrivateTest" in text


def test_labels_are_refined_with_only_hub_voters_from_disk(folders, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    size = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "intermediate_size": 8}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 1}
    names = dict(enumerate(["surprise", "anger", "happiness", "neutral", "sadness", "fear"]))
    for name in ("one", "two"):
        config = ViTConfig(**size, **layers, id2label=names, num_labels=len(names))
        ViTForImageClassification(config).save_pretrained(tmp_path / name)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / name)
    given = TINY["02_label_refinement"] | {
        "voters": [],
        "hub_voters": [str(tmp_path / name) for name in ("one", "two")],
        "interactive": False,
        "dataset": "fer2013",
        "data_dir": str(folders),
    }
    path, home = ROOT / "notebooks" / "02_label_refinement.ipynb", tmp_path / "home"
    text = papermill_run(path, tmp_path / "out.ipynb", environment(home, ROOT), **given)
    assert re.search(r"\b\d+ computed", text)
    kept = json.loads((home / "data" / "fer2013" / "refinement.json").read_text())
    assert kept["against_truth"] == kept["against_annotators"] == {}
    assert kept["voters"] == given["hub_voters"]
    assert kept["echo"] == {}
    # The voters do not have this class, so they abstain.
    assert kept["changed"]["majority"]["train"]["by_class"]["disgust"] == 0
    assert set(kept["agreement_not_accuracy"]["original"]) == {"accuracy", "agreement"}


def environment(home: Path, *python_path: Path) -> dict[str, str]:
    own = ("PYTHONPATH", "GIT_")  # of this process, or of a hook that runs the tests
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    paths = os.pathsep.join(map(str, python_path))
    # As on Colab, `python` is the kernel's interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    ours = {"FER_HOME": str(home), "OMP_NUM_THREADS": "1", "FER_DETECTOR": "haar"}  # no download
    return kept | ours | {"PYTHONPATH": paths, "PATH": path}


def papermill_command(source: Path, target: Path, env: dict[str, str], **parameters) -> str:
    """Run the papermill command on a notebook in `target`'s folder; return the printed text."""
    values = [f"{name}: {json.dumps(value)}" for name, value in parameters.items()]
    given = [
        *("--no-progress-bar", "--execution-timeout", "300"),
        *(part for value in values for part in ("-y", value)),
    ]
    command = [sys.executable, "-m", "papermill", str(source), str(target), *given]
    done = subprocess.run(command, cwd=target.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return printed(target)


def papermill_run(source: Path, target: Path, env: dict[str, str], **parameters) -> str:
    """Do the same in this process, with a forked kernel, which starts faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_provisioner, "launch_kernel", Kernel)
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        papermill.execute_notebook(
            source, target, parameters, cwd=target.parent, progress_bar=False, execution_timeout=300
        )
    return printed(target)


def printed(target: Path) -> str:
    outputs = [
        output for cell in read(target).cells if "outputs" in cell for output in cell.outputs
    ]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """FER_HOME and the printed text of each notebook; all ran in order, in another folder."""
    folder = tmp_path_factory.mktemp("executed")
    home = folder / "home"
    env = environment(home, ROOT)
    texts = {
        path.stem: papermill_run(
            path, folder / path.name, env, dataset=DATASET, **TINY.get(path.stem, {})
        )
        for path in NOTEBOOKS
    }
    return home, texts


def test_the_notebooks_write_their_results(executed):
    home, _ = executed
    report = json.loads((home / "data" / DATASET / "audit.json").read_text())
    assert report["mark"] == "sample data"
    assert report["copies"]["groups"] == 21
    runs = sorted(path.parent for path in home.glob("runs/*/results.json"))
    found = {path.name.split("_", 1)[1] for path in runs}
    assert found == {f"{model}_{DATASET}_s0" for model in MODULES}
    assert len(list(home.glob("runs/pretraining/*/encoder.safetensors"))) == 1
    assert all((run / "inference.json").exists() for run in runs)
    (evaluated,) = [run for run in runs if (run / "evaluation.json").exists()]
    accuracy = {
        run: json.loads((run / "results.json").read_text())["valid"]["full"]["accuracy"]
        for run in runs
    }
    assert accuracy[evaluated] == max(accuracy.values())
    comparison = home / f"runs/comparison_{DATASET}_sample"
    compared = json.loads((comparison / "comparison.json").read_text())
    tables = ("comparison", "recalls", "systems", "tests", "costs", "copies", "claims")
    assert {path.name for path in comparison.iterdir()} == {
        *("comparison.md", "comparison.json"),
        *(f"{name}.{suffix}" for name in tables for suffix in ("csv", "tex")),
        *(f"{name}.{suffix}" for name in figures(compared) for suffix in ("png", "svg")),
    }
    assert len(compared["runs"]) == len(runs) > len(MODULES)
    assert all(row["ms_1"] > 0 and row["macs"] > 0 for row in compared["costs"])
    tried = json.loads((home / f"runs/try_it_{DATASET}_sample/faces.json").read_text())
    assert tried["mark"] == "sample data"
    (faces,) = tried["pictures"].values()
    assert len(faces) >= 5  # seven are drawn


def test_printed_scores_are_marked_as_sample_data(executed):
    _, texts = executed
    for name in sorted(texts):
        figures = [line for line in texts[name].splitlines() if re.search(r"\d%|\d points", line)]
        assert figures
        assert all("sample data" in line for line in figures), name


def test_no_crop_of_a_users_picture_is_saved(tmp_path):
    from PIL import Image

    from fer_lib.data.drawing import draw

    for folder in ("one", "two"):  # two files of the same name
        (tmp_path / folder).mkdir()
        face = np.pad(draw(np.array([3]), 5, rough=0.3, size=240)[0, 0], 60, constant_values=128)
        Image.fromarray(face).save(tmp_path / folder / "me.png")
    kept = tmp_path / "home/runs/try_it_sample_sample"
    kept.mkdir(parents=True)
    (kept / "maps.png").touch()  # left by an older version
    source, env = ROOT / "notebooks/11_try_it.ipynb", environment(tmp_path / "home", ROOT)
    pictures = [str(tmp_path / folder / "me.png") for folder in ("one", "two")]
    given = {"pictures": pictures, "interactive": False}
    text = papermill_run(source, tmp_path / "out.ipynb", env, **given)
    assert [path.name for path in kept.iterdir()] == ["faces.json"]
    found = json.loads((kept / "faces.json").read_text())["pictures"]
    assert list(found) == pictures
    assert all(found.values())  # there were crops
    assert text.count("aces are found by") == 1


def test_a_finished_run_is_loaded_and_not_trained_again(executed, tmp_path):
    home, texts = executed
    assert texts["03_cnn"].count("loaded 20") == 1  # trained in 02, as a student
    assert " epoch " in texts["03_cnn"]
    given = {"dataset": DATASET} | TINY["03_cnn"]
    source = next(path for path in NOTEBOOKS if path.stem == "03_cnn")
    text = papermill_command(source, tmp_path / "again.ipynb", environment(home, ROOT), **given)
    assert text.count("loaded 20") == 3  # both models, and attention_cnn without gates
    assert " epoch " not in text


def test_the_evaluation_without_a_run_says_to_train_one_first(executed, tmp_path):
    home, _ = executed
    source = next(path for path in NOTEBOOKS if path.stem == "09_evaluation")
    with pytest.raises(papermill.PapermillExecutionError, match="train one first"):
        papermill_run(
            source, tmp_path / "no.ipynb", environment(home, ROOT), dataset=DATASET, preset="full"
        )


def test_the_evaluation_runs_without_weights(executed, tmp_path):
    home, _ = executed
    (found,) = home.glob("runs/*/evaluation.json")
    ignored = shutil.ignore_patterns("best.safetensors", "evaluation.json", "checkpoint")
    run = shutil.copytree(found.parent, tmp_path / "runs" / found.parent.name, ignore=ignored)
    source = next(path for path in NOTEBOOKS if path.stem == "09_evaluation")
    env = environment(home, ROOT)
    given = {"dataset": DATASET, "runs_dir": str(tmp_path / "runs")}
    text = papermill_run(source, tmp_path / "out.ipynb", env, **given)
    assert text.count("the weights of") == text.count("are left out") == 1
    alone, whole = (json.loads((at / "evaluation.json").read_text()) for at in (run, found.parent))
    assert set(whole) - set(alone) == {"views", "robustness", "computed"}
    assert {key: whole[key] for key in alone} == alone


@pytest.fixture
def colab(tmp_path) -> Path:
    """A folder with a stub of google.colab and a git repository of the working tree."""
    (tmp_path / "stub/google/colab").mkdir(parents=True)
    (tmp_path / "stub/google/colab/__init__.py").touch()
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    # Not the repository of a hook that runs the tests.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    if not shutil.which("git"):
        pytest.skip("this needs git")
    found = subprocess.run(git, env=env, capture_output=True)
    if found.returncode:
        pytest.skip("this needs a clone")
    names = found.stdout.decode().split("\0")
    source = tmp_path / "source"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    plain = env | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}  # nothing is signed
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "tree"]):
        subprocess.run(["git", "-C", str(source), *command], check=True, env=plain)
    return tmp_path


def test_the_setup_on_colab_clones_once_and_installs_nothing(colab):
    before = sorted(str(found.locate_file("")) + found.name for found in distributions())
    content = read(ROOT / "notebooks/01_data.ipynb")
    asked = "import fer_lib\n\nprint('imported from', fer_lib.__file__, 'in', os.getcwd())"
    # Run the setup cell twice, as a user may do, and stop after the faces are loaded. A last cell
    # prints where the package was imported from.
    del content.cells[1 + [cell.id for cell in content.cells].index("load") :]
    content.cells.insert(2, nbformat.v4.new_code_cell(content.cells[1].source, id="again"))
    content.cells.append(nbformat.v4.new_code_cell(asked, id="asked"))
    work = colab / "content"
    work.mkdir()
    nbformat.write(content, work / "01_data.ipynb")
    env = environment(colab, colab / "stub") | {"FER_REPOSITORY": (colab / "source").as_uri()}
    del env["FER_HOME"]
    text = papermill_command(work / "01_data.ipynb", work / "out.ipynb", env, dataset=DATASET)

    clone = work / "fer2013-reference"
    assert (clone / ".git").is_dir()
    assert not (clone / "fer2013-reference").exists()
    assert f"imported from {clone / 'fer_lib/__init__.py'} in {clone}" in text
    assert (clone / "data" / DATASET / "manifest.json").exists()
    assert text.count("everything in requirements.txt is installed") == 2
    assert before == sorted(str(found.locate_file("")) + found.name for found in distributions())


def test_interact_calls_show_at_each_change_and_not_before():
    seen = []
    menus = plots.interact(
        lambda emotion="sad", draw=3: seen.append((emotion, draw)),
        emotion=["happy", "sad"],
        draw=(0, 20),
    )
    assert seen == []
    emotion, draw = menus.kwargs_widgets
    emotion.value = "happy"
    draw.value = 4
    assert seen == [("happy", 3), ("happy", 4)]


def test_upload_shows_each_picture():
    seen = []
    button = plots.upload(lambda name, data: seen.append((name, data)))
    assert seen == []
    file = {"name": "a.png", "type": "image/png", "size": 3, "last_modified": datetime.now(UTC)}
    button.value = ({**file, "content": b"abc"}, {**file, "name": "b.png", "content": b"d"})
    assert seen == [("a.png", b"abc"), ("b.png", b"d")]


def test_upload_reports_a_bad_file_and_shows_the_next(capsys):
    seen = []

    def show(name, data):
        if name == "a.png":
            raise InputError("a.png cannot be read")
        seen.append(name)

    button = plots.upload(show)
    file = {"type": "", "size": 1, "last_modified": datetime.now(UTC), "content": b"a"}
    button.value = ({**file, "name": "a.png"}, {**file, "name": "b.png"})
    assert seen == ["b.png"]
    assert "a.png cannot be read" in capsys.readouterr().out


def test_a_figure_is_shown_as_png_in_a_notebook():
    figure, axis = plots.new_figure(2, 2, mark="sample data")
    axis.imshow(np.zeros((2, 2)))
    assert figure._repr_png_().startswith(b"\x89PNG")
