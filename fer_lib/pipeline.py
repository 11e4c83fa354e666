"""The whole project in one command: notebooks, executed headlessly by papermill, and the report.

    python -m fer_lib.pipeline
    python -m fer_lib.pipeline --dataset fer2013 --data-dir DIR --preset quick --stages 01,03

Every stage but the last is a notebook. A stage runs again only when its notebook, its parameters,
the package's code or one of its input files changed, or an output is missing. After a failure the
same command goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fer_lib.data import load_faces
from fer_lib.files import (
    InputError,
    expanded,
    home,
    print_anything,
    read_json,
    replacing,
    sha256,
    write_json,
)
from fer_lib.recipes import default_preset
from fer_lib.report.build import build
from fer_lib.report.collect import collect
from fer_lib.runs import runs_folder
from fer_lib.settings import add_arguments, parse_settings
from fer_lib.stages import Stage, choose_stages

CELL_TIMEOUT = {"sample": 3600, "quick": 6 * 3600, "full": 48 * 3600}
"""Seconds for one cell, by preset: a whole training is one cell."""


PATHS = ("pretrained", "hub_voters", "model", "pictures")
"""Parameters of notebooks that may name files or folders: notebooks run elsewhere."""


def absolute(value: Any, name: str = "") -> Any:
    """A parameter's value with the existing paths in it, where `PATHS` names it, made absolute."""
    if isinstance(value, dict):
        return {key: absolute(one, key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [absolute(one, name) for one in value]
    if isinstance(value, str) and value and name in PATHS:
        with suppress(OSError, RuntimeError):  # too long for a path, or of an unknown user
            path = Path(value).expanduser()
            return str(path.resolve()) if path.exists() else value
    return value


def named_files(value: Any, name: str = "") -> list[Path]:
    """The files that a parameter's value names, as `absolute` gives it; all of a folder's."""
    if isinstance(value, dict):
        return [path for key, one in value.items() for path in named_files(one, key)]
    if isinstance(value, list):
        return [path for one in value for path in named_files(one, name)]
    if not isinstance(value, str) or name not in PATHS or not Path(value).is_absolute():
        return []
    path = Path(value)
    return [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())


class Pipeline:
    """The stages for one dataset, preset and seed.

    Args:
        parameters: given to every notebook that has them.
        extra: parameters of single notebooks; each must be known to a stage that is run.
    """

    def __init__(
        self,
        *,
        dataset: str = "sample",
        preset: str | None = None,
        data_dir: str | None = None,
        seed: int = 0,
        runs: str | None = None,
        stages: str | None = None,
        extra: dict[str, Any] | None = None,
    ):
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must be 0 or more and below 2**32, not {seed}")
        self.dataset, self.seed, self.data_dir = dataset, seed, data_dir
        self.preset = preset or default_preset(dataset)
        self.runs = runs_folder(runs).resolve()
        self.data = home() / "data" / dataset
        self.folder = self.runs / f"notebooks_{dataset}_{self.preset}_s{seed}"
        self.stages = choose_stages(stages)
        self.parameters = {
            "dataset": dataset,
            "preset": self.preset,
            "data_dir": str(expanded(data_dir).resolve()) if data_dir else None,
            "seed": seed,
            "runs_dir": str(self.runs),
            "interactive": False,
        }
        self.extra = absolute(extra or {})
        self.known = {stage.name: stage.parameters() for stage in self.stages}
        if unknown := set(self.extra) - set().union(*self.known.values()):
            raise InputError(
                f"no stage that is run has the parameter {', '.join(sorted(unknown))}; there are "
                f"{', '.join(sorted(set().union(*self.known.values())))}"
            )
        for name, default in (pair for one in self.known.values() for pair in one.items()):
            value = self.extra.get(name)
            if isinstance(value, str) and default != "None" and default[0] not in "\"'":
                raise InputError(
                    f"{name}={value} cannot take the place of {default}: if the shell has taken "
                    f'its quotes away, write --set "{name}=…" with single quotes inside'
                )

    def run(self) -> list[tuple[str, str, float]]:
        """Run what is not up to date; return (stage, what was done, seconds) for each.

        Raises:
            InputError: an input is missing, or a stage failed; the ones before it are kept.
        """
        load_faces(self.dataset, self.data_dir)  # what is wrong with the data is said right here
        done = []
        for number, stage in enumerate(self.stages, 1):
            print(f"[{number}/{len(self.stages)}] {stage.name}", flush=True)
            start = time.perf_counter()
            key = self.key(stage)
            if self.up_to_date(stage, key):
                done.append((stage.name, "up to date", 0.0))
                continue
            began = time.time()
            if stage.is_report:
                self.report()
                key = self.key(stage)  # it evaluates the runs that notebook 09 has not
            else:
                self.execute(stage)
            state = {"key": key, "outputs": self.written(stage, began)}
            write_json(self.folder / "state.json", self.state() | {stage.name: state})
            done.append((stage.name, "run", time.perf_counter() - start))
        return done

    def written(self, stage: Stage, began: float) -> dict[str, str]:
        """SHA-256 of each output file that was written since `began` (seconds since the epoch)."""
        every = {}
        for pattern in stage.outputs:
            # A second of grace: some file systems keep times no finer.
            new = [path for path in self.files(pattern) if path.stat().st_mtime >= began - 1]
            if not new:
                raise InputError(f"{stage.name} ended without writing {self.shown(pattern)}")
            every |= {str(path): sha256(path) for path in new}
        return every

    def files(self, pattern: str) -> list[Path]:
        """Files that a pattern of a stage matches, sorted."""
        values = {"dataset": self.dataset, "preset": self.preset, "seed": self.seed}
        for name, root in (("data", self.data), ("runs", self.runs)):
            if pattern.startswith(prefix := "{" + name + "}/"):
                return sorted(root.glob(pattern.removeprefix(prefix).format(**values)))
        raise ValueError(pattern)

    def shown(self, pattern: str) -> str:
        """A pattern with everything filled in but its asterisks."""
        return pattern.format(data=self.data, runs=self.runs, **self.parameters)

    def key(self, stage: Stage) -> str:
        """SHA-256 of all that the outputs of a stage depend on."""
        for pattern in stage.inputs:
            if not self.files(pattern):
                raise InputError(
                    f"{stage.name} needs {self.shown(pattern)}, which no stage has written: run "
                    "the stages before it too"
                )
        digest = hashlib.sha256()
        digest.update(json.dumps(self.values(stage), sort_keys=True).encode())
        for path in stage.sources():
            digest.update(path.read_bytes())
        package = Path(__file__).parent
        for path in sorted([*package.rglob("*.py"), *package.rglob("*.safetensors")]):
            digest.update(path.read_bytes())
        for path in named_files(self.values(stage)):
            digest.update(f"{path}{sha256(path)}".encode())
        every = stage.inputs + stage.optional
        for path in (path for pattern in every for path in self.files(pattern)):
            digest.update(f"{path}{sha256(path)}".encode())
        return digest.hexdigest()

    def values(self, stage: Stage) -> dict[str, Any]:
        """The parameters that a stage's notebook takes."""
        every = self.parameters | self.extra
        return {name: every[name] for name in self.known[stage.name] if name in every}

    def state(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "state.json"
        return read_json(path) if path.exists() else {}

    def up_to_date(self, stage: Stage, key: str) -> bool:
        """Whether a stage ran on just these inputs, and nobody has written its outputs since.

        Another preset or seed may have: labels are refined in one place for all of them.
        """
        state = self.state().get(stage.name, {})
        return state.get("key") == key and all(
            os.path.exists(path) and sha256(Path(path)) == known
            for path, known in state["outputs"].items()
        )

    def report(self) -> None:
        """Build the report of these runs alone, whatever was collected before."""
        folder = self.runs / f"report_{self.dataset}_{self.preset}"
        shutil.rmtree(folder / "results", ignore_errors=True)
        collect(folder, dataset=self.dataset, preset=self.preset, runs=self.runs)
        build(folder)

    def execute(self, stage: Stage) -> None:
        """Execute a notebook into the folder of executed notebooks, and write it as HTML."""
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        target = self.folder / f"{stage.name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        if "FER_HOME" in os.environ:
            os.environ["FER_HOME"] = str(home())  # the kernel runs in another folder
        try:
            papermill.execute_notebook(
                stage.notebook(),
                target,
                self.values(stage),
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                execution_timeout=CELL_TIMEOUT[self.preset],
                cwd=target.parent,
            )
        except papermill.PapermillExecutionError as error:
            reason = f"cell {error.exec_count} ended with {error.ename}: {error.evalue}"
        except (CellTimeoutError, DeadKernelError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            write_html(target)
            return
        raise InputError(
            f"{stage.name} failed, {reason}; see {target}. The same command goes on here"
        )


def write_html(path: Path) -> None:
    """Write an executed notebook beside itself as HTML."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(path))
    with replacing(path.with_suffix(".html")) as temporary:
        temporary.write_text(body, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line; what the user can mend ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.pipeline", description=__doc__.split("\n")[0]
    )
    add_arguments(parser, "single notebooks")
    parser.add_argument("--stages", help="for instance 01,03; default: all")
    args = vars(parser.parse_args(arguments))
    print_anything()  # the notebooks show emoji
    try:
        args["extra"] = parse_settings(args.pop("set"), (*args, "runs_dir"))
        pipeline = Pipeline(**args)
        done = pipeline.run()
    except InputError as error:
        parser.error(str(error))
    print()
    for name, what, seconds in done:
        print(f"{name:16} {what:12} {seconds:8.1f} s")
    print(f"{'':16} {'total':12} {sum(row[2] for row in done):8.1f} s")
    print(f"executed notebooks: {pipeline.folder}")
    for path in pipeline.files("{runs}/comparison_{dataset}_{preset}/comparison.md"):
        print(f"comparison: {path}\n\n{path.read_text(encoding='utf-8')}")
    for path in pipeline.files("{runs}/report_{dataset}_{preset}/report.pdf"):
        print(f"report: {path}")


if __name__ == "__main__":
    main()
