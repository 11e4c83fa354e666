"""Set results and figures as a PDF with Typst, offline: the same bytes while nothing changes."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from fer_lib.files import InputError, replacing
from fer_lib.report.figures import refresh
from fer_lib.report.results import Results

STANDARD = "ua-1"
"""PDF/UA-1: tagged, with alternative text for every figure; Typst refuses any other document."""


def source() -> Path:
    """Return the folder `report/` of the checkout, with the text of the report.

    Raises:
        InputError: the package is not in a clone of the repository.
    """
    folder = Path(__file__).resolve().parents[2] / "report"
    if not (folder / "report.typ").exists():
        raise InputError(f"{folder} has no report.typ: the report is built from a clone")
    return folder


def build(folder: str | Path | None = None) -> Path:
    """Build `report.pdf` from the results and figures in a folder.

    A figure is drawn again if its file, the results that it shows or the code that draws it has
    changed. Only the fonts that come with Typst are used, and the date is that of the newest run,
    so every machine makes the same file with the same version of Typst.

    Args:
        folder: has `results/`, and gets `figures/` and `report.pdf`; None for `report/` of the
            checkout.

    Returns:
        Path of `report.pdf`.

    Raises:
        InputError: a file of results is missing, damaged or made from other data, or lacks a part
            that the text needs, or the package is not in a clone of the repository.
    """
    import typst

    folder = Path(folder) if folder else source()
    results = Results(folder / "results")
    refresh(results, folder / "figures")
    target = folder / "report.pdf"
    with TemporaryDirectory() as staged, replacing(target) as temporary:
        stage(folder, Path(staged))
        try:
            typst.compile(
                Path(staged) / "report.typ",
                temporary,
                root=staged,
                format="pdf",
                ignore_system_fonts=True,
                pdf_standards=[STANDARD],
                timestamp=results.date,
            )
        except typst.TypstError as error:
            where = error.diagnostic.partition("┌─ ")[2].partition("\n")[0]
            where = where.rpartition(f"{Path(staged).name}/")[2]
            raise InputError(f"the report could not be set: {error.message} ({where})") from error
    return target


def texts() -> list[Path]:
    """List all files of the report's text, sorted."""
    return sorted([*source().rglob("*.typ"), source() / "refs.bib"])


def stage(folder: Path, staged: Path) -> None:
    """Copy text, results and figures into one folder: Typst reads nothing outside its root."""
    for path in texts():
        target = staged / path.relative_to(source())
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    for name in ("results", "figures"):
        shutil.copytree(folder / name, staged / name)
