"""Devices: training in two processes as in one, attention in bf16 on a CPU."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import free_port, rows
from forked import CONTEXT

from fer_lib.augment import Augmentation
from fer_lib.data.sample import make_sample
from fer_lib.device import choose_device, choose_precision, processes
from fer_lib.files import InputError
from fer_lib.learner import Learner
from fer_lib.recipes import recipe
from fer_lib.runs import list_runs
from fer_lib.train import main

pytestmark = pytest.mark.usefixtures("undrawn_runs")


def torchrun(arguments):
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "fer_lib.train"]
    done = subprocess.run(
        [sys.executable, *launch, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def launched(call, *arguments):
    """Run a call in two processes with the variables that torchrun sets; faster than torchrun."""
    both, port = [], str(free_port())
    for rank in "01":
        both.append(CONTEXT.Process(target=call, args=arguments, daemon=True))
        both[-1].environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        both[-1].environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        both[-1].start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "launch"),
    [
        (["baseline_cnn", "--set", "epochs=1", 'options={"width": 4}'], torchrun),
        (["vit_moe", "--set", "epochs=1", "limit=200", "frozen_layers=1"], partial(launched, main)),
    ],
    ids=["cnn", "experts-and-frozen-layers"],
)
def test_two_processes_train_on_as_many_images_as_one_in_one_folder(settings, launch, tmp_path):
    settings = [*settings, "--dataset", "sample-10-300", "--runs"]
    main([*settings, str(tmp_path / "one")])
    launch([*settings, str(tmp_path / "two")])
    (one,), (two,) = list_runs(tmp_path / "one"), list_runs(tmp_path / "two")
    assert two.config["environment"]["processes"] == 2
    for key in ("train_images", "valid_images"):
        assert rows(one)[0][key] == rows(two)[0][key]
    assert one.results["test"]["full"]["n"] == two.results["test"]["full"]["n"]
    assert abs(rows(one)[0]["train_loss"] - rows(two)[0]["train_loss"]) < 0.2


def learn(folder):
    """Train for one epoch and save the loss and the weights.

    Only the order of the images is random, and no image influences the answer for another.
    """
    plain = {"augmentation": Augmentation(flip=0.0, affine=0.0), "precision": "no"}
    sgd = {"optimizer": "sgd", "lr": 0.05, "warmup_epochs": 0, "batch_size": 16, "limit": 64}
    options = {"options": {"drop_path": 0.0}, "ema_decay": 0.0}
    learner = Learner(
        recipe("vit_patch", "ours", "sample", **options, **plain, **sgd), make_sample(100)
    )
    loss = learner.train_epoch(0)["train_loss"]
    weights = torch.cat([parameter.detach().flatten() for parameter in learner.core.parameters()])
    torch.save((loss, weights), folder / os.environ.get("RANK", "one"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes train on the CPU")
def test_two_processes_learn_the_same_weights_as_one(tmp_path):
    learn(tmp_path)
    launched(learn, tmp_path)
    loss, weights = torch.load(tmp_path / "one")
    for rank in "01":
        its_loss, its_weights = torch.load(tmp_path / rank)
        assert its_loss == pytest.approx(loss, abs=1e-4)
        torch.testing.assert_close(its_weights, weights, atol=1e-4, rtol=0)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun sets it
    with pytest.raises(InputError, match="2 processes need 2 GPUs, and 1 are here: lower"):
        processes()


@pytest.mark.parametrize(
    ("gpu", "multiplies_bf16", "chosen"),
    [(True, True, "bf16"), (True, False, "fp16"), (False, True, "bf16"), (False, False, "no")],
)
def test_the_precision_is_the_one_in_which_the_device_is_fast(
    gpu, multiplies_bf16, chosen, monkeypatch
):
    def supported(including_emulation=True):
        return including_emulation or multiplies_bf16  # a T4 emulates bf16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies_bf16)
    assert choose_precision() == chosen
    assert [choose_precision(asked) for asked in ("bf16", "no")] == ["bf16", "no"]


def test_fp16_is_only_for_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_precision("fp16") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="precision=fp16 needs a GPU: use auto, bf16 or no"):
        choose_precision("fp16")


def test_a_gpu_is_the_default_where_there_is_one_and_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(asked).type for asked in (None, "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device().type == "cpu"
    with pytest.raises(InputError, match="finds no GPU for the device cuda: use cpu"):
        choose_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the fused kernel is the faster one")
@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("no", True)])
def test_bf16_attention_on_a_cpu_is_not_fused(faces, precision, fused):
    config = recipe("vit_patch", "ours", "sample", precision=precision)
    learner = Learner(config, faces)
    assert {block.attn.fused_attn for block in learner.core.blocks} == {fused}
    assert {block.attn.fused_attn for block in learner.kept.blocks} == {fused}
