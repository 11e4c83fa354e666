"""Operations against counts by hand, times of inference, and the figure of costs."""

import timeit
from functools import partial
from math import prod
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import ticks
from torch import nn

from fer_lib import plots
from fer_lib.compare import cost, timed
from fer_lib.compare.__main__ import main
from fer_lib.compare.cost import costs, macs, on_device
from fer_lib.files import write_json
from fer_lib.models import MODULES, create_model
from fer_lib.models.moe import ATTENTIONS
from fer_lib.recipes import recipe


def hand_count(width: int) -> int:
    """Return the MACs of `baseline_cnn` for a 48×48 grey image: 3×3 convolutions and the head."""
    stages = [(48 * 48, 1, width), (24 * 24, width, 2 * width), (12 * 12, 2 * width, 4 * width)]
    return sum(9 * prod(stage) for stage in stages) + 4 * width * 2 * width + 2 * width * 7


def test_macs_agree_with_a_count_by_hand(make_run):
    assert macs(create_model("baseline_cnn", width=8)) == hand_count(8)
    runs = [make_run(options={"width": w}, time=str(w)) for w in (4, 16)]
    assert costs(runs)["macs"].tolist() == [hand_count(4), hand_count(16)]
    assert costs(runs)["input"].tolist() == ["1x48x48"] * 2


def test_macs_of_attention_are_counted():
    """A block has 12 N D² for projections and MLP and 2 N² D for attention (N tokens, width D)."""
    tokens, width, depth = 1 + 36, 48, 2
    model = create_model("vit_patch", patch_size=8, embed_dim=width, depth=depth, num_heads=3)
    blocks = depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    others = 36 * 64 * width + width * width + width * 7
    assert macs(model) == blocks + others


class ClassToken(nn.Module):
    """Stand-in for an attention of `vit_moe`, without multiplications."""

    def forward(self, tokens):
        return tokens[:, 0]


def attended(n: int, others: int, d: int) -> int:
    """Return the MACs of n tokens that attend to others: queries and answers, keys and values."""
    return 2 * n * d**2 + 2 * others * d**2 + 2 * n * others * d


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_macs_are_counted_for_every_attention_of_vit_moe(attention):
    n, d, latents, rank = 1 + 36, 96, 8, 96 // 4
    low_rank = 2 * d * rank + d**2 + n * (d * rank + rank * 2 * d) + 2 * n * d
    perceiver = attended(latents, n, d) + attended(1, latents, d)
    by_hand = {"mha": attended(1, n, d), "mla": low_rank, "perceiver": perceiver}
    options = recipe("vit_moe", "ours", "sample").options | {"attention": attention}
    model = create_model("vit_moe", **options)
    whole = macs(model)
    model.head.attention = ClassToken()
    assert whole - macs(model) == by_hand[attention]


@pytest.mark.parametrize("model", MODULES)
def test_macs_do_not_depend_on_the_weights(make_run, model):
    """Zeros and random weights give the same count, also with experts or anchors."""
    run = make_run(model=model)
    torch.manual_seed(1)
    built = create_model(model, num_classes=7, **run.train_config.options)
    assert costs([run])["macs"].item() == macs(built) > 0


def test_times_are_read_from_the_run_folder_or_measured_on_demand(make_run):
    known, unknown = make_run(options={"width": 4}), make_run(time="2", options={"width": 8})
    alike = make_run(time="3", options={"width": 4, "dropout": [0.5, 0.5]})
    times = {"ms an image, batch of 1": 2.0, "ms an image, batch of 64": 0.5}
    write_json(
        known.folder / "inference.json", {"device": "cpu", "threads": 2, "milliseconds": times}
    )
    table = costs([known, unknown])
    assert table["ms_1"].tolist()[0] == 2
    assert table["ms_1"].isna().tolist() == [False, True]
    assert table["device"].isna().tolist() == [False, True]
    assert costs([known, alike])["ms_64"].tolist() == [0.5, 0.5]  # those of the same network
    main(["--time", str(unknown.folder)])
    again = costs([known, unknown]).iloc[1]
    assert again["ms_1"] > 0
    assert again["ms_64"] > 0
    assert again["threads"] == torch.get_num_threads()
    assert not (unknown.folder / "best.safetensors").exists()
    table = timed({"small": known})
    assert table.index.tolist() == ["small"]
    assert (table.astype(float).to_numpy() > 0).all()
    assert table.attrs["on"] in ("cpu, 1 thread", f"cpu, {torch.get_num_threads()} threads")
    assert f"{costs([known])['ms_1'].item():.3g}" == table["ms an image, batch of 1"].item()
    assert [on_device({"device": "cpu", "threads": n}) for n in (1.0, 2)] == [
        *("cpu, 1 thread", "cpu, 2 threads"),
    ]


