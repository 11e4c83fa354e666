"""Finished runs side by side: leaderboard, paired tests, and what the tests allow one to say.

    python -m fer_lib.compare runs/20260101-000000_baseline_cnn_fer2013_s0

keeps the results of a run in `report/results/` and makes the README's table from all of them.
"""

import argparse
import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import holm, load_predictions, mcnemar
from fer_lib.files import InputError, read_json, replacing, write_json
from fer_lib.runs import Run

LEVEL = 0.05
"""Largest corrected p value of a difference that counts as a finding."""

TESTS = ("a", "b", "difference", "only_a", "only_b", "p", "p_holm", "finding")


def best_on_validation(runs: Sequence[Run], name: str | None = None) -> Run:
    """The run of that folder name, or without one the run with the best validation accuracy.

    Raises:
        InputError: there are no runs, or none of that name.
    """
    if not runs:
        raise InputError(
            "there is no finished run of these data and this preset: train one first, with "
            "notebook 03_cnn or python -m fer_lib.train"
        )
    if name is None:
        return max(runs, key=lambda run: run.results["valid"]["full"]["accuracy"])
    for run in runs:
        if run.name == name:
            return run
    raise InputError(f"no run {name!r} here: use one of {', '.join(run.name for run in runs)}")


def short_names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: model, recipe and seed; with the time where that is not enough."""
    configs = [run.train_config for run in runs]
    short = [f"{config.model} {config.recipe} s{config.seed}" for config in configs]
    return [
        name if short.count(name) == 1 else f"{name} {run.name.split('_')[0]}"
        for name, run in zip(short, runs, strict=True)
    ]


def leaderboard(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, best test accuracy first, indexed by `short_names`.

    Columns: `run` (folder name), `model`, `recipe`, `seed`, `parameters`, `epochs`,
    `train_images`, `valid_accuracy`, then of the test images `accuracy`, `low`, `high` (95 %
    interval), the same three of the `clean_` ones, `macro_f1`, `balanced_accuracy`, and
    `ferplus_majority` (accuracy).
    Scores are shares in 0..1, NaN where a run has none.

    Raises:
        InputError: there are no runs.
    """
    best_on_validation(runs)  # says what to do where there are none
    rows = []
    for run in runs:
        results = run.results
        test = results["test"]
        rows.append(
            {
                "run": run.name,
                **{key: results[key] for key in ("model", "recipe", "seed", "parameters")},
                **{key: results[key] for key in ("epochs", "train_images")},
                "valid_accuracy": results["valid"]["full"]["accuracy"],
                **_accuracy(test["full"]),
                **{f"clean_{key}": value for key, value in _accuracy(test.get("clean")).items()},
                **{key: test["full"][key] for key in ("macro_f1", "balanced_accuracy")},
                "ferplus_majority": _accuracy(test.get("ferplus_majority"))["accuracy"],
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(short_names(runs), name="name"))
    return table.sort_values("accuracy", ascending=False, kind="stable")


def _accuracy(part: dict[str, Any] | None) -> dict[str, float]:
    """Accuracy and its interval of one part of the results; NaN where there is none."""
    low, high = part["interval"]["accuracy"] if part else (np.nan, np.nan)
    return {"accuracy": part["accuracy"] if part else np.nan, "low": low, "high": high}


def correct(run: Run, faces: FaceSet) -> np.ndarray:
    """Whether the run is right on each image of `faces.where("test")`, (N,) bool.

    Raises:
        InputError: the run was trained on other data.
    """
    if run.fingerprint != faces.fingerprint:
        raise InputError(f"{run.folder} was trained on other data than these of {faces.name}")
    predictions = load_predictions(run.folder / "predictions.npz")
    answers = pd.Series(predictions.test_probabilities.argmax(1), index=predictions.test_ids)
    rows = faces.where("test")
    return answers.loc[faces.ids[rows]].to_numpy() == faces.labels[rows]


def paired_tests(runs: Sequence[Run], faces: FaceSet) -> pd.DataFrame:
    """Compare each two runs on the same test images, the better one of a pair as `a`.

    Columns: `a`, `b` (`short_names`), `difference` (of accuracies, 0 or more), `only_a`, `only_b`
    (images that only this one has right), `p` (McNemar, exact), `p_holm` (corrected for the number
    of pairs), `finding` (bool: `p_holm` below `LEVEL`). No rows for fewer than two runs.

    Raises:
        InputError: a run was trained on other data.
    """
    answers = dict(zip(short_names(runs), (correct(run, faces) for run in runs), strict=True))
    rows = []
    for pair in combinations(answers, 2):
        a, b = sorted(pair, key=lambda name: -answers[name].mean())
        only_a, only_b = answers[a] & ~answers[b], answers[b] & ~answers[a]
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": float(answers[a].mean() - answers[b].mean()),
                "only_a": int(only_a.sum()),
                "only_b": int(only_b.sum()),
                "p": mcnemar(answers[a], answers[b]),
            }
        )
    table = pd.DataFrame(rows, columns=TESTS[:-2])
    table["p_holm"] = holm(table["p"])
    table["finding"] = table["p_holm"] < LEVEL
    return table


