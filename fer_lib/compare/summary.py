"""Gather a whole comparison in one dictionary, as `comparison.json` keeps it, and draw its figures.

Format of `comparison.json`: scores are shares in 0..1, and missing ones are null; `name` is a name
of `short_names`; runs and systems are ordered by test accuracy, the best first.

* `mark`: caveat for every table and figure, "" for none; `dataset`, `preset`, `fingerprint` (of
  the faces), `classes`, `images` (numbers of `valid`, `test` and `clean` test images).
* `runs`: one dict per run: `name`, the columns of `scores.leaderboard`, `label_on_majority`, and
  `letters` (see `paired.letters`): no finding separates runs that share one; null for a run that
  is not tested.
* `systems`: one dict for all seeds of a system: `system` and the columns of `scores.systems`.
* `tests`: one dict per pair: the columns of `paired.paired_tests`. Only `headline` runs are tested,
  one per system: more seeds would add pairs that no question asks about, and the correction for
  them would cost power. `sentences`: what the tests allow one to say.
* `lead`: `first` and `second`, the two runs that are best on validation, and what
  `paired.pair_test` returns for them on the *validation* images; null for a single run.
* `test_sets`: one dict for each run and set of images: the columns of `scores.by_test_set`.
* `recall`: name -> class -> recall (`scores.recalls`).
* `agreement`: `names`, and `kappa` and `equal`, square lists in that order (`paired.agreement`).
* `ensemble`: what `voting.ensemble` returns; null for a single run.
* `inflation`: one dict per run: `name` and the columns of `copies.inflation`.
* `copied`: what `copies.by_kind` returns for the runs that learned from the original labels; null
  for no such run, or no copied image.
* `annotators`: what `annotators.label_agreement` returns; null without votes.
* `costs`: one dict per run: `name` and the columns of `cost.costs`.
* `claims`: one dict per claim: the columns of `claims.claims_table`; `published_runs` or
  `ours_runs` is 0 if it has not been run yet.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib import plots
from fer_lib.compare.annotators import label_agreement
from fer_lib.compare.answers import Answers, read_answers
from fer_lib.compare.claims import claims_table
from fer_lib.compare.copies import by_kind, inflation
from fer_lib.compare.cost import BATCHES, costs, on_device
from fer_lib.compare.names import marks, named
from fer_lib.compare.paired import agreement, letters, pair_test, pair_up, sentences
from fer_lib.compare.scores import (
    by_test_set,
    by_validation,
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
    """Compare finished runs on the same faces; this needs their predictions but not their weights.

    Args:
        runs: trained on these faces, all with the same preset.
        every: runs of any data, among which `claims_table` looks for reproductions; if there are
            none, it looks among `runs`.
        refinement: see `claims_table`.

    Returns:
        The content of `comparison.json`, in the format at the top of this module.

    Raises:
        InputError: there are no runs, the faces were changed after loading, a run was trained on
            other data, or its predictions are missing, damaged or for other images.
    """
    called = named(runs)
    table = leaderboard(called)
    ranked = {name: called[name] for name in table.index}
    runs = list(ranked.values())
    answers = read_answers(ranked, faces)
    tested = list(table.index[table["headline"]])
    tests = pair_up(answers.of(tested))
    return {
        "mark": marks(runs, faces),
        "dataset": faces.name,
        "preset": runs[0].train_config.preset,
        "fingerprint": faces.fingerprint,
        "classes": list(faces.classes),
        "images": images(runs[0].results, faces),
        "runs": records(
            table.assign(
                letters=pd.Series(letters(tested, tests)),
                label_on_majority=label_on_majority(answers),
            )
        ),
        "systems": records(systems(table, answers)),
        "tests": records(tests.set_index("a")),
        "sentences": sentences(tests, by_validation(table.loc[tested]).index[0]),
        "lead": lead(table, answers),
        "test_sets": records(by_test_set(ranked).set_index("model")),
        "recall": recalls(ranked),
        "agreement": alike(answers),
        "ensemble": ensemble(answers) if len(runs) > 1 else None,
        "inflation": records(inflation(answers)),
        "copied": copied(ranked, answers),
        "annotators": label_agreement(faces),
        "costs": records(costs(ranked)),
        "claims": records(claims_table(every or runs, refinement).set_index("system")),
    }


def images(results: dict[str, Any], faces: FaceSet) -> dict[str, int]:
    """Return the numbers of `valid`, `test` and `clean` test images, from any run's results."""
    test = results["test"]
    clean = test["clean"]["n"] if test.get("clean") else 0
    return {"valid": len(faces.where("valid")), "test": test["full"]["n"], "clean": clean}


def alike(answers: Answers) -> dict[str, Any]:
    """Return the `names` of runs, and what `agreement` says of them as square lists."""
    kappa, equal = (table.to_numpy().tolist() for table in agreement(answers))
    return {"names": answers.names, "kappa": kappa, "equal": equal}


