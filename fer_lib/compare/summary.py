"""All of a comparison in one dictionary, as `comparison.json` keeps it, and the figures from it.

Format of `comparison.json`. Scores are shares in 0..1, missing ones null; `name` is that of
`short_names`, and runs and systems are ordered by accuracy, the best first.

* `mark`: caveat for every table and figure, "" for none; `dataset`, `preset`, `fingerprint` (of
  the faces), `classes`, `images` (numbers of `valid`, `test` and `clean` test images).
* `runs`: a dict a run: `name`, the columns of `scores.leaderboard`, `label_on_majority`, and
  `letters`: no finding sets apart runs that share one (`paired.letters`); null for a run that is
  not tested.
* `systems`: a dict for all seeds of one system: `system` and the columns of `scores.systems`.
* `tests`: a dict a pair, columns of `paired.paired_tests`, of the `headline` runs alone, one a
  system: more seeds would add pairs that no question asks about, and cost power in the correction;
  `sentences`: what the tests allow to say.
* `lead`: of the two runs that are best on validation `first` and `second`, and what
  `paired.pair_test` measures of them on the *validation* images; null for a single run.
* `test_sets`: a dict for each run and set of images, columns of `scores.by_test_set`.
* `recall`: name -> class -> share found (`scores.recalls`).
* `agreement`: `names`, `kappa` and `equal`: square lists in that order (`paired.agreement`).
* `ensemble`: that of `voting.ensemble`; null for a single run.
* `inflation`: a dict a run: `name` and the columns of `copies.inflation`.
* `costs`: a dict a run: `name` and the columns of `cost.costs`.
* `claims`: a dict a claim: the columns of `claims.claims_table`; `published_runs` or `ours_runs` is
  0 where it is not run yet.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib import plots
from fer_lib.compare.answers import Answers, read_answers
from fer_lib.compare.claims import claims_table
from fer_lib.compare.copies import inflation
from fer_lib.compare.cost import BATCHES, costs
from fer_lib.compare.names import marks, named
from fer_lib.compare.paired import agreement, letters, pair_test, pair_up, sentences
from fer_lib.compare.scores import (
    by_test_set,
    label_on_majority,
    leaderboard,
    recalls,
    systems,
)
from fer_lib.compare.voting import ensemble
from fer_lib.data.faceset import FaceSet
from fer_lib.runs import Run


def comparison(
    runs: Sequence[Run],
    faces: FaceSet,
    *,
    every: Sequence[Run] = (),
    refinement: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare finished runs on the same faces; needs their predictions and no weights.

    Args:
        runs: of these faces and of one preset.
        every: runs of any data, among which the claims look for theirs; `runs` where none is given.
        refinement: see `claims_table`.

    Returns:
        What `comparison.json` holds; its format stands at the top of this module.

    Raises:
        InputError: there are no runs, one was trained on other data, or its predictions are
            missing or of other images.
    """
    called = named(runs)
    table = leaderboard(called)
    ranked = {name: called[name] for name in table.index}
    runs = list(ranked.values())
    answers = read_answers(ranked, faces)
    tested = list(table.index[table["headline"]])
    tests = pair_up(answers.of(tested))
    kappa, equal = agreement(answers)
    test = runs[0].results["test"]
    return {
        "mark": marks(runs, faces),
        "dataset": faces.name,
        "preset": runs[0].train_config.preset,
        "fingerprint": faces.fingerprint,
        "classes": list(faces.classes),
        "images": {
            "valid": len(faces.where("valid")),
            "test": test["full"]["n"],
            "clean": test["clean"]["n"] if test.get("clean") else 0,
        },
        "runs": records(
            table.assign(
                letters=pd.Series(letters(tested, tests)),
                label_on_majority=label_on_majority(answers),
            )
        ),
        "systems": records(systems(table, answers)),
        "tests": records(tests.set_index("a")),
        "sentences": sentences(tests, table.loc[tested, "valid_accuracy"].idxmax()),
        "lead": lead(table, answers),
        "test_sets": records(by_test_set(ranked).set_index("model")),
        "recall": recalls(ranked),
        "agreement": {
            "names": list(table.index),
            "kappa": kappa.to_numpy().tolist(),
            "equal": equal.to_numpy().tolist(),
        },
        "ensemble": ensemble(answers) if len(runs) > 1 else None,
        "inflation": records(inflation(answers)),
        "costs": records(costs(ranked)),
        "claims": records(claims_table(every or runs, refinement).set_index("system")),
    }


