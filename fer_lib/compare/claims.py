"""Put beside each published result what the system reaches here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fer_lib.changed import changed_settings, same_network
from fer_lib.compare.names import contents
from fer_lib.compare.published import CLAIMS, Claim
from fer_lib.files import home, read_json
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.recipes import own_start
from fer_lib.runs import Run

NOT_RUN = "not run yet"


def _pooled(results: dict[str, Any]) -> float:
    parts = [results[split]["full"] for split in ("valid", "test")]
    return sum(p["accuracy"] * p["n"] for p in parts) / sum(p["n"] for p in parts)


SCORES: dict[str, Callable[[dict[str, Any]], float]] = {
    "validation": lambda results: results["valid"]["full"]["accuracy"],
    "test": lambda results: results["test"]["full"]["accuracy"],
    "validation and test": _pooled,
}
"""Functions that take the accuracy on a kind of images from a run's `results.json`."""


def claims_table(runs: Sequence[Run], refinement: dict[str, Any] | None = None) -> pd.DataFrame:
    """Return the claims, each with what finished runs of the preset "full" reached.

    Args:
        runs: of any data and preset. Runs of another preset than "full", and runs with a mark, such
            as those trained on a part of the images, are no reproduction and are left out.
        refinement: the content of `refinement.json`, which notebook 02 writes, for FER2013; None
            if there is none.

    Returns:
        One row per claim, in the order of `CLAIMS`; NaN or None if there is no such number.
        Columns:

        * those of `Claim`;
        * `published_…` and `ours_…` for the two recipes: `runs` (their number; 0: not run yet),
          `setting` (what they changed in the recipe, "" for nothing), `alike` (accuracy on our
          images of the kind of the claim, or on validation after the claim's `epoch`), `test` and
          `clean` (accuracy on all and on the clean test images), all means over seeds;
        * `published_other_…` and `ours_other_…`: the same for runs with another network than the
          recipe's (see `same_network`), of the setting that is best on validation;
        * `difference` (`published_alike` minus the claimed accuracy) and `note` (for the refinement
          of labels, what it changes here; else "").
    """
    full = [run for run in runs if run.train_config.preset == "full" and not run.results["mark"]]
    rows = []
    for claim in CLAIMS:
        row = asdict(claim)
        for name in ("published", "ours"):
            found = reproduction(claim, full, name)
            row |= {f"{name}_{key}": value for key, value in found.items()}
        claimed, reached = claim.accuracy, row["published_alike"]
        row["difference"] = reached - claimed if reached is not None and claimed else None
        row["note"] = _changed(refinement) if claim.system == "refinement" else ""
        rows.append(row)
    numbers = ["accuracy", "difference"]
    numbers += [
        f"{name}_{network}{score}"
        for name in ("published", "ours")
        for network in ("", "other_")
        for score in ("alike", "test", "clean")
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def reproduction(claim: Claim, runs: Iterable[Run], name: str) -> dict[str, Any]:
    """Return the mean scores of the runs of a claim's system by the recipe `name`.

    Runs that keep to the recipe are preferred; it does not matter where the file of the backbone's
    pretrained weights is. If there are none, the scores are those of the changed setting that is
    best on validation. Runs with another network are scored separately. Runs of a published recipe
    keep to it only if they learn from the labels of the claim.

    Returns:
        `runs`, `setting`, `alike`, `test`, `clean`, and the same with the prefix `other_`, as in
        `claims_table`.
    """
    wanted = (claim.system, name, claim.dataset)
    same: dict[tuple[str, ...], dict[int, Run]] = {}
    other: dict[tuple[str, ...], dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.name):  # so the newest of a seed stays
        config = run.train_config
        if (config.model, config.recipe, run.results["dataset"]) == wanted:
            changed = changed_settings(config)
            if name == "published" and claim.labels != "original":
                changed = [part for part in changed if part != f"labels={claim.labels}"]
                changed += ["labels=original"] if config.labels == "original" else []
            start = config.pretrained  # another file of its backbone's weights is no change
            backbone_file = isinstance(start, str) and not own_start(start)
            if backbone_file or pretraining_of(run.config):
                changed = [part for part in changed if not part.startswith("pretrained=")]
            if own := pretraining_of(run.config):
                changed.append(f"pretraining_epochs={own['epochs']}")
            found = same if same_network(config.to_dict()) else other
            learned_from = [digest or "" for digest in contents(run).values()]
            found.setdefault((" ".join(changed), *learned_from), {})[config.seed] = run
    best = [
        _best(claim, {key: list(seeds.values()) for key, seeds in found.items()})
        for found in (same, other)
    ]
    return best[0] | {f"other_{key}": value for key, value in best[1].items()}


def _best(claim: Claim, found: dict[tuple[str, ...], list[Run]]) -> dict[str, Any]:
    """Return the scores of the plain setting, or else of the one that is best on validation.

    Args:
        found: runs by their setting and by the digests of what they learned from (see `contents`).
    """
    if not found:
        return {"runs": 0, "setting": "", "alike": None, "test": None, "clean": None}
    plain = {key: some for key, some in found.items() if not key[0]} or found
    valid = {key: _mean(some, SCORES["validation"]) for key, some in plain.items()}
    key = max(valid, key=valid.get)
    chosen = found[key]
    alike = _mean(chosen, SCORES[claim.alike]) if claim.alike else None
    if claim.epoch:
        rows = [run.metrics().set_index("epoch")["valid_accuracy"] for run in chosen]
        reached = [float(column[claim.epoch]) for column in rows if claim.epoch in column.index]
        alike = sum(reached) / len(reached) if reached else None
    clean = [run for run in chosen if run.results["test"].get("clean")]
    return {
        "runs": len(chosen),
        "setting": key[0],
        "alike": alike,
        "test": _mean(chosen, SCORES["test"]),
        "clean": _mean(clean, lambda results: results["test"]["clean"]["accuracy"]),
    }


def _mean(runs: Sequence[Run], score: Callable[[dict[str, Any]], float]) -> float | None:
    return sum(score(run.results) for run in runs) / len(runs) if runs else None


def known_refinement(preset: str) -> dict[str, Any] | None:
    """Read what notebook 02 found by a preset on the FER2013 of this machine; None for nothing."""
    folder = home() / "data" / "fer2013"
    path, manifest = folder / "refinement.json", folder / "manifest.json"
    if not (path.exists() and manifest.exists()):
        return None
    found = read_json(path)
    same = found["fingerprint"] == read_json(manifest).get("fingerprint")
    return found if same and found.get("student", {}).get("preset") == preset else None


def _changed(refinement: dict[str, Any] | None) -> str:
    """Say how many training labels the published rule changes here, by the voters that took part.

    Labels of validation and test are never changed, but notebook 02 can count how many would be.
    """
    if refinement is None or refinement["dataset"] != "fer2013" or refinement["mark"]:
        return NOT_RUN
    counts = dict(refinement["changed"]["majority"])
    train, voters = counts.pop("train"), len(refinement["voters"])
    told = f"{train['changed']:,} of {train['images']:,} training labels, by {voters} voters"
    if not counts:
        return told
    would, images = (sum(one[key] for one in counts.values()) for key in ("changed", "images"))
    return f"{told}; it would change {would:,} of the {images:,} others"
