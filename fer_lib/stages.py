"""The stages of the pipeline: notebooks and the report, with the files they read and write."""

from dataclasses import dataclass
from pathlib import Path

from fer_lib.files import InputError
from fer_lib.report.build import texts

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
"""Folder of the notebooks in a clone of the repository."""


@dataclass(frozen=True)
class Stage:
    """A notebook or the report, and the files that connect it to the other stages.

    Attributes:
        name: stem of the notebook's file name, or "report".
        inputs, outputs: glob patterns with the fields {data}, {runs}, {results} (of kept runs),
            {dataset}, {preset} and {seed}. Each input must match a file before the stage runs, and
            each output a file that the stage has written.
        optional: patterns of further inputs, which the stage may use if they exist.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def is_report(self) -> bool:
        return self.name == "report"

    def sources(self) -> list[Path]:
        """Return the files that the stage executes: the notebook, or the texts of the report."""
        return texts() if self.is_report else [self.notebook()]

    def notebook(self) -> Path:
        """Return the path of the notebook in the checkout.

        Raises:
            InputError: the notebook does not exist.
        """
        path = NOTEBOOKS / f"{self.name}.ipynb"
        if not path.exists():
            raise InputError(
                f"{path} does not exist: the pipeline runs from a clone of the repository"
            )
        return path

    def parameters(self) -> dict[str, str]:
        """Return the names in the notebook's cell tagged `parameters`, with their defaults as code.

        The report has no parameters.
        """
        import papermill

        found = {} if self.is_report else papermill.inspect_notebook(str(self.notebook()))
        return {name: about["default"] for name, about in found.items()}


DATA = "{data}/manifest.json"  # contains the fingerprint of faces.npz
RUNS = ("{runs}/*_{dataset}_s*/results.json", "{runs}/*_{dataset}_s*/predictions.npz")
REFINED = "{data}/refined_*.npz"
COMPARED = ("json", "md", "csv", "tex", "png", "svg")
KEPT = "{results}/*_s*.json"  # the results on real faces, of which each shows some
TRAININGS = ("03_cnn", "04_vit_scratch", "05_vit_tiny", "06_vit_mae", "07_vit_moe", "08_grefel")
"""Notebooks that train; each of them may be told to learn from refined labels."""

STAGES = (
    Stage("01_data", (DATA,), ("{data}/audit.json",)),
    Stage("02_label_refinement", (DATA,), ("{data}/refinement.json", REFINED)),
    *(
        Stage(name, (DATA,), ("{runs}/*_{dataset}_s{seed}/inference.json",), (KEPT, REFINED))
        for name in TRAININGS
    ),
    Stage("09_evaluation", (DATA, *RUNS), ("{runs}/*_{dataset}_s*/evaluation.json",)),
    Stage(
        "10_comparison",
        (DATA, *RUNS),
        tuple(f"{{runs}}/comparison_{{dataset}}_{{preset}}/*.{kind}" for kind in COMPARED),
        # Measured times, if any; for the claims, runs on other data and refined labels.
        (
            *("{runs}/*_s*/inference.json", "{runs}/*_s*/results.json"),
            *("{data}/../fer2013/refinement.json", "{data}/../fer2013/manifest.json"),
        ),
    ),
    Stage("11_try_it", (), ("{runs}/try_it_{dataset}_{preset}/faces.json",)),
    Stage(
        "report",
        (DATA, *RUNS, "{data}/audit.json", "{runs}/comparison_{dataset}_{preset}/comparison.json"),
        ("{runs}/report_{dataset}_{preset}/report.pdf",),
        (
            *("{runs}/*_s*/inference.json", "{runs}/*_s*/evaluation.json"),
            *("{runs}/*_s*/results.json", "{data}/refinement.json"),
        ),
    ),
)


def choose_stages(text: str | None) -> tuple[Stage, ...]:
    """Return the stages that a text names, in the order of the pipeline.

    Args:
        text: numbers or names, separated by commas, as in "01,03_cnn"; None: all stages.

    Raises:
        InputError: the text names no stage, or one that does not exist.
    """
    if text is None:
        return STAGES
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted:
        raise InputError("--stages names no stage: leave it out to run them all")
    chosen = []
    for part in wanted:
        match = [stage for stage in STAGES if part in (stage.name, stage.name.split("_")[0])]
        if not match:
            known = ", ".join(stage.name for stage in STAGES)
            raise InputError(f"stage {part!r} is unknown: the stages are {known}")
        chosen += match
    return tuple(stage for stage in STAGES if stage in chosen)