def sentences(tests: pd.DataFrame) -> list[str]:
    """What each paired test allows one to say."""
    if tests.empty:
        return ["There is one run only, so nothing to compare it with."]
    said = []
    for row in tests.itertuples():
        p = f"p = {row.p_holm:.3f}" if row.p_holm >= 0.001 else "p below 0.001"
        numbers = f"{100 * row.difference:.1f} points, {p} after correction"
        if row.finding:
            said.append(f"{row.a} is better than {row.b} ({numbers}): a finding.")
        else:
            said.append(f"{row.a} and {row.b} cannot be told apart ({numbers}): no finding.")
    return said


def write_comparison(folder: Path, table: pd.DataFrame, tests: pd.DataFrame, mark: str) -> None:
    """Write `comparison.csv`, `.md` and `.json`, each all or nothing, each with the data's mark."""
    with replacing(folder / "comparison.csv") as temporary:
        table.assign(mark=mark).to_csv(temporary)
    note = [f"**{mark[:1].upper()}{mark[1:]}**"] if mark else []
    text = ["# Comparison", *note, _markdown(table.drop(columns="run"))]
    text += ["## Paired tests", _markdown(tests.set_index("a")) if len(tests) else "", *note]
    text += ["\n".join(f"- {sentence}" for sentence in sentences(tests))]
    with replacing(folder / "comparison.md") as temporary:
        temporary.write_text("\n\n".join(filter(None, text)) + "\n", encoding="utf-8")
    parts = {"runs": table.reset_index(), "tests": tests}
    plain = {
        name: json.loads(part.to_json(orient="records", double_precision=15))
        for name, part in parts.items()
    }
    write_json(folder / "comparison.json", {"mark": mark, **plain, "sentences": sentences(tests)})


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table with its index; floats with four digits, an empty cell for none."""
    cells = [[table.index.name or "", *table.columns], ["---"] * (1 + table.shape[1])]
    cells += [[index, *row] for index, *row in table.itertuples()]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in cells)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def keep(run: Run, folder: Path) -> None:
    """Write configuration and results of a finished run into one file of `folder`."""
    write_json(folder / f"{run.name}.json", {"config": run.config, "results": run.results})


def results_table(folder: Path) -> str:
    """Markdown table of the kept results, best test accuracy first."""
    rows = []
    for kept in map(read_json, sorted(folder.glob("*.json"))):
        results, environment = kept["results"], kept["config"]["environment"]
        test = results["test"]
        low, high = test["full"]["interval"]["accuracy"]
        rows.append(
            {
                "model": results["model"],
                "recipe": f"{results['recipe']}, {results['preset']}, seed {results['seed']}",
                "data": " ".join(filter(None, (results["dataset"], results["mark"]))),
                "test accuracy (95 %)": f"{test['full']['accuracy']:.1%} ({low:.1%} to {high:.1%})",
                "clean test": f"{test['clean']['accuracy']:.1%}",
                "macro-F1": f"{test['full']['macro_f1']:.3f}",
                "validation": f"{results['valid']['full']['accuracy']:.1%}",
                "training": f"{results['epochs']} epochs, {results['train_seconds'] / 60:.0f} min",
                "on": f"{environment['processor']}, torch {environment['torch']}",
                "commit": (environment["commit"] or "")[:8],
                "accuracy": test["full"]["accuracy"],
            }
        )
    table = pd.DataFrame(rows).sort_values("accuracy", ascending=False).drop(columns="accuracy")
    return _markdown(table.set_index("model"))


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the README's table; run from the root of the repository."""
    parser = argparse.ArgumentParser(prog="python -m fer_lib.compare")
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs to keep")
    folder, readme = Path("report/results"), Path("README.md")
    try:
        for path in parser.parse_args(arguments).runs:
            keep(Run(path), folder)
        table = f"<!-- results -->\n{results_table(folder)}\n<!-- /results -->"
    except InputError as error:
        parser.error(str(error))
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"<!-- results -->.*<!-- /results -->", table, text, flags=re.DOTALL)
    with replacing(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
