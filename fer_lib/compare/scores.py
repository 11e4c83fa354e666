"""Scores of runs: the leaderboard, several seeds of one system, sets of test images, classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.compare.answers import Answers, require_runs
from fer_lib.compare.names import named, settings, system_names
from fer_lib.evaluate import DRAWS, labels_by_part
from fer_lib.files import InputError
from fer_lib.runs import Run


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


def leaderboard(runs: Sequence[Run] | Mapping[str, Run]) -> pd.DataFrame:
    """One row a run, best test accuracy first, indexed by `short_names` or the names given.

    Columns: `run` (folder name), `model`, `recipe`, `setting` (what differs from the recipe, ""
    for nothing), `system` (`system_names`: the same for runs that differ in the seed alone),
    `seed`, `parameters`, `epochs`, `train_images`, `valid_accuracy`, then of the test images
    `accuracy`, `low`, `high` (95 % interval), `one_view` (accuracy without the mirror image, also
    where the answers are means with it), the first three of the `clean_` ones, `macro_f1`,
    `balanced_accuracy`, `ferplus_majority` (accuracy), and `headline` (bool, see `headlines`).
    Scores are shares in 0..1, NaN where a run has none.

    Raises:
        InputError: there are no runs.
    """
    require_runs(runs)
    rows, called = [], named(runs)
    runs = list(called.values())
    for run, system, setting in zip(runs, system_names(runs), settings(runs), strict=True):
        results = run.results
        test = results["test"]
        alone = np.nan if run.train_config.flip_tta else test["full"]["accuracy"]
        rows.append(
            {
                "run": run.name,
                **{key: results[key] for key in ("model", "recipe")},
                "setting": " ".join(setting),
                "system": system,
                **{key: results[key] for key in ("seed", "parameters", "epochs", "train_images")},
                "valid_accuracy": results["valid"]["full"]["accuracy"],
                **_accuracy(test["full"]),
                "one_view": results.get("one_view", {"test": alone})["test"],
                **{f"clean_{key}": value for key, value in _accuracy(test.get("clean")).items()},
                **{key: test["full"][key] for key in ("macro_f1", "balanced_accuracy")},
                "ferplus_majority": _accuracy(test.get("ferplus_majority"))["accuracy"],
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(called, name="name"))
    table["headline"] = table.index.isin(headlines(table))
    return table.sort_values("accuracy", ascending=False, kind="stable")


def headlines(table: pd.DataFrame) -> list[str]:
    """Names of one run a system: of its seeds the one that is best on validation.

    Of equals that of the lowest seed, and of several runs of a seed the newest. So no test score
    has a say in which runs are tested against each other.
    """
    newest = table.sort_values("run").drop_duplicates(["system", "seed"], keep="last")
    ranked = newest.sort_values(["valid_accuracy", "seed"], ascending=[False, True], kind="stable")
    return list(ranked.drop_duplicates("system").index)


def _accuracy(part: dict[str, Any] | None) -> dict[str, float]:
    """Accuracy and its interval of one part of the results; NaN where there is none."""
    low, high = part["interval"]["accuracy"] if part else (np.nan, np.nan)
    return {"accuracy": part["accuracy"] if part else np.nan, "low": low, "high": high}


def systems(table: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """One row a system, which is the runs that differ in the seed alone, best mean first.

    Of several runs of one seed the newest counts: repeated, a seed says nothing about others.

    Columns: `model`, `recipe`, `runs` (their number), `seeds` (as text), `parameters`, of the test
    accuracies `mean`, `sd` (of a sample, NaN for one run), `worst`, `best`, and `low`, `high`: the
    95 % interval of the mean by a bootstrap over the test images, in which all runs meet the same
    images; it does not hold what another seed would change, which is what `sd` shows. Then the
    means of `valid_accuracy`, `clean_accuracy`, `macro_f1`, `balanced_accuracy`,
    `ferplus_majority`.

    Args:
        table: of `leaderboard`.
        answers: of the same runs.
    """
    counts = len(answers.labels("test"))
    weights = np.random.default_rng(0).multinomial(counts, np.full(counts, 1 / counts), DRAWS)
    right = pd.DataFrame(answers.correct.T, columns=answers.names)
    rows = {}
    for system, runs in table.groupby("system", sort=False):
        newest = runs.sort_values("run").drop_duplicates("seed", keep="last")
        group = runs.loc[runs.index.isin(newest.index)]
        drawn = weights @ right[group.index].mean(axis=1).to_numpy() / counts
        low, high = np.quantile(drawn, [0.025, 0.975])
        scores = group["accuracy"]
        rows[system] = {
            **group[["model", "recipe"]].iloc[0],
            "runs": len(group),
            "seeds": ", ".join(map(str, sorted(group["seed"]))),
            "parameters": int(group["parameters"].iloc[0]),
            **{"mean": scores.mean(), "sd": scores.std(), "low": low, "high": high},
            **{"worst": scores.min(), "best": scores.max()},
            **group[list(MEANS)].mean(),
        }
    made = pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")
    return made.sort_values("mean", ascending=False, kind="stable")


MEANS = ("valid_accuracy", "clean_accuracy", "macro_f1", "balanced_accuracy", "ferplus_majority")

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


def label_on_majority(answers: Answers) -> pd.Series:
    """Accuracy by the label, in 0..1, on those test images that have a FERPlus majority.

    That is what `ferplus_majority` of `leaderboard` is to be compared with: the images on which
    people are divided are left out of both, and they are the hard ones. NaN without votes.
    """
    labels = labels_by_part(answers.faces).get("ferplus_majority")
    kept = np.zeros(answers.test.shape[1], bool) if labels is None else labels >= 0
    scores = answers.correct[:, kept].mean(axis=1) if kept.any() else np.nan
    return pd.Series(scores, index=answers.names)


def recalls(runs: dict[str, Run]) -> dict[str, dict[str, float]]:
    """Share of each class's test images that each named run finds: name -> class -> 0..1.

    A class without a test image is left out.
    """
    return {
        name: {
            emotion: score["recall"]
            for emotion, score in run.results["test"]["full"]["per_class"].items()
            if score["support"]
        }
        for name, run in runs.items()
    }
