"""Read the JSON files in a report's folder `results/`, and check them before they are used.

`index.json` says which files there must be, and from which data:

    {"dataset": ..., "preset": ..., "mark": ..., "fingerprint": ..., "files": [...],
     "headlines": [...], "best": ..., "networks": {...}, "settings": {...},
     "pretraining": {...}, "commands": {...}}

`headlines` lists the file of the run that represents each model, in the order of the models; `best`
is the file of the best one of them. `networks` says what each run's network is called and whether
it is its recipe's own, `settings` what the run changed in its recipe, and `commands` how to train
it again. `pretraining` has the preset's settings of a pretraining on faces.
"""

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_lib.files import InputError, read_json
from fer_lib.kept import KEPT

INDEX = "index.json"
COMPARISON, AUDIT, REFINEMENT, MODELS = (
    "comparison.json",
    "audit.json",
    "refinement.json",
    "models.json",
)
NEEDED = {
    INDEX: (
        *("dataset", "preset", "mark", "fingerprint", "files"),
        *("headlines", "best", "networks", "settings", "pretraining", "commands"),
    ),
    COMPARISON: (
        *("mark", "fingerprint", "runs", "systems", "tests", "sentences", "test_sets", "recall"),
        *("lead", "agreement", "ensemble", "inflation", "copied", "annotators", "costs"),
        *("claims", "printed_claims", "runs.one_view", "runs.label_on_majority", "costs.passes"),
        *("inflation.expected", "claims.ours_other_alike", "claims.published_other_alike"),
        *("tests.low", "tests.high", "tests.clean_difference", "tests.clean_p_holm"),
        *("tests.majority_difference", "tests.majority_p_holm"),
    ),
    AUDIT: ("fingerprint", "manifest.counts", "copies.test", "near_copies", "clean_test"),
    REFINEMENT: (
        *("fingerprint", "kappa", "voters", "configs", "folds", "voted", "rules", "changed"),
        *("against_truth", "against_annotators", "students", "tests", "agreement_not_accuracy"),
    ),
    MODELS: (),
}
"""Keys that each file must have; dots lead into nested objects, and into all of a list. `MODELS`
must have those models of which the index lists a run: the committed file need not have a model that
was added since."""

NEEDED_OF_AN_EVALUATION = (
    "calibration.bins_after",
    "coverage",
    "abstention.targets",
    "accuracy_by_agreement",
)

NEEDED_OF_A_RUN = (
    "config.train.model",
    "config.train.options",
    "config.data.fingerprint",
    "config.environment.started",
    "results.valid.full.accuracy",
    "results.test.full.interval.accuracy",
    "results.test.full.per_class",
    "results.test.full.confusion",
    "metrics",
)


class Results:
    """The files in `results/` of one report, each read once.

    Attributes:
        folder: of the files.
        index: content of `index.json`.
        used: names of the files that were asked for; it may be reset to see what a figure uses.

    Raises:
        InputError: a file is missing, damaged, lacks a part, or was made from other data than the
            index says.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / INDEX).exists():
            raise InputError(
                f"{self.folder / INDEX} does not exist: collect results first, with "
                f"python -m fer_lib.report --collect --folder {self.folder.parent}"
            )
        self.used: set[str] = set()
        self._files: dict[str, Any] = {}
        self.index = self.read(INDEX)
        for name in self.index["files"]:
            self.check(name)
        if not self.run_files:
            raise InputError(f"{self.folder / INDEX} lists no run: train one, then collect again")
        if unlisted := {self.index["best"], *self.index["headlines"]} - set(self.run_files):
            raise InputError(
                f"{self.folder / INDEX} names {min(unlisted)} as a headline but does not list it "
                "among its files: collect again"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.index["files"]

    @property
    def run_files(self) -> list[str]:
        """Names of the files of runs, the oldest first."""
        return sorted(name for name in self.index["files"] if Path(name).match(KEPT))

    def read(self, name: str) -> Any:
        """Read a file of the index, or the index itself.

        Raises:
            InputError: the file is missing or damaged, or lacks a key, which the error names.
        """
        self.used.add(name)
        if name not in self._files:
            path = self.folder / name
            if not path.exists():
                raise InputError(
                    f"{path} is missing, though {INDEX} lists it: restore it, or collect again"
                )
            content = read_json(path)
            needed = NEEDED.get(name, NEEDED_OF_A_RUN)
            if name == MODELS:
                needed = tuple(run["config"]["train"]["model"] for run in self.runs)
            if "evaluation" in content:
                needed += tuple(f"evaluation.{key}" for key in NEEDED_OF_AN_EVALUATION)
            for key in needed:
                if not has(content, key):
                    first = "run notebook 10_comparison, then " if name == COMPARISON else ""
                    if Path(name).match(KEPT):  # collecting evaluates a run if its folder exists
                        first = "run python -m fer_lib.kept --restore, then "
                    raise InputError(
                        f"{path} lacks {key!r}: {first}collect again, with this version"
                    )
            self._files[name] = content
        return self._files[name]

    def check(self, name: str) -> None:
        """Raise InputError if a file cannot be used or was made from other data than the index."""
        content = self.read(name)
        is_run = Path(name).match(KEPT)
        data = content["config"]["data"] if is_run else content
        other = is_run and data["dataset"] != self.index["dataset"]  # in a table of its own
        if not other and data.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise InputError(
                f"{self.folder / name} is stale: it was made from other data "
                f"({data['fingerprint'][:12]}…) than {INDEX} is for ({self.fingerprint[:12]}…): "
                "make it again, then collect again"
            )

    @property
    def fingerprint(self) -> str:
        return self.index["fingerprint"]

    @property
    def mark(self) -> str:
        return self.index["mark"]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All kept runs, the oldest first."""
        return [self.read(name) for name in self.run_files]

    @property
    def headlines(self) -> list[dict[str, Any]]:
        """The run that represents each model, in the order of the models."""
        return [self.read(name) for name in self.index["headlines"]]

    @property
    def best(self) -> dict[str, Any]:
        """The best run of the `headlines`.

        Kept predictions count first, then what `collect.standing` returns: an evaluation in depth,
        a complete network, and the validation accuracy.
        """
        return self.read(self.index["best"])

    @cached_property
    def date(self) -> datetime:
        """The date of the report: when the newest run was started, with its time zone."""
        started = [run["config"]["environment"]["started"] for run in self.runs]
        return max(map(datetime.fromisoformat, started))


def has(content: Any, key: str) -> bool:
    """Return whether nested objects have a key such as "results.test"; all in a list must."""
    if isinstance(content, list):
        return all(has(one, key) for one in content)
    first, _, rest = key.partition(".")
    there = isinstance(content, dict) and first in content
    return there and (not rest or has(content[first], rest))
