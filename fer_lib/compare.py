"""Finished runs side by side: leaderboard, paired tests, and what the tests allow one to say.

    python -m fer_lib.compare runs/20260101-000000_baseline_cnn_fer2013_s0

keeps the results of a run in `report/results/` and makes the README's table from all of them.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import aligned, holm, load_predictions, mcnemar
from fer_lib.files import InputError, replacing, write_json
from fer_lib.kept import keep, markdown, results_table, write_table
from fer_lib.recipes import recipe
from fer_lib.runs import Run

LEVEL = 0.05
"""Largest corrected p value of a difference that counts as a finding."""

MANY = 15
"""Paired tests up to which there is a sentence for each: those of six runs."""

TESTS = ("a", "b", "difference", "only_a", "only_b", "p", "p_holm", "finding")


def require_runs(runs: Sequence[Run]) -> None:
    """Raise InputError, which says what to do, where there are no runs."""
    if not runs:
        raise InputError(
            "there is no finished run of these data and this preset: train one first, with "
            "notebook 03_cnn or python -m fer_lib.train"
        )


def best_on_validation(runs: Sequence[Run], name: str | None = None) -> Run:
    """The run of that folder name, or without one the run with the best validation accuracy.

    Raises:
        InputError: there are no runs, or none of that name.
    """
    require_runs(runs)
    if name is None:
        return max(runs, key=lambda run: run.results["valid"]["full"]["accuracy"])
    for run in runs:
        if run.name == name:
            return run
    raise InputError(f"no run {name!r} here: use one of {', '.join(run.name for run in runs)}")


def setting(config: TrainConfig) -> str:
    """What a run changed in its recipe, as in "epochs=5 width=16"; "" for the plain recipe.

    The seed does not count, nor a warm-up that is shorter because the epochs are. Values are JSON;
    `default` stands for an option that the recipe sets and the run does not.
    """
    shortened = recipe(config.model, config.recipe, config.preset, epochs=config.epochs)
    plain = recipe(config.model, config.recipe, config.preset)
    before = _flat(shortened) | {"epochs": plain.epochs, "seed": config.seed}
    after = _flat(config)
    changed = [key for key in {**after, **before} if after.get(key) != before.get(key)]
    return " ".join(f"{key}={_text(after.get(key, 'default'))}" for key in changed)


def _flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by name, those of the model and of the augmentation among them."""
    values = json.loads(json.dumps(config.to_dict()))  # lists and tuples become the same
    options, draws = values.pop("options"), values.pop("augmentation")
    if isinstance(values["pretrained"], str):  # files of runs have the same names: say which run
        start = Path(values["pretrained"])
        values["pretrained"] = (start.parent if start.stem in ("best", "encoder") else start).name
    options |= options.pop("backbone_options", None) or {}
    return values | options | {f"augmentation.{key}": value for key, value in draws.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def short_names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: model, recipe, seed and `setting`; with the time if need be.

    Of several runs with the same model, recipe and seed, what all of them changed alike is left
    out.
    """
    configs = [run.train_config for run in runs]
    stems = [f"{config.model} {config.recipe} s{config.seed}" for config in configs]
    settings = [setting(config).split() for config in configs]
    alike = {
        stem: set.intersection(*(set(s) for s, t in zip(settings, stems, strict=True) if t == stem))
        for stem in stems
        if stems.count(stem) > 1
    }
    short = [
        " ".join([stem, *(part for part in parts if part not in alike.get(stem, ()))])
        for stem, parts in zip(stems, settings, strict=True)
    ]
    return [
        name if short.count(name) == 1 else f"{name} {run.name.split('_')[0]}"
        for name, run in zip(short, runs, strict=True)
    ]


def marks(runs: Sequence[Run], faces: FaceSet) -> str:
    """All caveats of the data and of the runs, each once, joined by "; "; "" for none.

    One that not all runs have begins with "some".
    """
    each = [run.results["mark"].split("; ") for run in runs]
    every = dict.fromkeys(part for parts in [[faces.mark], *each] for part in parts if part)
    shared = lambda part: part == faces.mark or all(part in parts for parts in each)  # noqa: E731
    return "; ".join(part if shared(part) else f"some {part}" for part in every)


def leaderboard(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, best test accuracy first, indexed by `short_names`.

    Columns: `run` (folder name), `model`, `recipe`, `setting` (what differs from the recipe, ""
    for nothing: group by these three to gather seeds), `seed`, `parameters`, `epochs`,
    `train_images`, `valid_accuracy`, then of the test images `accuracy`, `low`, `high` (95 %
    interval), the same three of the `clean_` ones, `macro_f1`, `balanced_accuracy`, and
    `ferplus_majority` (accuracy).
    Scores are shares in 0..1, NaN where a run has none.

    Raises:
        InputError: there are no runs.
    """
    require_runs(runs)
    rows = []
    for run in runs:
        results = run.results
        test = results["test"]
        rows.append(
            {
                "run": run.name,
                **{key: results[key] for key in ("model", "recipe")},
                "setting": setting(run.train_config),
                **{key: results[key] for key in ("seed", "parameters", "epochs", "train_images")},
                "valid_accuracy": results["valid"]["full"]["accuracy"],
                **_accuracy(test["full"]),
                **{f"clean_{key}": value for key, value in _accuracy(test.get("clean")).items()},
                **{key: test["full"][key] for key in ("macro_f1", "balanced_accuracy")},
                "ferplus_majority": _accuracy(test.get("ferplus_majority"))["accuracy"],
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(short_names(runs), name="name"))
    return table.sort_values("accuracy", ascending=False, kind="stable")


TEST_SETS = {"full": "all test images", "clean": "clean", "ferplus_majority": "majority of votes"}
"""Parts of a run's results on the test images, as a reader knows them."""


def by_test_set(runs: dict[str, Run]) -> pd.DataFrame:
    """Accuracy of named runs on each set of test images and labels, as `plots.intervals` takes it.

    Columns: `model` (the given name), `set` (of `TEST_SETS`), `value`, `low`, `high`.
    """
    rows = [
        {"model": name, "set": title, "value": part["accuracy"]}
        | dict(zip(("low", "high"), part["interval"]["accuracy"], strict=True))
        for name, run in runs.items()
        for key, title in TEST_SETS.items()
        if (part := run.results["test"].get(key))
    ]
    return pd.DataFrame(rows)


def _accuracy(part: dict[str, Any] | None) -> dict[str, float]:
    """Accuracy and its interval of one part of the results; NaN where there is none."""
    low, high = part["interval"]["accuracy"] if part else (np.nan, np.nan)
    return {"accuracy": part["accuracy"] if part else np.nan, "low": low, "high": high}


def correct(run: Run, faces: FaceSet) -> np.ndarray:
    """Whether the run is right on each image of `faces.where("test")`, (N,) bool.

    Raises:
        InputError: the run was trained on other data, or its predictions are of other images.
    """
    if run.fingerprint != faces.fingerprint:
        raise InputError(f"{run.folder} was trained on other data than these of {faces.name}")
    predictions = load_predictions(run.folder / "predictions.npz")
    answers = aligned(faces, predictions, "test").argmax(1)
    return answers == faces.labels[faces.where("test")]


def paired_tests(
    runs: Sequence[Run], faces: FaceSet, *, against_first: bool = False
) -> pd.DataFrame:
    """Compare each two runs on the same test images, the better one of a pair as `a`.

    With `against_first` each run is compared with the first alone: fewer tests, planned ahead, are
    corrected for less.

    Columns: `a`, `b` (`short_names`), `difference` (of accuracies, 0 or more), `only_a`, `only_b`
    (images that only this one has right), `p` (McNemar, exact), `p_holm` (corrected for the number
    of pairs), `finding` (bool: `p_holm` below `LEVEL`). No rows for fewer than two runs.

    Raises:
        InputError: a run was trained on other data.
    """
    answers = dict(zip(short_names(runs), (correct(run, faces) for run in runs), strict=True))
    rows = []
    first, *others = answers
    pairs = [(first, other) for other in others] if against_first else combinations(answers, 2)
    for pair in pairs:
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
    """What each paired test allows one to say; of more than `MANY`, those of the best run."""
    if tests.empty:
        return ["There is one run only, so nothing to compare it with."]
    shown, rest = tests, tests[:0]
    if len(tests) > MANY:
        won, lost = (tests.groupby(side)["difference"].sum() for side in "ab")
        best = won.sub(lost, fill_value=0).idxmax()
        about = (tests["a"] == best) | (tests["b"] == best)
        shown, rest = tests[about], tests[~about]
    said = []
    for row in shown.itertuples():
        p = f"p = {row.p_holm:.3f}" if row.p_holm >= 0.001 else "p below 0.001"
        numbers = f"{100 * row.difference:.1f} points, {p} after correction"
        if row.finding:
            said.append(f"{row.a} is better than {row.b} ({numbers}): a finding.")
        else:
            said.append(f"{row.a} and {row.b} cannot be told apart ({numbers}): no finding.")
    if len(rest):
        said.append(
            f"Among the others, {rest['finding'].sum()} of {len(rest)} differences are findings; "
            "the table has them."
        )
    return said


def write_comparison(folder: Path, table: pd.DataFrame, tests: pd.DataFrame, mark: str) -> None:
    """Write `comparison.csv`, `.md` and `.json`, each all or nothing, each with the mark.

    Args:
        table, tests: of `leaderboard` and `paired_tests`.
        mark: of `marks`.
    """
    with replacing(folder / "comparison.csv") as temporary:
        table.assign(mark=mark).to_csv(temporary)
    note = [f"**{mark[:1].upper()}{mark[1:]}**"] if mark else []
    text = ["# Comparison", *note, markdown(table.drop(columns="run"))]
    text += ["## Paired tests", markdown(tests.set_index("a")) if len(tests) else "", *note]
    text += ["\n".join(f"- {sentence}" for sentence in sentences(tests))]
    with replacing(folder / "comparison.md") as temporary:
        temporary.write_text("\n\n".join(filter(None, text)) + "\n", encoding="utf-8")
    parts = {"runs": table.reset_index(), "tests": tests}
    plain = {
        name: json.loads(part.to_json(orient="records", double_precision=15))
        for name, part in parts.items()
    }
    write_json(folder / "comparison.json", {"mark": mark, **plain, "sentences": sentences(tests)})


def main(arguments: list[str] | None = None) -> None:
    """Keep runs and rewrite the README's table; run from the root of the repository."""
    parser = argparse.ArgumentParser(prog="python -m fer_lib.compare")
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs to keep")
    folder = Path("report/results")
    try:
        for path in parser.parse_args(arguments).runs:
            keep(Run(path), folder)
        write_table(Path("README.md"), results_table(folder))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
