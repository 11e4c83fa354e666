"""Run the whole project in one command: notebooks, executed by papermill, and the report.

    python -m fer_lib.pipeline
    python -m fer_lib.pipeline --dataset fer2013 --data-dir DIR --preset quick --stages 01,03

Every stage except the last is a notebook. A stage runs again only if its notebook, its parameters,
the package's code or one of its input files has changed, or if one of its outputs is missing or has
changed. After a failure, the same command continues where it stopped.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fer_lib.arguments import absolute, add_arguments, named_files, parse_settings
from fer_lib.data import load_faces
from fer_lib.files import (
    InputError,
    continued,
    expanded,
    home,
    print_anything,
    read_json,
    replacing,
    require_writable,
    sha256,
    write_json,
)
from fer_lib.recipes import default_preset
from fer_lib.report.build import build
from fer_lib.report.collect import collect
from fer_lib.runs import runs_folder
from fer_lib.stages import NOTEBOOKS, STAGES, Stage, choose_stages

SAMPLE_SECONDS = 3600
"""Time that one cell may take with the preset sample; with others, one may train for days."""


class Pipeline:
    """The stages for one dataset, preset and seed.

    Args:
        stages: as `choose_stages` takes them; None: all.
        extra: parameters of single notebooks; at least one chosen stage must know each of them.

    Attributes:
        parameters: passed to every notebook that has parameters of these names.
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
        self.roots = {
            "{data}": home() / "data" / dataset,
            "{runs}": self.runs,
            "{results}": NOTEBOOKS.parent / "report" / "results",
        }
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
        known = set().union(*self.known.values())
        if unknown := self.extra.keys() - known:
            raise InputError(
                f"no chosen stage has the parameter {', '.join(sorted(unknown))}; they have "
                f"{', '.join(sorted(known))}"
            )
        for name, default in (pair for one in self.known.values() for pair in one.items()):
            value = self.extra.get(name)
            if isinstance(value, str) and default != "None" and default[0] not in "\"'":
                raise InputError(
                    f"{name}={value} cannot replace the default {default}: if the shell removed "
                    f'its quotes, write --set "{name}=…" with single quotes inside'
                )

    def run(self) -> list[tuple[str, str, float]]:
        """Run the stages that are not up to date.

        Returns:
            (name, "run" or "up to date", seconds) for each stage.

        Raises:
            InputError: an input is missing, the folder of runs cannot be written to, or a stage
                failed; the stages before it are kept.
        """
        require_writable(self.runs)
        if any(stage.inputs for stage in self.stages):
            load_faces(self.dataset, self.data_dir)  # raises if the data are unusable
        done = []
        for number, stage in enumerate(self.stages, 1):
            print(f"[{number}/{len(self.stages)}] {stage.name}", flush=True)
            start = time.perf_counter()
            key = self.key(stage)
            if self.up_to_date(stage, key):
                done.append((stage.name, "up to date", 0.0))
                continue
            began = self.now()
            if stage.is_report:
                self.report()
                key = self.key(stage)  # it evaluates runs that notebook 09 did not
            else:
                self.execute(stage)
            state = {"key": key, "outputs": self.written(stage, began)}
            write_json(self.folder / "state.json", self.state() | {stage.name: state})
            done.append((stage.name, "run", time.perf_counter() - start))
        return done

    def now(self) -> float:
        """Return the Unix time in seconds by the clock of the file system, a server's perhaps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.folder, prefix=".now") as new:
            return os.stat(new).st_mtime

    def written(self, stage: Stage, began: float) -> dict[str, str]:
        """Return the SHA-256 of each output file written since `began` (see `now`)."""
        every = {}
        for pattern in stage.outputs:
            # A second of tolerance, as some file systems store times in whole seconds.
            new = [path for path in self.files(pattern) if path.stat().st_mtime >= began - 1]
            if not new:
                missing = Path(*self.filled(pattern))
                raise InputError(f"{stage.name} ended without writing {missing}")
            every |= {str(path): sha256(path) for path in new}
        return every

    def files(self, pattern: str) -> list[Path]:
        """Return the files that match a pattern of a stage, sorted."""
        folder, rest = self.filled(pattern)
        return sorted(folder.glob(rest))

    def filled(self, pattern: str) -> tuple[Path, str]:
        """Fill in the fields of a pattern; return its folder, and the pattern inside the folder."""
        root, _, rest = pattern.partition("/")
        return self.roots[root], rest.format(**self.parameters)

    def key(self, stage: Stage) -> str:
        """Return the SHA-256 of everything on which the outputs of a stage depend."""
        for pattern in stage.inputs:
            if not self.files(pattern):
                raise InputError(
                    f"{stage.name} needs {Path(*self.filled(pattern))}, which no stage has "
                    "written: run the stages before it too"
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
        """Return the values for the parameters that a stage's notebook has."""
        every = self.parameters | self.extra
        return {name: every[name] for name in self.known[stage.name] if name in every}

    def state(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "state.json"
        return read_json(path) if path.exists() else {}

    def up_to_date(self, stage: Stage, key: str) -> bool:
        """Return whether a stage ran on exactly these inputs, and its outputs are unchanged since.

        Another preset or seed may change them: all of them write refined labels to one place.
        """
        state = self.state().get(stage.name, {})
        return state.get("key") == key and all(
            os.path.exists(path) and sha256(Path(path)) == known
            for path, known in state["outputs"].items()
        )

    def report(self) -> None:
        """Build the report from these runs only, without results that were collected before."""
        folder = self.runs / f"report_{self.dataset}_{self.preset}"
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".new") as new:
            collect(new, dataset=self.dataset, preset=self.preset, runs=self.runs)
            shutil.rmtree(folder / "results", ignore_errors=True)
            os.replace(Path(new) / "results", folder / "results")
        build(folder)

    def execute(self, stage: Stage) -> None:
        """Execute a notebook, and write it to the folder of executed notebooks, also as HTML."""
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        target = self.folder / f"{stage.name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            papermill.execute_notebook(
                stage.notebook(),
                target,
                self.values(stage),
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                execution_timeout=SAMPLE_SECONDS if self.preset == "sample" else None,
                cwd=target.parent,
            )
        except papermill.PapermillExecutionError as error:
            reason = f"cell {error.exec_count} ended with {error.ename}: {error.evalue}"
        except CellTimeoutError:
            reason = f"a cell took more than {SAMPLE_SECONDS} seconds"
        except DeadKernelError:
            reason = "its Python process died, mostly for want of memory: close other programs"
        else:
            write_html(target)
            return
        raise InputError(
            f"{stage.name} failed, {reason}; see {target}. The same command continues here; to "
            "go on without this stage, leave it out of --stages"
        )


def write_html(path: Path) -> None:
    """Write an executed notebook as HTML beside it."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(path))
    with replacing(path.with_suffix(".html")) as temporary:
        temporary.write_text(body, encoding="utf-8")


@continued()
def main(arguments: list[str] | None = None) -> None:
    """Run the command line; after a user's error, end with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.pipeline", description=__doc__.split("\n")[0]
    )
    add_arguments(parser, "single notebooks", "\"changes={'epochs': 5}\"")
    known = ", ".join(stage.name for stage in STAGES)
    parser.add_argument("--stages", help=f"for instance 01,03; default: all, {known}")
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
    chosen = [name for name, _, _ in done]  # a file of an earlier call may be of other runs
    if "10_comparison" in chosen:
        for path in pipeline.files("{runs}/comparison_{dataset}_{preset}/comparison.md"):
            print(f"comparison: {path}\n\n{path.read_text(encoding='utf-8')}")
    if "report" in chosen:
        for path in pipeline.files("{runs}/report_{dataset}_{preset}/report.pdf"):
            print(f"report: {path}")


if __name__ == "__main__":
    main()
