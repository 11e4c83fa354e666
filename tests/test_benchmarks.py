"""Tests of the benchmarks: they run at tiny sizes, and both sides do the same work."""

import os
import platform
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import attention
import augmentation
import framing
import graph
import layers
import loop
import measure
import numpy as np
import predict
import pytest
import speedrun
import steps
import torch
from conftest import until
from forked import CONTEXT, begin_work
from usual import MeanPool2d, Singles, Usual, create_model, written_as_usual

from fer_lib.augment import Augmentation, Prepare
from fer_lib.config import TrainConfig
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError
from fer_lib.predict import Predictor


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Measure with one core, and start processes fast."""
    for module in (loop, measure):
        monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(measure, "get_context", lambda method: CONTEXT)


@pytest.fixture(scope="module")
def faces():
    return make_sample(100)


def config(**changes):
    return TrainConfig(model="baseline_cnn", limit=20, batch_size=8, clip_grad=1.0, **changes)


def cells(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]


@pytest.fixture
def started(monkeypatch):
    """A list of (side, process id, threads, `kept()`), with an item for each side that is started.

    A side adds its item when it shuts down, after its last part, so its process must still live.
    """
    asked = []

    class Asked(loop.Apart):
        def __init__(self, side, *arguments):
            super().__init__(side, *arguments)
            self.side = side.__name__

        def shutdown(self, *arguments, **named):
            answers = [self.submit(f).result() for f in (os.getpid, torch.get_num_threads, kept)]
            asked.append((self.side, *answers))
            super().shutdown(*arguments, **named)

    monkeypatch.setattr(loop, "Apart", Asked)
    return asked


def kept() -> bool:
    """Return whether this process keeps most of 64 MiB that it has freed; False without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])  # pages
    tensor = torch.ones(2**24)
    full = resident()
    del tensor
    return (full - resident()) * os.sysconf("SC_PAGE_SIZE") < 2**25


def test_loop_prints_rates_and_their_ratio(started, capsys):
    loop.main(["--images", "24", "--batch-size", "8", "--rounds", "1"])
    assert {side for side, *_ in started} == {"Ours", "Usual"}
    assert len({os.getpid(), *(pid for _, pid, *_ in started)}) == 1 + len(started)
    glibc = platform.libc_ver()[0] == "glibc"
    for side, _, threads, keeps in started:
        assert threads == 1
        assert keeps == (glibc and side == "Ours")  # only `Learner` changes glibc's settings
    text = capsys.readouterr().out
    assert "drawn faces (sample data)" in text
    assert "commit" in text
    titles = "whole loop", "whole loop, the usual one with our network", "whole loop, the reference"
    for title in (*titles, "input alone", "model alone, ours in "):
        _, ours, usual, ratio = cells(text, title)
        ours, usual = float(ours), float(usual)
        rounded = 0.05 + 0.5 / ours + 0.5 / usual  # rates are printed as whole numbers
        assert float(ratio.split()[0]) == pytest.approx(ours / usual, rel=rounded)


def test_augmentation_says_that_kornia_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(augmentation, "find_spec", lambda name: None)
    loop.main(["--augmentation", "--images", "70", "--rounds", "1"])
    text = capsys.readouterr().out
    assert "kornia is not installed" in text
    assert len(cells(text, "flip, affine, 64")) == 4


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--images", "4", "--images must be at least --batch-size"),
        ("--rounds", "0", "argument --rounds: must be 1 or more, not 0"),
        ("--images", "many", "argument --images: must be 1 or more, not many"),
    ],
)
def test_impossible_sizes_are_refused(option, value, message, capsys):
    with pytest.raises(SystemExit):
        loop.main(["--batch-size", "8", option, value])
    assert message in capsys.readouterr().err


