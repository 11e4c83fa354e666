"""The whole comparison: its letters, its figures, and what the command line prints."""

import json

import pytest

from fer_lib.compare import comparison, figures
from fer_lib.compare.__main__ import main
from fer_lib.compare.formatting import tables
from fer_lib.files import write_json


def test_the_command_line_prints_scores_and_the_results_of_the_tests(
    three_runs, noise, monkeypatch, capsys
):
    monkeypatch.setattr("fer_lib.compare.__main__.load_faces", lambda *_, **__: noise)
    main([str(run.folder) for run in three_runs])
    text = capsys.readouterr().out
    assert "| attention_cnn ours s0 | 0." in text
    assert "attention_cnn ours s0 is better than baseline_cnn ours s0" in text
    assert text.endswith("sample data\n")
    (three_runs[0].folder / "results.json").unlink()
    with pytest.raises(SystemExit):
        main([str(three_runs[0].folder)])
    assert "is unfinished: train it to its end first" in capsys.readouterr().err


def test_with_many_runs_the_command_line_shows_only_tests_of_the_best_on_validation(
    make_run, noise, monkeypatch, capsys
):
    monkeypatch.setattr("fer_lib.compare.__main__.load_faces", lambda *_, **__: noise)
    runs = [
        make_run(slice(0, 50 - number), valid=0.7 - 0.01 * number, time=str(number), seed=number)
        for number in range(7)
    ]
    main([str(run.folder) for run in runs])
    text = capsys.readouterr().out
    said = [line for line in text.splitlines() if "finding." in line]
    assert len(said) == 6
    assert all("baseline_cnn ours s0" in line for line in said)  # the worst on test images
    assert "Among the others, 0 of 15 differences are findings" in text


def test_the_figure_of_times_shows_one_machine_only(make_run, noise):
    runs = [make_run(time=t, seed=int(t), epochs=int(t) + 1) for t in "1234"]  # the last is untimed
    for run, processor in zip(runs[:3], ("slow", "fast", "slow"), strict=True):
        write_json(
            run.folder / "inference.json",
            {"device": "cpu", "processor": processor, "threads": 1,
             "milliseconds": {"ms an image, batch of 1": 3.0}},
        )  # fmt: skip
    drawn = figures(comparison(runs, noise))
    (axis,), (legend,) = drawn["cost_time"].axes, drawn["cost_time"].legends
    assert axis.get_xlabel().endswith("slow (cpu, 1 thread)")
    assert sorted(text.get_text().split("  ")[1] for text in legend.get_texts()) == [
        "baseline_cnn ours epochs=2",
        "baseline_cnn ours epochs=4",
        "baseline_cnn ours epochs=5",  # not timed: has the times of the newest run of its network
    ]


def test_runs_that_all_learned_from_refined_labels_have_no_figure_of_costs(make_run, noise):
    runs = [make_run(time=t, labels=f"refined_{rule}") for t, rule in (("1", "a"), ("2", "b"))]
    write_json(
        runs[0].folder / "inference.json",
        {"device": "cpu", "processor": "one", "threads": 1,
         "milliseconds": {"ms an image, batch of 1": 3.0}},
    )  # fmt: skip
    assert not [name for name in figures(comparison(runs, noise)) if name.startswith("cost_")]


def test_of_runs_equal_on_validation_the_oldest_counts_as_the_best_not_the_best_on_test(
    make_run, noise, monkeypatch, capsys
):
    monkeypatch.setattr("fer_lib.compare.__main__.load_faces", lambda *_, **__: noise)
    runs = [
        make_run(slice(0, 100 - 10 * n), valid=0.5, time=str(n), epochs=n + 2) for n in range(7)
    ]
    compared = comparison(runs[::-1], noise)
    lead = compared["lead"]
    assert (lead["first"], lead["second"]) == (
        "baseline_cnn ours s0 epochs=2",
        "baseline_cnn ours s0 epochs=3",
    )
    main([str(run.folder) for run in runs])
    printed = [line for line in capsys.readouterr().out.splitlines() if "finding." in line]
    for said in (compared["sentences"][:-1], printed):
        assert len(said) == 6
        assert all("baseline_cnn ours s0 epochs=2 " in line for line in said)


def test_only_one_seed_of_a_system_is_tested_and_has_a_letter(three_runs, noise):
    compared = comparison(three_runs, noise)
    assert len(compared["tests"]) == 1  # two of the three runs are seeds of one system
    (test,) = compared["tests"]
    assert test["p"] == test["p_holm"]
    assert tables(compared)["comparison"]["group"].tolist() == ["a", "b", ""]


def test_figures_of_many_runs_show_one_run_of_each_system(make_run, noise):
    runs = [make_run(time=str(10 + n), seed=n % 7, epochs=5 + n // 7) for n in range(14)]
    compared = comparison(runs[:12], noise)
    drawn = figures(compared)
    rows = lambda made, name: len(made[name].axes[0].get_yticklabels())
    names = ("accuracies", "recalls", "agreement", "copies")
    assert [rows(drawn, name) for name in names] == [12] * 4
    drawn = figures(comparison(runs, noise))
    assert [rows(drawn, name) for name in names] == [2] * 4


def test_figures_need_only_the_content_of_comparison_json(three_runs, noise):
    compared = json.loads(json.dumps(comparison(three_runs, noise)))
    drawn = figures(compared)
    assert set(drawn) == {
        *("accuracies", "recalls", "agreement", "copies", "claims"),
        *("cost_parameters", "cost_macs", "ensemble"),
    }
    for name, figure in drawn.items():
        assert figure.get_supxlabel() == "sample data", name
        assert figure._repr_png_(), name
    shown = drawn["agreement"].axes[0]
    assert [label.get_text() for label in shown.get_yticklabels()] == [
        f"{name}  {number}" for number, name in enumerate(compared["agreement"]["names"], 1)
    ]
    kappa = [text.get_text() for text in shown.texts]
    assert f"{compared['agreement']['kappa'][0][1]:.2f}"[1:] in kappa  # .77
    right = {row["name"]: row["valid_accuracy"] for row in compared["runs"]}
    lead = compared["lead"]
    first, second = sorted(right, key=right.get, reverse=True)[:2]
    assert (lead["first"], lead["second"]) == (first, second)
    assert lead["difference"] == pytest.approx(right[first] - right[second])
