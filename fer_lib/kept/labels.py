"""Keep the refined labels that kept runs learned from, and put them back."""

import shutil
from pathlib import Path
from typing import Any

from fer_lib.data.refined import LABELS, read_refined, refined_path
from fer_lib.files import read_json, replacing, sha256
from fer_lib.kept.results import KEPT
from fer_lib.runs import Run


def keep_labels(run: Run, folder: Path) -> str:
    """Keep the refined labels that a run learned from (`keep_file`), if they are not kept yet.

    Returns:
        "", or why the labels cannot be kept: those in `data/` are missing or others.
    """
    match, dataset = LABELS.fullmatch(run.config["train"]["labels"]), run.results["dataset"]
    if not match or kept_labels(run.config, dataset, folder):
        return ""
    source = refined_path(dataset, match[1])
    if not source.exists() or not _teaches(source, run.config, soft=bool(match[2])):
        return f"the labels that {run.name} learned from are not kept: {source} has them no longer"
    keep_file(source, folder)
    return ""


def keep_file(path: Path, folder: Path) -> Path:
    """Copy a file of refined labels to `<dataset>_refined_<rule>_<digits>.npz`.

    The digits are the first of the file's SHA-256.

    Raises:
        InputError: the file is damaged.
    """
    refined, _, manifest = read_refined(path)
    target = folder / f"{manifest['dataset']}_refined_{refined.rule}_{sha256(path)[:8]}.npz"
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    return target


def kept_labels(config: dict[str, Any], dataset: str, folder: Path) -> Path | None:
    """Return the kept file of the refined labels that a run learned from; None if there is none."""
    match = LABELS.fullmatch(config["train"]["labels"])
    files = folder.glob(f"{dataset}_refined_{match[1]}_*.npz") if match else ()
    return next((path for path in files if _teaches(path, config, soft=bool(match[2]))), None)


def _teaches(path: Path, config: dict[str, Any], soft: bool) -> bool:
    return read_refined(path)[0].sha256(soft) == config["data"].get("refined_sha256")


def restore_labels(folder: Path) -> list[str]:
    """Put kept refined labels back into `data/`, where there are none.

    Of different labels by one rule, it puts back those that the newest run learned from.

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
            lines += _put_back(labels)
            rule, soft = LABELS.fullmatch(kept["config"]["train"]["labels"]).groups()
            target = refined_path(dataset, rule)
            if not _teaches(target, kept["config"], soft=bool(soft)):
                lines.append(f"{target} has other labels than {path.stem} learned from: {labels}")
    for labels in sorted(folder.glob("*_refined_*.npz")):
        lines += _put_back(labels)
    return lines


def _put_back(labels: Path) -> list[str]:
    """Copy kept labels into `data/`, unless there are some, and return a line if this is done."""
    refined, _, manifest = read_refined(labels)
    target = refined_path(manifest["dataset"], refined.rule)
    if target.exists():
        return []
    with replacing(target) as temporary:
        shutil.copyfile(labels, temporary)
    return [f"{target} is made"]
