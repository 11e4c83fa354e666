"""Keep the refined labels that kept runs learned from, and put them back."""

import shutil
from pathlib import Path
from typing import Any

from fer_lib.data.refined import LABELS, read_refined, refined_path
from fer_lib.files import read_json, replacing, sha256
from fer_lib.kept.results import KEPT
from fer_lib.runs import Run


def keep_labels(run: Run, folder: Path) -> str:
    """Copy the refined labels that a run learned from to `<dataset>_refined_<rule>_<digits>.npz`.

    The digits are the first of the file's SHA-256.

    Returns:
        "", or why the labels cannot be kept: those in `data/` are missing or others.
    """
    match, dataset = LABELS.fullmatch(run.config["train"]["labels"]), run.results["dataset"]
    if not match or kept_labels(run.config, dataset, folder):
        return ""
    source = refined_path(dataset, match[1])
    if not source.exists() or not _teaches(source, run.config, soft=bool(match[2])):
        return f"the labels that {run.name} learned from are not kept: {source} has them no longer"
    with replacing(folder / f"{dataset}_{source.stem}_{sha256(source)[:8]}.npz") as temporary:
        shutil.copyfile(source, temporary)
    return ""


def kept_labels(config: dict[str, Any], dataset: str, folder: Path) -> Path | None:
    """Return the kept file of the refined labels that a run learned from; None if there is none."""
    match = LABELS.fullmatch(config["train"]["labels"])
    files = folder.glob(f"{dataset}_refined_{match[1]}_*.npz") if match else ()
    return next((path for path in files if _teaches(path, config, soft=bool(match[2]))), None)


def _teaches(path: Path, config: dict[str, Any], soft: bool) -> bool:
    return read_refined(path)[0].sha256(soft) == config["data"]["refined_sha256"]


def restore_labels(folder: Path) -> list[str]:
    """Put refined labels that kept runs learned from back into `data/`, where there are none.

    If runs learned from different labels by one rule, it puts back those of the newest run.

    Returns:
        A line for each new file, and for each run that learned from other labels than `data/` has.

    Raises:
        InputError: a file of labels is damaged.
    """
    lines = []
    for path in sorted(folder.glob(KEPT), reverse=True):
        kept = read_json(path)
        dataset = kept["results"]["dataset"]
        if labels := kept_labels(kept["config"], dataset, folder):
            target = refined_path(dataset, read_refined(labels)[0].rule)
            if not target.exists():
                with replacing(target) as temporary:
                    shutil.copyfile(labels, temporary)
                lines.append(f"{target} is made")
            elif target.read_bytes() != labels.read_bytes():
                lines.append(f"{target} has other labels than {path.stem} learned from: {labels}")
    return lines