def lead(table: pd.DataFrame, answers: Answers) -> dict[str, Any] | None:
    """By what the run that is best on validation leads the next one there; None for a single run.

    Args:
        table: of `leaderboard`; `answers`: of the same runs.
    """
    if len(table) == 1:
        return None
    first, second = table["valid_accuracy"].sort_values(ascending=False, kind="stable").index[:2]
    right = answers.valid[answers.rows([first, second])].argmax(2) == answers.labels("valid")
    return {"first": first, "second": second, **pair_test(*right)}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict a row, the index among its keys; numbers as they are, NaN as None."""
    return json.loads(table.reset_index().to_json(orient="records", double_precision=15))


def cost_table(compared: dict[str, Any], column: str) -> pd.DataFrame:
    """What `plots.cost` takes, a row a system: `column` of `costs` against the mean accuracy.

    Work and time are those of all passes of a prediction, as the accuracy is that of their mean.
    Systems without such a number are left out, and the words of our own recipe in their names.
    """
    priced = {row["name"]: row for row in compared["costs"]}
    cost: dict[str, float] = {}
    for run in compared["runs"]:
        row = priced[run["name"]]
        if row[column] is not None:
            times = 1 if column == "parameters" else row["passes"]
            cost.setdefault(run["system"], times * row[column])
    rows = {
        row["system"].replace(" ours", "", 1): {
            **{key: row[key] for key in ("model", "recipe", "low", "high")},
            "accuracy": row["mean"],
            "cost": cost[row["system"]],
        }
        for row in compared["systems"]
        if row["system"] in cost
    }
    return pd.DataFrame.from_dict(rows, orient="index")


FIGURES = (
    *("accuracies", "recalls", "agreement", "copies", "claims", "cost_parameters", "cost_macs"),
    *("ensemble", "cost_time"),
)
"""Names that `figures` may give."""


def figures(compared: dict[str, Any]) -> dict[str, Figure]:
    """Every figure of a comparison by name, from what `comparison` gives or its file holds.

    They are `FIGURES`: with several runs `ensemble`; where times were measured `cost_time`, of the
    device that most runs were measured on. Of more than `MANY_RUNS` runs the first four show the
    headline run of each system.
    """
    mark, compared = compared["mark"], fewer(compared)
    frame = lambda key: pd.DataFrame(compared[key]).replace({None: np.nan})
    same = compared["agreement"]
    kappa = pd.DataFrame(same["kappa"], same["names"], same["names"])
    made = {
        "accuracies": plots.intervals(frame("test_sets"), mark=mark),
        "recalls": plots.per_class(compared["recall"], mark=mark),
        "agreement": plots.alike(kappa, mark=mark, title="agreement beyond chance (Cohen's kappa)"),
        "copies": plots.copies(frame("inflation").set_index("name"), mark=mark),
        "claims": plots.claims(frame("claims"), mark=mark),
    }
    titles = {"parameters": "parameters", "macs": "multiplications with additions for a prediction"}
    for column, title in titles.items():
        table = cost_table(compared, column)
        made[f"cost_{column}"] = plots.cost(table, mark=mark, xlabel=title)
    if compared["ensemble"]:
        made["ensemble"] = plots.subsets(compared["ensemble"]["steps"], mark=mark)
    timed, machine = same_machine(compared)
    if timed is not None:
        title = f"milliseconds for a prediction, alone, {machine}"
        made["cost_time"] = plots.cost(cost_table(timed, "ms_1"), mark=mark, xlabel=title)
    return made


MANY_RUNS = 12
"""Runs up to which figures show each of them: a page has no room for more rows."""


def fewer(compared: dict[str, Any]) -> dict[str, Any]:
    """The comparison, where it is of over `MANY_RUNS` runs without those that are no headline."""
    shown = {row["name"] for row in compared["runs"] if row["headline"]}
    if len(compared["runs"]) <= MANY_RUNS:
        return compared
    same = compared["agreement"]
    rows = [number for number, name in enumerate(same["names"]) if name in shown]
    square = lambda key: [[same[key][i][j] for j in rows] for i in rows]
    return compared | {
        "test_sets": [row for row in compared["test_sets"] if row["model"] in shown],
        "recall": {name: row for name, row in compared["recall"].items() if name in shown},
        "inflation": [row for row in compared["inflation"] if row["name"] in shown],
        "agreement": {
            "names": [same["names"][row] for row in rows],
            **{key: square(key) for key in ("kappa", "equal")},
        },
    }


def same_machine(compared: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The comparison with the times of one machine only, that of most runs, and its name."""
    timed = [row for row in compared["costs"] if row[f"ms_{BATCHES[0]}"] is not None]
    machines = [machine(row) for row in timed]
    if not machines:
        return None, ""
    most = max(dict.fromkeys(machines), key=machines.count)
    kept = [
        row if machine(row) == most else row | {f"ms_{n}": None for n in BATCHES}
        for row in compared["costs"]
    ]
    return compared | {"costs": kept}, most


def machine(row: dict[str, Any]) -> str:
    """Where the times of a row of `costs` were measured, as in "AMD EPYC (cpu, 2 threads)"."""
    if row["device"] is None:
        return ""
    threads = int(row["threads"])  # a float where other rows have none
    where = f"{row['device']}, {threads} thread{'s' * (threads > 1)}"
    return f"{row['processor']} ({where})" if row["processor"] else where