def lead(table: pd.DataFrame, answers: Answers) -> dict[str, Any] | None:
    """Test the run that is best on validation against the second best, on the validation images.

    Args:
        table: as `leaderboard` returns it.
        answers: of the same runs.

    Returns:
        Their names `first` and `second`, and what `pair_test` returns; None for a single run.
    """
    if len(table) == 1:
        return None
    first, second = by_validation(table).index[:2]
    right = answers.valid[answers.rows([first, second])].argmax(2) == answers.labels("valid")
    return {"first": first, "second": second, **pair_test(*right)}


def copied(runs: dict[str, Run], answers: Answers) -> dict[str, Any] | None:
    """Return what `by_kind` does for the named runs that learned from the original labels."""
    names = [name for name, run in runs.items() if run.train_config.labels == "original"]
    found = by_kind(answers, names)
    return found and found | {"kinds": records(pd.DataFrame(found["kinds"]).set_index("kind"))}


def records(table: pd.DataFrame, orient: str = "records") -> Any:
    """Return a list of one dict per row, with the index among its keys, and None for NaN.

    With orient "index", a dict of such rows by their index.
    """
    table = table.reset_index() if orient == "records" else table
    return json.loads(table.to_json(orient=orient, double_precision=15))


def cost_table(compared: dict[str, Any], column: str) -> pd.DataFrame:
    """Return the table that `plots.cost` takes: a cost and the mean accuracy of each system.

    MACs and times are those of all passes of a prediction, since the accuracy is that of their
    mean. Systems without the number and those on refined labels, which cost what others cost, are
    left out.

    Args:
        compared: as `comparison` returns it.
        column: of `costs`, such as "parameters", "macs" or "ms_1".
    """
    priced = {row["name"]: row for row in compared["costs"]}
    cost: dict[str, float] = {}
    for run in compared["runs"]:
        row = priced[run["name"]]
        if row[column] is not None and "labels=refined_" not in run["setting"]:
            times = 1 if column == "parameters" else row["passes"]
            cost.setdefault(run["system"], times * row[column])
    rows = {
        row["system"]: {
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
"""Names of the figures that `figures` can draw."""


def figures(compared: dict[str, Any]) -> dict[str, Figure]:
    """Draw every figure of a comparison.

    Args:
        compared: as `comparison` returns it, or read from `comparison.json`.

    Returns:
        Figures by their names in `FIGURES`: `ensemble` only for several runs, those of costs only
        if `cost_table` has a row, so not if all runs learned from refined labels, and `cost_time`
        only if times were measured; it shows the machine on which most runs were measured. With
        more than `MANY_RUNS` runs, the first four show only the headline run of each system.
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
    if compared["ensemble"]:
        made["ensemble"] = plots.subsets(compared["ensemble"]["steps"], mark=mark)
    timed, machine = same_machine(compared)
    products = "multiplications with additions for a prediction"
    times = f"milliseconds for a prediction, alone, {machine}"
    for name, table, title in (
        ("cost_parameters", cost_table(compared, "parameters"), "parameters"),
        ("cost_macs", cost_table(compared, "macs"), products),
        ("cost_time", cost_table(timed, "ms_1"), times),
    ):
        if len(table):
            made[name] = plots.cost(table, mark=mark, xlabel=title)
    return made


MANY_RUNS = 12
"""Number of runs up to which figures show every run: a page has no room for more rows."""


def fewer(compared: dict[str, Any]) -> dict[str, Any]:
    """Reduce what figures show to the headline runs if there are more than `MANY_RUNS` runs."""
    shown = {row["name"] for row in compared["runs"] if row["headline"]}
    if len(compared["runs"]) <= MANY_RUNS:
        return compared
    same = compared["agreement"]
    rows = [number for number, name in enumerate(same["names"]) if name in shown]
    return compared | {
        "test_sets": [row for row in compared["test_sets"] if row["model"] in shown],
        "recall": {name: row for name, row in compared["recall"].items() if name in shown},
        "inflation": [row for row in compared["inflation"] if row["name"] in shown],
        "agreement": {
            "names": [same["names"][row] for row in rows],
            "kappa": [[same["kappa"][i][j] for j in rows] for i in rows],
        },
    }


def same_machine(compared: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Keep only the times of the machine on which most runs were measured.

    Returns:
        The comparison with these times, and the machine's name, "" without any times.
    """
    timed = [row for row in compared["costs"] if row[f"ms_{BATCHES[0]}"] is not None]
    machines = [machine(row) for row in timed]
    if not machines:
        return compared, ""
    most = max(dict.fromkeys(machines), key=machines.count)
    kept = [
        row if machine(row) == most else row | {f"ms_{n}": None for n in BATCHES}
        for row in compared["costs"]
    ]
    return compared | {"costs": kept}, most


def machine(row: dict[str, Any]) -> str:
    """Say where a row of `costs` was measured, as in "AMD EPYC (cpu, 2 threads)"; "" if nowhere."""
    if row["device"] is None:
        return ""
    return f"{row['processor']} ({on_device(row)})" if row["processor"] else on_device(row)
