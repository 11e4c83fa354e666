"""Tabulate the scores of runs: leaderboard, means over seeds, sets of test images, classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.compare.answers import Answers, require_runs
from fer_lib.compare.names import named, settings, system_names
from fer_lib.evaluate import labels_by_part, resamples
from fer_lib.files import InputError
from fer_lib.runs import Run


def best_on_validation(runs: Sequence[Run], name: str | None = None) -> Run:
    """Return the run with the best validation accuracy, or the one that is named.

    Args:
        runs: to choose from.
        name: folder of a run, as its name or a path that ends in it; None for the best one.

    Raises:
        InputError: there are no runs, or none of that name.
    """
    require_runs(runs)
    if name is None:
        return max(runs, key=lambda run: run.results["valid"]["full"]["accuracy"])
    for run in runs:
        if run.name == Path(name).name:
            return run
    raise InputError(f"no run {name!r} here: use one of {', '.join(run.name for run in runs)}")


def leaderboard(runs: Sequence[Run] | Mapping[str, Run]) -> pd.DataFrame:
    """Return the scores of runs, the best test accuracy first.

    Args:
        runs: a sequence, whose runs are named by `short_names`, or a dict of runs by other names.

    Returns:
        One row per run, indexed by `name`. Scores are shares in 0..1, NaN if a run has none.
        Columns:

        * `run` (folder name), `model`, `recipe`, `setting` (what differs from the recipe, "" for
          nothing), `system` (see `system_names`: the same for runs that differ only in the seed),
          `seed`, `parameters`, `epochs`, `train_images`, `valid_accuracy`.
        * On all test images: `accuracy` with its 95 % interval `low`, `high`; `one_view` (accuracy
          without the mirror image, also if the run's predictions are means with it); `macro_f1`,
          `balanced_accuracy`.
        * `clean_accuracy`, `clean_low`, `clean_high`: on the clean test images.
        * `ferplus_majority`: accuracy against the majority of the FERPlus annotators.
        * `headline`: bool, see `headlines`.

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


def averaging(run: Run) -> pd.DataFrame:
    """Compare the moving average of a run's weights with the weights themselves, on test images.

    Each is scored at its own best epoch on validation.

    Returns:
        Rows "average" and "weights", or the one that the run has. Columns: `best_epoch`,
        `valid_accuracy`, `accuracy` with its 95 % interval `low`, `high`, and the recall of each
        class by its name.
    """
    results = run.results
    found = {"average" if run.train_config.ema_decay else "weights": results}
    if "unaveraged" in results:  # not in runs of earlier versions
        found["weights"] = results["unaveraged"]
    rows = {
        name: {
            "best_epoch": one["best_epoch"],
            "valid_accuracy": one["valid"]["full"]["accuracy"],
            **_accuracy(one["test"]["full"]),
            **{label: row["recall"] for label, row in one["test"]["full"]["per_class"].items()},
        }
        for name, one in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_validation(table: pd.DataFrame) -> pd.DataFrame:
    """Sort runs by validation accuracy, the best first; of equals, the oldest run comes first.

    So no test score decides which run is best on validation.

    Args:
        table: with the columns `run` and `valid_accuracy` of `leaderboard`.
    """
    return table.sort_values(["valid_accuracy", "run"], ascending=[False, True])


def headlines(table: pd.DataFrame) -> list[str]:
    """Return the name of one run per system: of its seeds the one that is best on validation.

    The lowest seed wins a tie, and only the `newest` runs count. So no test score influences which
    runs are tested against each other.

    Args:
        table: with the columns `run`, `system`, `seed` and `valid_accuracy` of `leaderboard`.
    """
    ranked = newest(table).sort_values(["valid_accuracy", "seed"], ascending=[False, True])
    return list(ranked.drop_duplicates("system").index)


def newest(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the newest run of each seed: a repeated seed says nothing about other seeds.

    Args:
        table: with the columns `run`, `system` and `seed` of `leaderboard`; its order stays.
    """
    kept = table.sort_values("run").drop_duplicates(["system", "seed"], keep="last")
    return table[table.index.isin(kept.index)]


def _accuracy(part: dict[str, Any] | None) -> dict[str, float]:
    """Return the accuracy of one part of the results and its interval; NaN if there is none."""
    low, high = part["interval"]["accuracy"] if part else (np.nan, np.nan)
    return {"accuracy": part["accuracy"] if part else np.nan, "low": low, "high": high}


def systems(table: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Gather the runs that differ only in the seed, and return the scores of each such system.

    Only the `newest` runs count.

    Args:
        table: as `leaderboard` returns it.
        answers: of the same runs.

    Returns:
        One row per system, the best mean first, indexed by `system`. Columns:

        * `model`, `recipe`, `runs` (their number), `seeds` (such as "0, 1"), `parameters`.
        * Of the test accuracies: `mean`, `sd` (sample standard deviation, NaN for one run),
          `worst`, `best`.
        * `low`, `high`: 95 % interval of the mean by a bootstrap over the test images, which draws
          the same images for all runs. It leaves out what other seeds would change, which is what
          `sd` shows.
        * Means of `valid_accuracy`, `clean_accuracy`, `macro_f1`, `balanced_accuracy` and
          `ferplus_majority`.
    """
    weights = resamples(len(answers.labels("test")))
    right = pd.DataFrame(answers.correct.T, columns=answers.names)
    rows = {}
    for system, group in newest(table).groupby("system", sort=False):
        drawn = weights @ right[group.index].mean(axis=1).to_numpy() / weights.shape[1]
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
"""Parts of a run's results on the test images, with the names that figures and tables show."""


def by_test_set(runs: dict[str, Run]) -> pd.DataFrame:
    """Return the accuracy of named runs on each set of test images, as `plots.intervals` takes it.

    Returns:
        One row per run and set: `model` (the name of the run), `set` (a value of `TEST_SETS`),
        `value` (accuracy in 0..1) and its 95 % interval `low`, `high`. A set that the results of a
        run lack has no row.
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
    """Return each run's accuracy by the label on the test images that have a FERPlus majority.

    This is the score to compare `ferplus_majority` of `leaderboard` with: both leave out the images
    on which people disagree, which are the hard ones.

    Returns:
        A share in 0..1 for each name; NaN without votes.
    """
    labels = labels_by_part(answers.faces).get("ferplus_majority")
    kept = np.zeros(answers.test.shape[1], bool) if labels is None else labels >= 0
    scores = answers.correct[:, kept].mean(axis=1) if kept.any() else np.nan
    return pd.Series(scores, index=answers.names)


def recalls(runs: dict[str, Run]) -> dict[str, dict[str, float]]:
    """Return the recall of each named run on each class of the test images.

    Returns:
        Name -> class -> share in 0..1; a class without a test image is left out.
    """
    return {
        name: {
            emotion: score["recall"]
            for emotion, score in run.results["test"]["full"]["per_class"].items()
            if score["support"]
        }
        for name, run in runs.items()
    }