def test_the_clock_stops_after_the_answer_is_copied_to_the_cpu(make_run, monkeypatch):
    seen = []

    class OnItsWay:
        def cpu(self):
            seen.append("answer")

    monkeypatch.setattr(cost, "probabilities", lambda *_: OnItsWay())
    monkeypatch.setattr(cost, "repeat", partial(timeit.repeat, timer=ticks(seen)))
    cost.measure(make_run(options={"width": 4}))
    each = 1 + cost.CALLS  # the first call is a warm-up
    assert seen == ["clock", "answer", "clock"] * each * len(cost.BATCHES)


def test_the_time_is_the_milliseconds_per_image_of_the_fastest_call(make_run, monkeypatch):
    monkeypatch.setattr(cost, "repeat", lambda *_, **__: [0.1, 5.0, 3.0, 2.0, 4.0, 6.0])
    measured = cost.measure(make_run(options={"width": 4}))["milliseconds"]
    assert list(measured.values()) == [2000, 2000 / 64]  # the first call is a warm-up


def test_a_run_has_its_own_times_or_the_newest_of_its_network(make_run):
    runs = [make_run(options={"width": 4}, time=str(time), flip_tta=time == 2) for time in range(3)]
    for run, one in zip(runs[1:], (2.0, 3.0), strict=True):
        times = {"ms an image, batch of 1": one}
        write_json(run.folder / "inference.json", {"milliseconds": times})
    table = costs(runs[::-1])
    assert table["ms_1"].tolist() == [3, 2, 3]
    assert table["passes"].tolist() == [2, 1, 1]


def test_timing_starts_from_bytes_in_memory_on_any_device(make_run, monkeypatch):
    seen = set()

    def elsewhere(network, images, prepare):
        seen.add((prepare.device.type, images.device.type, images.dtype))
        return torch.zeros(())

    monkeypatch.setattr(cost, "processes", lambda: SimpleNamespace(device=torch.device("meta")))
    monkeypatch.setattr(cost, "probabilities", elsewhere)
    cost.measure(make_run(options={"width": 4}))
    assert seen == {("meta", "cpu", torch.uint8)}


def test_points_that_would_cover_each_other_are_drawn_apart_and_numbered():
    table = pd.DataFrame(
        {"model": "vit_cnn", "recipe": ["ours", "ours", "published", "ours"],
         "cost": [1e6, 1e6, 1.05e6, 1e6], "accuracy": [0.7, 0.699, 0.698, 0.5],
         "low": 0.4, "high": 0.8},
        index=["a", "b", "c", "d"],
    )  # fmt: skip
    figure = plots.cost(table, mark="", xlabel="MACs")
    (axis,) = figure.axes
    places = [bars[0].get_xdata().item() for bars in axis.containers]
    a, b, c, d = places
    assert a == d == 1e6  # d is far below
    assert all(max(x / y, y / x) >= 1.14 for x, y in ((a, b), (a, c), (b, c)))
    assert [text.get_text() for text in axis.texts] == ["1", "2", "3", "4"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["1  a", "2  b", "3  c", "4  d"]
    faces = [bars[0].get_markerfacecolor() for bars in axis.containers]
    assert [face == "white" for face in faces] == [False, False, True, False]
