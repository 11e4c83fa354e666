"""What a report is made of: the JSON files in its folder `results/`, checked before they are used.

`index.json` says which files there must be, and of which data:

    {"dataset": ..., "preset": ..., "mark": ..., "fingerprint": ..., "files": [...],
     "headlines": [...], "best": ..., "networks": {...}, "settings": {...},
     "pretraining": {...}, "commands": {...}}

`headlines` has the file of the run that stands for each model, in the order of the models, `best`
that of the run that is best among them, `networks` what each run's network is called and whether it
is its recipe's own, `settings` what the run changed in its recipe, `pretraining` the preset's
settings of a pretraining on faces, and `commands` what trains a run again.
"""

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_lib.files import InputError, read_json, sha256
from fer_lib.kept import KEPT
from fer_lib.models import MODULES

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
        *("lead", "agreement", "ensemble", "inflation", "costs", "claims", "printed_claims"),
    ),
    AUDIT: ("fingerprint", "manifest.counts", "copies.test", "near_copies", "clean_test"),
    REFINEMENT: (
        *("fingerprint", "kappa", "voters", "configs", "folds", "voted", "rules", "changed"),
        *("against_truth", "against_annotators", "students", "tests", "agreement_not_accuracy"),
    ),
    MODELS: tuple(MODULES),
}
"""Keys, with dots between those of nested objects, that a file must have."""

NEEDED_OF_ROWS = {
    "runs": ("one_view", "label_on_majority"),
    "costs": ("passes",),
    "inflation": ("expected",),
    "claims": ("ours_other_alike", "published_other_alike"),
    "tests": (
        *("low", "high", "clean_difference", "clean_p_holm"),
        *("majority_difference", "majority_p_holm"),
    ),
}
"""Keys of each row of a list in `comparison.json` that earlier versions did not write."""

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
    """The files of one report, each read once; `used` has the names of those that were read.

    Raises:
        InputError: a file is missing, damaged, lacks a part, or is of other data than the index.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / INDEX).exists():
            raise InputError(
                f"{self.folder / INDEX} does not exist: collect results first, with "
                "python -m fer_lib.report --collect"
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
                f"{self.folder / INDEX} calls {min(unlisted)} a headline, and does not list it: "
                "collect again"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.index["files"]

    @property
    def run_files(self) -> list[str]:
        """Names of the files of runs, oldest first."""
        return sorted(name for name in self.index["files"] if Path(name).match(KEPT))

    def read(self, name: str) -> Any:
        """A file of the index, or the index; InputError that names what is missing of it."""
        self.used.add(name)
        if name not in self._files:
            path = self.folder / name
            if not path.exists():
                raise InputError(
                    f"{path} is missing, though {INDEX} lists it: restore it, or collect again"
                )
            content = read_json(path)
            needed = NEEDED.get(name, NEEDED_OF_A_RUN)
            if "evaluation" in content:
                needed += tuple(f"evaluation.{key}" for key in NEEDED_OF_AN_EVALUATION)
            if name == COMPARISON and (lacking := lacking_in_rows(content)):
                raise InputError(
                    f"{path} lacks {lacking[0]}: run notebook 10_comparison and collect again, "
                    "with this version"
                )
            for key in needed:
                if not has(content, key):
                    raise InputError(f"{path} lacks {key!r}: collect again, with this version")
            self._files[name] = content
        return self._files[name]

    def check(self, name: str) -> None:
        """Raise InputError where a file cannot be used, or belongs to other data than the index."""
        content = self.read(name)
        is_run = Path(name).match(KEPT)
        data = content["config"]["data"] if is_run else content
        other = is_run and data["dataset"] != self.index["dataset"]  # a table of its own
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
        """Every kept run, the oldest first."""
        return [self.read(name) for name in self.run_files]

    @property
    def headlines(self) -> list[dict[str, Any]]:
        """The run that stands for each model, in the order of the models."""
        return [self.read(name) for name in self.index["headlines"]]

    @property
    def best(self) -> dict[str, Any]:
        """Of the `headlines` the run that is best on validation, among those that stand highest.

        See `collect.standing` for what counts before the accuracy; kept predictions count first.
        """
        return self.read(self.index["best"])

    @cached_property
    def date(self) -> datetime:
        """When the newest run was started, with its time zone: the date of the report."""
        started = [run["config"]["environment"]["started"] for run in self.runs]
        return max(map(datetime.fromisoformat, started))

    def digest(self, name: str) -> str:
        """SHA-256 of a file."""
        return sha256(self.folder / name)


def lacking_in_rows(comparison: dict[str, Any]) -> list[str]:
    """What rows of a comparison lack of `NEEDED_OF_ROWS`, as in "runs.one_view"."""
    return [
        f"{part}.{key}"
        for part, keys in NEEDED_OF_ROWS.items()
        for row in comparison.get(part, [])
        for key in keys
        if key not in row
    ]


def has(content: Any, key: str) -> bool:
    """Whether nested objects have a key such as "results.test"."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