def test_parts_run_in_turn_and_the_first_round_does_not_count(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def part(name, seconds):
        def run():
            calls.append(name)
            clock[0] += 100 if len(calls) <= 2 else seconds
            return 10

        return partial(measure.rate, run, torch.device("cpu"))

    rates = measure.in_turn({"a": part("a", 1), "b": part("b", 2)}, 2)
    assert calls == ["a", "b"] * 3
    assert rates == {"a": [10.0, 10.0], "b": [5.0, 5.0]}


def test_a_side_ends_when_its_parent_is_killed(tmp_path):
    """Otherwise it would keep using the device on which the next script measures."""
    now = tmp_path / "now"
    parent = CONTEXT.Process(target=begin_work, args=(now,))  # spawns its side: not patched
    parent.start()
    try:
        until(now.exists, seconds=240)  # the side is working
    finally:
        parent.kill()
    until(lambda: time.time() - now.stat().st_mtime > 2)


def test_drawn_repeats_faces_if_more_are_needed(monkeypatch):
    monkeypatch.setattr(measure, "DIFFERENT", 100)
    faces = measure.drawn.__wrapped__(500)
    assert (faces.split == "train").sum() == 500
    assert len(set(faces.ids)) == 100


def test_a_ratio_is_taken_within_each_round():
    assert measure.ratio([10, 40, 90], [10, 20, 30]) == "2.00 (1.00 to 3.00)"


def test_both_sides_train_on_the_same_images(faces):
    ours = loop.Ours(config(), faces)
    usual = Usual(config(), faces, 1)
    data = usual.loader.dataset
    images, targets = ours.learner.batches.images, ours.learner.batches.targets
    assert len(data) == len(images) == 20
    torch.testing.assert_close(
        torch.stack([data[row][0] for row in range(20)]), ours.learner.prepare(images)
    )
    assert [data[row][1] for row in range(20)] == targets.argmax(1).tolist()


def test_every_part_processes_the_full_batches(faces):
    sides = loop.Ours(config(), faces), Usual(config(), faces, 1)
    for side, net in zip(sides, (sides[0].learner.core, sides[1].net), strict=True):
        for part in (side.loop, side.model):
            before = net.head[1].weight.detach().clone()
            assert part() == 16  # two batches of 8; the last 4 images are left out
            assert not torch.equal(before, net.head[1].weight)
        before = net.head[1].weight.detach().clone()
        assert side.input() == 16
        assert torch.equal(before, net.head[1].weight)


def test_our_loop_counts_epochs_and_the_usual_one_uses_defaults(faces):
    ours = loop.Ours(config(), faces)
    ours.loop()
    assert ours.epoch == 1
    usual = Usual(config(), faces, 1)
    weight = usual.net.stages[1][0].weight
    assert weight.is_contiguous()
    assert not ours.learner.core.stages[1][0].weight.is_contiguous()
    assert weight.dtype == torch.float32
    assert not usual.optimizer.defaults["fused"]


@pytest.mark.parametrize("other", ["loop", "kornia_pipeline", "single_pipeline"])
def test_other_pipelines_augment_as_ours_does(faces, other):
    """With probabilities of 1 and a fixed scale, all mirror and enlarge the faces alike."""
    draw = Augmentation(flip=1, affine=1, scale=(1.25, 1.25))
    images = torch.from_numpy(faces.images[faces.where("train")[:8]])
    prepare = Prepare(augmentation.grey_48)
    ours = prepare(images, draw, torch.Generator())
    if other == "loop":
        few = faces.subset(faces.where("train")[:8])
        cfg = {"input_size": (1, 48, 48), "mean": (0.5,), "std": (0.5,)}
        data = Singles(few, config(augmentation=draw), cfg)
        theirs = torch.stack([data[row][0] for row in range(8)])
    else:
        if other == "kornia_pipeline":
            pytest.importorskip("kornia", reason="kornia is in no extra: pip install kornia")
        theirs = getattr(augmentation, other)(draw)(images)
    assert (ours - prepare(images)).abs().mean() > 0.05
    torch.testing.assert_close(theirs, ours, atol=0.05, rtol=0)


def test_torchvision_too_changes_light_and_adds_noise(faces):
    images = torch.from_numpy(faces.images[faces.where("train")[:8]])
    prepare, generator = Prepare(augmentation.grey_48), torch.Generator().manual_seed(0)
    plain = prepare(images)
    for draw in (
        Augmentation(photometric=1, brightness=0.3, contrast=0.3),
        Augmentation(photometric=1, noise=1),
    ):
        theirs = augmentation.single_pipeline(draw)(images)
        ours = prepare(images, draw, generator)
        for changed in (theirs, ours):
            assert (changed - plain).abs().mean() > 0.05
        if draw.noise:
            torch.testing.assert_close(
                (theirs - plain).std(), (ours - plain).std(), rtol=0.1, atol=0
            )


def test_attention_prints_rates_of_both_ways(capsys):
    attention.main(["--models", "vit_patch", "--batch-size", "2", "--rounds", "1"])
    assert re.search(r"\| vit_patch \| [\d,]+ \| [\d,]+ \| \d", capsys.readouterr().out)


def test_predict_prints_the_times_of_a_frame(capsys):
    predict.main(["--frames", "1", "--detector", "haar"])
    text = capsys.readouterr().out
    times = r"\| (\d+\.\d) \(\d+\.\d to \d+\.\d\) \| \d+ \|"
    parts = ("Haar cascade: detection", "classification of one face")
    parts += (r"Haar cascade: whole, 1 faces found", r"Haar cascade: mirror, threads \d+")
    milliseconds = [float(re.search(rf"^\| {part} {times}$", text, re.M)[1]) for part in parts]
    assert all(one > 0 for one in milliseconds)
    assert "1 frames of 640×480 (sample data), threads of torch 1, of OpenCV " in text


def test_framing_scores_the_faces_found_and_fails_if_there_are_none(monkeypatch):
    spot = SimpleNamespace(box=framing.Box(210, 130, 50, 60))  # in the frame around the image
    stand_in = SimpleNamespace(detector=lambda picture: [spot])
    assert framing.box_in(stand_in, np.full((240, 240), 9, np.uint8)) == (10, 10, 50, 60)
    predictor = Predictor.default(detector="haar")
    images, labels = make_sample(100).images[:2], np.array([3, 5])
    monkeypatch.setattr(framing, "box_in", lambda *_: None)
    with pytest.raises(InputError, match="no face was found in any image"):
        framing.compare(predictor, images, labels)
    boxes, seen = iter([None, framing.Box(20, 20, 200, 200)]), []
    monkeypatch.setattr(framing, "box_in", lambda *_: next(boxes))
    score = lambda _, some, known: seen.append((len(some), known.tolist())) or 0.5
    monkeypatch.setattr(framing, "accuracy", score)
    text = framing.compare(predictor, images, labels)
    assert "50.0% of 2 faces found; scale 1.20" in text
    assert len(text.splitlines()) == 3 + 2 + len(framing.SCALES)
    assert seen == [(2, [3, 5])] + [(1, [5])] * (1 + len(framing.SCALES))


def test_steps_prints_shares_floor_and_gap(monkeypatch, capsys):
    monkeypatch.setattr(steps, "matrix_rate", lambda *_: 1e12)  # measuring takes seconds
    monkeypatch.setattr(steps, "memory_rate", lambda *_: 1e11)
    steps.main(["--models", "baseline_cnn", "--steps", "2", "--batch-size", "8"])
    text = capsys.readouterr().out
    assert "drawn faces (sample data)" in text
    names = [cell.strip() for cell in next(x for x in text.splitlines() if "model" in x).split("|")]
    row = dict(zip(names[1:-1], cells(text, "baseline_cnn"), strict=True))
    shares = {part: float(row[part].rstrip("%")) for part in steps.PARTS}
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert min(shares.values()) >= 0
    assert min(shares["forward"], shares["backward"]) > 0
    floor = max(float(row["arithmetic, ms"]), float(row["memory, ms"]))
    gap = float(row["step, ms"]) / floor  # of rounded times
    rounding = 0.005 / floor + 0.005 / float(row["step, ms"])
    assert float(row["gap"]) == pytest.approx(gap, abs=0.06, rel=2 * rounding)


def test_operations_and_bytes_of_a_step_match_hand_counts(faces):
    """Operations are the multiplications and additions of three convolutions and the head.

    A layer counts three times (forward, and the gradients of weights and input), the first only
    twice, since its input has no gradient.
    """
    learner = steps.Learner(config(augmentation=Augmentation()), faces)
    images, answer = next(learner.batches.epoch(0))
    x = learner.prepare(images)
    maps = 48**2 * 64 * 9, 24**2 * 64 * 128 * 9, 12**2 * 128 * 256 * 9, 256 * 128 + 128 * 7
    assert steps.operations(learner, x, answer) == 2 * 8 * (2 * maps[0] + 3 * sum(maps[1:]))
    # Kept: the outputs of convolutions and norms; values and indices (int64) of max pooling.
    half = 2 if learner.precision == "bf16" else 4
    outputs = 64 * 48**2, 128 * 24**2, 256 * 12**2
    pooled = (outputs[0] + outputs[1]) // 4
    least = 8 * ((2 * sum(outputs) + pooled) * half + pooled * 8)
    assert least <= steps.bytes_kept(learner, x, answer) < 1.15 * least
    weights = sum(p.nbytes for p in learner.core.parameters())
    assert steps.bytes_of_weights(learner) == 10 * weights


def test_clocked_restores_the_calls_that_it_wraps(faces):
    from fer_lib import learner as module

    learner = steps.Learner(config(ema_decay=0.9), faces)
    owners = [(o, n) for calls in steps.watched(learner).values() for o, n in calls]
    before = [vars(owner).get(name) for owner, name in owners]
    assert (module, "mix") in owners
    assert len(owners) == 10
    assert set(steps.clocked(learner)) == set(steps.PARTS)
    for (owner, name), value in zip(owners, before, strict=True):
        assert vars(owner).get(name) is value


@pytest.mark.parametrize("recorded", [False, True])
def test_a_recorded_learner_trains_a_launched_epoch_before_the_clocked_one(
    faces, monkeypatch, recorded
):
    """On a CPU, where a stand-in replaces the recorded step."""
    learner, seen = steps.Learner(config(), faces), []
    learner.recorded = (lambda *_: pytest.fail("replayed")) if recorded else None
    train_epoch, around = learner.train_epoch, steps.Clock.around
    monkeypatch.setattr(learner, "train_epoch", lambda e: seen.append("epoch") or train_epoch(e))
    monkeypatch.setattr(steps.Clock, "around", lambda *a: seen.append("clock") or around(*a))
    steps.clocked(learner)
    assert seen[: seen.index("clock")] == ["epoch"] * recorded
    assert seen.count("epoch") == 1 + recorded


def test_the_usual_network_computes_the_same_as_ours():
    torch.manual_seed(0)
    ours, usual = (create_model("baseline_cnn").double().eval() for _ in range(2))
    usual.load_state_dict(ours.state_dict())
    written_as_usual(usual)
    kinds = [type(layer).__name__ for layer in usual.stages[0]]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    x = torch.randn(2, 1, 48, 48, dtype=torch.double)
    torch.testing.assert_close(usual(x), ours(x))
    attention = create_model("attention_cnn")
    written_as_usual(attention)
    names = {type(module).__name__ for module in attention.modules()}
    assert {"ChannelAttn", "SpatialAttn"} < names
    assert not {"ChannelAttention", "SpatialAttention"} & names


def test_the_speedrun_trains_its_network_and_reports_every_seed(monkeypatch, capsys):
    monkeypatch.setitem(speedrun.MODULES, "speedrun_cnn", "cnn")  # removed after the test
    settings = ["epochs=2", "warmup_epochs=0.5", "limit=128", "batch_size=32", "compile=false"]
    settings.append('options={"width": 8}')
    speedrun.main(["--dataset", "sample-10-200", "--seeds", "2", "--set", *settings])
    text = capsys.readouterr().out
    assert re.search(r"seed 1: [\d.]+ s, valid, one [\d.]+%, .* sample data", text)
    assert re.search(r"valid, ten_crop: mean 0\.\d{4}, standard deviation", text)
    assert not re.search(r"test.{,10} \d+\.\d+%", text)  # tuning must not see test accuracy


def test_the_view_of_the_speedrun_is_chosen_on_validation(monkeypatch, capsys):
    monkeypatch.setitem(speedrun.MODULES, "speedrun_cnn", "cnn")
    given = {"valid": {"one": 0.7, "mirror": 0.6}, "test": {"one": 0.64, "mirror": 0.66}}

    def accuracies(learner, faces, split):
        return {f"{split}, {view}": given[split].get(view, 0.5) for view in speedrun.VIEWS}

    monkeypatch.setattr(speedrun, "accuracies", accuracies)
    monkeypatch.setattr(speedrun, "run", lambda config, faces: (1.0, None))
    faces = SimpleNamespace(name="fer2013", mark="")
    monkeypatch.setattr(speedrun, "load_faces", lambda *_: faces)
    speedrun.main(["--seeds", "2"])
    assert capsys.readouterr().out.endswith("by one (the best on PublicTest): missed\n")


def test_the_warm_up_of_the_speedrun_does_not_change_the_result(faces, monkeypatch):
    monkeypatch.setitem(speedrun.MODULES, "speedrun_cnn", "cnn")
    changes = {"epochs": 2, "batch_size": 8, "options": {"width": 4}, "limit": 32}
    settings = speedrun.TrainConfig.from_dict(speedrun.RECIPE | changes)
    warmed = speedrun.run(settings, faces)[1]
    cold = speedrun.Learner(settings, faces)
    for epoch in range(2):
        cold.train_epoch(epoch)
    for ours, other in zip(warmed.kept.parameters(), cold.kept.parameters(), strict=True):
        torch.testing.assert_close(ours, other)


def test_the_reference_style_is_the_usual_network_in_mixed_precision(faces):
    options = faces, 1, "reference"
    reference = Usual(config(precision="bf16"), *options)
    assert reference.precision == "bf16"
    assert not reference.net.stages[1][0].weight.is_contiguous()
    logits, loss = reference.step(*reference.batch)
    assert logits.dtype == torch.bfloat16
    assert loss.isfinite()
    ours = Usual(config(), *options[:2], "our network")
    assert isinstance(ours.net.stages[2][3], MeanPool2d)
    assert isinstance(reference.net.stages[2][3], torch.nn.AdaptiveAvgPool2d)


def test_a_recording_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        graph.main([])
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_graph_measures_recorded_and_launched_steps_and_prints_their_losses(monkeypatch, capsys):
    """On a CPU, where stand-ins replace the recorded steps."""
    for name in ("Learner", "MaskedLearner"):

        class Pretends(getattr(graph, name)):
            def __init__(self, config, faces):
                super().__init__(config, faces)
                if config.cuda_graph:
                    self.recorded = lambda step, images, targets: step(images, targets)

        monkeypatch.setattr(graph, name, Pretends)
    monkeypatch.setattr(graph, "require_gpu", lambda: None)
    monkeypatch.setattr(graph, "EPOCH", 2)
    short = ["--steps", "3", "--rounds", "1", "--set", "batch_size=8"]
    with pytest.raises(SystemExit) as ended:
        graph.main(["--models", "baseline_cnn", "mae", *short])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert re.search(r"\| mae, batches of 8 \| [\d,]+ \| [\d,]+ \| \d+\.\d\d \(", text)
    recorded, launched = re.search(
        r"baseline_cnn: loss (\S+) recorded, (\S+) launched", text
    ).groups()
    assert recorded == launched


def test_our_layers_compute_the_same_as_the_usual_ones(monkeypatch, capsys):
    torch.manual_seed(0)
    pairs = {title: (*both, (4, *shape[1:])) for title, (*both, shape) in layers.pairs().items()}
    for ours, usual, shape in pairs.values():
        usual.load_state_dict(ours.state_dict())
        x = torch.randn(shape).relu_()
        torch.testing.assert_close(ours(x), usual(x))
    monkeypatch.setattr(layers, "pairs", lambda: pairs)
    layers.main(["--rounds", "1"])
    assert len(cells(capsys.readouterr().out, "spatial attention")) == 4
