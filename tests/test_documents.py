"""README and docs: commands parse, Python blocks compile, and the targets of links exist."""

import argparse
import ast
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from fer_lib.arguments import parse_settings
from fer_lib.files import InputError
from fer_lib.pipeline import Pipeline
from fer_lib.pretrain import pretraining
from fer_lib.recipes import recipe

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "benchmarks/README.md", "benchmarks/log.md")]
DOCUMENTS += sorted(ROOT.glob("docs/*.md"))
OTHERS = ("benchmarks/steps.md", "data/README.md", "fer_lib/predict/MODEL_CARD.md")
OTHERS += ("report/results/README.md", "runs/README.md")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {"MODEL": "vit_moe", "options=OPTIONS": "options={}"}


def over(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


documents, linked = over(DOCUMENTS), over([*DOCUMENTS, *(ROOT / name for name in OTHERS)])


class Parsed(Exception):
    """Raised with the arguments of a command instead of running it."""


@pytest.fixture
def parse(monkeypatch):
    """A function that runs a command only up to its parser, and checks the settings of `--set`.

    It raises SystemExit or InputError if the command refuses an argument.
    """
    read = argparse.ArgumentParser.parse_args

    def stop(self, *arguments):
        raise Parsed(read(self, *arguments))

    def run(name: str, words: list[str]) -> None:
        module = import_module(name)
        if hasattr(module, "__path__"):
            module = import_module(f"{name}.__main__")
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            patch.setattr(sys, "argv", [name, *words])
            with pytest.raises(Parsed) as parsed:
                module.main()
        check(name, *parsed.value.args)

    return run


def check(name: str, args: argparse.Namespace) -> None:
    """Raise InputError if a setting, stage or entry among the arguments does not exist."""
    for entry in getattr(args, "only", []):
        import_module("wanted").by_name(entry)
    if not hasattr(args, "set"):
        return
    settings = parse_settings(vars(args).pop("set"))
    if name == "fer_lib.pipeline":
        Pipeline(**vars(args), extra=settings)
    elif name == "fer_lib.pretrain":
        pretraining(args.preset or "full", **settings)
    else:
        given = {"model": "baseline_cnn", "recipe": None, "preset": None} | vars(args)
        name, preset = given["recipe"] or "ours", given["preset"] or "full"
        recipe(given["model"], name, preset, **settings)


def commands(path: Path) -> list[list[str]]:
    """Return the words of each command in sh blocks and in inline code."""
    text = path.read_text(encoding="utf-8")
    found = []
    for kind, block in FENCED.findall(text):
        found += split(block) if kind == "sh" else []
    for code in re.findall(r"`([^`]+)`", FENCED.sub("", text)):
        if re.match(r"(\w+= )?(\.venv/bin/)?python (-m fer_lib|benchmarks/)|make \w", code):
            found += split(code.replace("\n", " "))
        elif re.match(r"\w+\.py ", code):  # a script in benchmarks/
            found += split(f"python benchmarks/{code}".replace("\n", " "))
    return found


def split(block: str) -> list[list[str]]:
    """Split a script into commands; lines may be continued, also inside quotation marks."""
    found, line = [], ""
    for more in block.splitlines():
        line += more
        if line.endswith("\\"):
            line = line[:-1]
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # the quotation continues on the next line
            line += "\n"
            continue
        line, command = "", []
        for word in [*words, "&&"]:
            if word == "&&":
                found += [command] if command else []
                command = []
            else:
                command.append(PLACEHOLDERS.get(word, word))
    assert not line
    return found


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module of this project that a command runs, and its arguments; None for others."""
    for place, word in enumerate(words):
        if words[place - 1] == "-m" and word.startswith("fer_lib"):
            return word, words[place + 1 :]
        if word.startswith("benchmarks/") and "python" in words[place - 1]:
            assert (ROOT / word).is_file(), word
            return Path(word).stem, words[place + 1 :]
    return None


def test_every_kind_of_command_is_found():
    """The tests below check only the commands that are found."""
    found = [command for path in DOCUMENTS for command in map(module_of, commands(path)) if command]
    names = {name for name, _ in found}
    assert names >= {f"fer_lib.{name}" for name in ("train", "pretrain", "predict", "pipeline")}
    assert names >= {"fer_lib.kept", "fer_lib.compare", "fer_lib.in_depth", "fer_lib.report"}
    assert names >= {"campaign", "loop", "graph", "growth", "predict", "speedrun"}
    assert len(found) > 60
    assert split("a 'b\nc' \\\n d # 'e\nf && g") == [["a", "b\nc", "d"], ["f"], ["g"]]


@documents
def test_every_command_is_accepted_by_its_parser(path, parse, capsys):
    for words in commands(path):
        if not (command := module_of(words)):
            continue
        try:
            parse(*command)
        except (SystemExit, InputError) as error:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err or error}")


@documents
def test_commands_have_no_comments_because_not_every_shell_knows_them(path):
    """Zsh, as it is used at a prompt, and cmd.exe pass `#` on to the command."""
    for kind, block in FENCED.findall(path.read_text(encoding="utf-8")):
        if kind == "sh" and not block.startswith("#!"):  # a script is not pasted at a prompt
            assert not re.findall(r"^(?:.*\s)?#.*$", block, re.MULTILINE)


@documents
def test_every_make_target_and_variable_exists(path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    variables = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
    for words in commands(path):
        if words[0] == "make":
            given = {word.partition("=")[0] for word in words[1:] if "=" in word}
            assert given <= set(variables), words
            assert {word for word in words[1:] if "=" not in word} <= set(targets.split()), words


@documents
def test_python_blocks_compile_and_import_names_that_exist(path):
    for kind, block in FENCED.findall(path.read_text(encoding="utf-8")):
        if kind != "python":
            continue
        compile(block, str(path), "exec")
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fer_lib"):
                module = import_module(node.module)
                for name in (alias.name for alias in node.names):
                    assert hasattr(module, name) or find_spec(f"{node.module}.{name}"), name


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings of a document."""
    found = []
    for title in re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


@linked
def test_every_link_leads_to_an_existing_file_and_heading(path):
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", path.read_text(encoding="utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
