"""Pretraining of masked autoencoders: use of the data, resuming, reconstruction, the encoder."""

import json
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import rows
from filelock import FileLock
from forked import killed_at

from fer_lib.arguments import parse_settings
from fer_lib.augment import Augmentation, Prepare
from fer_lib.data.sample import make_sample
from fer_lib.files import InputError, read_json
from fer_lib.kept import keep_results, restore
from fer_lib.models import create_model
from fer_lib.models.weights import read_weights
from fer_lib.predict import Predictor
from fer_lib.pretrain import (
    PretrainConfig,
    Pretraining,
    loop,
    pretrain,
    pretraining,
    reconstruct,
)
from fer_lib.pretrain.__main__ import main, quoted
from fer_lib.pretrain.autoencoder import build_autoencoder, mask_noise
from fer_lib.pretrain.folder import origin
from fer_lib.pretrain.learner import MaskedLearner
from fer_lib.recipes import recipe
from fer_lib.runs import list_runs
from fer_lib.train import main as train_command
from fer_lib.train import train

TINY = {
    "epochs": 2,
    "batch_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


@pytest.fixture(scope="module")
def faces():
    return make_sample(200)


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    return pretrain(tiny(), faces, runs=tmp_path_factory.mktemp("runs"))


def tiny(**changes):
    return pretraining("sample", **TINY | changes)


def weights(run):
    return read_weights(run.autoencoder_path)[0]


def same(a, b):
    """Return whether the metrics and the final weights of two pretrainings are bitwise equal."""
    first, second = weights(a), weights(b)
    return rows(a) == rows(b) and all(torch.equal(first[name], second[name]) for name in first)


def changed(faces, **arrays):
    """Return the faces with some arrays replaced, and so with another fingerprint."""
    manifest = {k: v for k, v in faces.manifest.items() if k != "fingerprint"}
    return replace(faces, manifest=manifest, **arrays)


def test_the_loss_falls_below_that_of_the_mean_face(faces, tmp_path):
    config = tiny(
        epochs=15,
        batch_size=16,
        lr=3e-3,
        embed_dim=64,
        decoder_dim=48,
        norm_pix_loss=False,
        augmentation=Augmentation(),
    )
    run = pretrain(config, faces, runs=tmp_path)
    prepare = Prepare(config.pretrained_cfg)
    train, valid = (
        prepare(torch.from_numpy(faces.images[faces.where(split)])) for split in ("train", "valid")
    )
    mean_face = (valid - train.mean(0)).square().mean().item()
    loss = run.metrics()["valid_loss"]
    assert loss.iloc[-1] < 0.9 * mean_face < loss.iloc[0]
    assert run.results["valid_loss"] == {"first": loss.iloc[0], "last": loss.iloc[-1]}


def test_a_pretraining_writes_a_complete_folder_that_list_runs_ignores(finished, faces):
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.json",
        "metrics.csv",
        "encoder.safetensors",
        "autoencoder.safetensors",
        "results.json",
    }
    assert not [name for name in names if "partial" in name or name == "checkpoint"]
    config = json.loads((finished.folder / "config.json").read_text())
    assert PretrainConfig.from_dict(config["pretrain"]) == tiny()
    assert config["data"]["fingerprint"] == faces.fingerprint
    assert finished.results["mark"] == "sample data"
    assert finished.results["train_images"] == 160
    assert finished.folder.parent.name == "pretraining"
    assert list_runs(finished.folder.parent.parent, finished=False) == []


def test_labels_are_not_used(faces, finished, tmp_path):
    without = changed(
        faces, labels=np.zeros_like(faces.labels), votes=None, truth=None, classes=("face",)
    )
    assert same(finished, pretrain(tiny(), without, runs=tmp_path))


def test_test_images_are_not_used_and_validation_images_change_only_the_metrics(
    faces, finished, tmp_path
):
    for split in ("test", "valid"):
        images = faces.images.copy()
        images[faces.where(split)] = 255 - images[faces.where(split)] // 2
        other = pretrain(tiny(), changed(faces, images=images), runs=tmp_path)
        a, b = weights(finished), weights(other)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert (rows(finished) == rows(other)) == (split == "test")


def test_validation_masks_are_the_same_in_every_call_and_for_every_seed(faces, monkeypatch):
    learner = MaskedLearner(tiny(precision="no"), faces)
    before = learner.validate()
    torch.manual_seed(99)
    assert learner.validate() == before
    monkeypatch.setattr("fer_lib.pretrain.learner.largest_batch", lambda prepare: 7)
    assert learner.validate() == pytest.approx(before, rel=1e-4)  # in batches of unequal size
    learner.train_epoch(0)
    assert learner.validate() != before
    assert torch.equal(learner.noise, MaskedLearner(tiny(seed=5), faces).noise)


def test_validation_is_never_augmented(faces, monkeypatch):
    learner, calls = MaskedLearner(tiny(), faces), []
    call = Prepare.__call__
    monkeypatch.setattr(
        Prepare,
        "__call__",
        lambda self, x, config=None, generator=None: (
            calls.append(config) or call(self, x, config, generator)
        ),
    )
    learner.validate()
    assert calls == [None]
    learner.train_epoch(0)
    assert set(calls[1:]) == {learner.config.augmentation}


def test_masks_differ_between_batches_epochs_and_seeds(faces, monkeypatch):
    loss, masks = MaskedLearner.loss, []
    monkeypatch.setattr(
        MaskedLearner,
        "loss",
        lambda self, x, noise: masks.append(noise.clone()) or loss(self, x, noise),
    )
    learner = MaskedLearner(tiny(), faces)
    learner.train_epoch(0)
    learner.train_epoch(1)
    second = len(masks)
    MaskedLearner(tiny(seed=1), faces).train_epoch(0)
    for number in (1, len(learner.batches), second):
        assert not torch.equal(masks[0], masks[number])
    assert learner.schedule.last_epoch == second
    assert all(p.grad is None for p in learner.model.parameters())  # none is added to the next


def test_a_killed_pretraining_resumes_and_ends_with_the_same_numbers(faces, tmp_path, monkeypatch):
    runs = tmp_path / "killed"
    killed_at("epoch 2/4", pretrain, tiny(epochs=4), faces, runs=runs)
    monkeypatch.setenv("FER_COMMIT", "another")
    (folder,) = (runs / "pretraining").glob("*_mae_sample_s0")
    assert not Pretraining(folder).finished
    killed = pretrain(tiny(epochs=4), faces, runs=runs)
    assert killed.folder == folder
    (resumed,) = Pretraining(folder).config["resumed"]
    assert resumed["commit"] == "another"
    whole = pretrain(tiny(epochs=4), faces, runs=tmp_path / "whole")
    assert len(rows(whole)) == 4
    assert same(killed, whole)
    assert killed.results["valid_loss"] == whole.results["valid_loss"]


@pytest.mark.parametrize("step", ["write_autoencoder", "write_results"])
def test_a_pretraining_interrupted_after_its_last_epoch_resumes_to_the_same_result(
    step, faces, finished, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny(), faces, runs=tmp_path)
    resumed = pretrain(tiny(), faces, runs=tmp_path)
    assert len(list((tmp_path / "pretraining").glob("*_mae_*"))) == 1
    assert same(resumed, finished)


def test_a_finished_pretraining_is_loaded_and_another_config_starts_a_new_one(
    faces, tmp_path, monkeypatch
):
    first = pretrain(tiny(epochs=1), faces, runs=tmp_path)
    other = pretrain(tiny(epochs=1, seed=1), faces, runs=tmp_path)
    assert other.folder != first.folder
    assert not same(first, other)
    monkeypatch.setattr(loop, "MaskedLearner", None)  # calling it would fail
    assert pretrain(tiny(epochs=1), faces, runs=tmp_path).folder == first.folder


def test_changed_code_is_reported_and_a_foreign_folder_is_skipped(
    faces, finished, monkeypatch, capsys
):
    root = finished.folder.parent
    (root / "foreign").mkdir()
    unknown = finished.config | {"pretrain": {"colour": 1}}
    (root / "foreign" / "config.json").write_text(json.dumps(unknown))
    monkeypatch.setattr(loop, "code_digest", lambda names: "another")
    assert pretrain(tiny(), faces, runs=root.parent).folder == finished.folder
    printed = capsys.readouterr().out
    assert "made by other code" in printed
    assert "foreign is not a pretraining" in printed


def test_a_pretraining_that_another_process_runs_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lib.files.LOCK_SECONDS", 0.2)
    run = pretrain(tiny(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    with FileLock(run.folder / ".lock"), pytest.raises(InputError, match="another process"):
        pretrain(tiny(epochs=1), faces, runs=tmp_path)


@pytest.mark.usefixtures("kept_states")
def test_a_checkpoint_of_another_autoencoder_is_refused(faces, tmp_path):
    run = pretrain(tiny(epochs=1), faces, runs=tmp_path)
    (run.folder / "results.json").unlink()
    path = run.state_path
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"].pop()
    torch.save(state, path)
    with pytest.raises(InputError, match=r"state\.pt does not fit"):
        pretrain(tiny(epochs=1), faces, runs=tmp_path)
    state["model"] = MaskedLearner(tiny(embed_dim=32), faces).state_dict()["model"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"state\.pt is a checkpoint of another model"):
        pretrain(tiny(epochs=1), faces, runs=tmp_path)


def test_a_nan_loss_is_reported_with_its_step_and_the_epochs_before_are_kept(
    faces, tmp_path, monkeypatch, capsys
):
    loss, calls = MaskedLearner.loss, []

    def broken(self, x, noise):
        calls.append(len(x))
        return loss(self, x, noise) * (float("nan") if len(calls) == 8 else 1)

    monkeypatch.setattr(MaskedLearner, "loss", broken)
    with pytest.raises(FloatingPointError, match="_s0: the loss became nan at step 2 of epoch 2"):
        pretrain(tiny(epochs=3), faces, runs=tmp_path)
    monkeypatch.undo()
    capsys.readouterr()
    assert len(rows(pretrain(tiny(epochs=3), faces, runs=tmp_path))) == 3
    assert "resumes after epoch 1" in capsys.readouterr().out


def test_a_kept_run_describes_the_pretraining_of_its_encoder(faces, tmp_path):
    mae = pretrain(tiny(epochs=1), faces, runs=tmp_path)
    start = {"pretrained": str(mae.encoder_path), "options": mae.options}
    run = train(recipe("vit_mae", "ours", "sample", epochs=1, **start), faces, runs=tmp_path)
    keep_results(run, tmp_path / "kept")
    kept = read_json(tmp_path / "kept" / f"{run.name}.json")["config"]
    assert str(tmp_path) not in json.dumps(kept)
    told = kept["pretraining"]
    assert told["valid_loss"] == mae.results["valid_loss"]
    words = shlex.split(told["command"])
    assert words[:5] == ["python", "-m", "fer_lib.pretrain", "--dataset", faces.name]
    again = pretraining("sample", **parse_settings(words[words.index("--set") + 1 :]))
    assert again == mae.pretrain_config
    (restored,) = restore(tmp_path / "kept")
    keep_results(restored, tmp_path / "twice")
    assert read_json(tmp_path / "twice" / f"{run.name}.json")["config"]["pretraining"] == told


def test_the_origin_of_an_encoder_is_found_by_a_path_with_a_tilde(finished, monkeypatch):
    monkeypatch.setenv("HOME", str(finished.folder.parent))
    told = origin(f"~/{finished.name}/encoder.safetensors")
    assert told == origin(finished.encoder_path)
    assert told["epochs"] == 2
    assert origin("~/elsewhere/encoder.safetensors") is None


def test_the_optimizer_has_all_trainable_parameters_and_vectors_do_not_decay(faces):
    learner = MaskedLearner(tiny(), faces)
    groups = learner.optimizer.param_groups
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    assert sorted(map(id, trained)) == sorted(id(p) for group in groups for p in group["params"])
    assert all(
        (group["weight_decay"] == 0) == (p.ndim < 2) for group in groups for p in group["params"]
    )
    assert all(group["betas"] == (0.9, 0.95) for group in groups)
    fixed = [name for name, p in learner.model.named_parameters() if not p.requires_grad]
    assert len(fixed) == 2  # the sine and cosine positions of encoder and decoder
    assert all("pos" in name for name in fixed)


def test_the_encoder_computes_the_same_in_timms_vit(finished):
    options = finished.options
    vit = timm.create_model(
        options["backbone"],
        num_classes=0,
        img_size=options["img_size"],
        in_chans=options["in_chans"],
        **options["backbone_options"],
    ).eval()
    state, metadata = read_weights(finished.encoder_path)
    vit.load_state_dict(state, strict=True)
    assert json.loads(metadata["options"]) == options
    assert metadata["fingerprint"] == finished.fingerprint
    (known,) = json.loads(metadata["learned_from"])
    assert known["fingerprint"] == finished.fingerprint
    autoencoder = finished.load()
    autoencoder.config.mask_ratio = 0.0
    x = torch.randn(3, 1, 48, 48)
    ordered = torch.arange(36.0).expand(3, -1)
    with torch.inference_mode():
        theirs = autoencoder.vit(x, noise=ordered).last_hidden_state
        torch.testing.assert_close(vit.forward_features(x), theirs, atol=1e-5, rtol=1e-5)


def test_the_classifier_is_built_on_the_encoder(finished):
    model = create_model("vit_mae", pretrained=finished.encoder_path, **finished.options)
    for name, tensor in read_weights(finished.encoder_path)[0].items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    expected = finished.pretrain_config.pretrained_cfg
    assert {key: tuple(model.pretrained_cfg[key]) for key in expected} == expected


def test_an_encoder_is_refused_where_a_classifier_is_needed(finished):
    with pytest.raises(InputError, match=r"encoder\.safetensors .* train a classifier on it first"):
        Predictor.from_file(finished.encoder_path)


def test_load_returns_the_autoencoder_of_the_last_epoch(faces, finished):
    learner = MaskedLearner(tiny(precision="no"), faces)
    learner.model = finished.load()
    assert not learner.model.training
    last = rows(finished)[-1]["valid_loss"]
    assert learner.validate()["valid_loss"] == pytest.approx(last, rel=1e-2)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_reconstruct_keeps_visible_patches_and_predicts_the_others(norm_pix_loss):
    model = build_autoencoder(tiny(norm_pix_loss=norm_pix_loss))
    x = torch.randn(2, 1, 48, 48) * 0.2 + torch.tensor([0.1, -0.3])[:, None, None, None]
    result = reconstruct(model, x, mask_ratio=0.75)
    with torch.inference_mode():
        output = model(x, noise=mask_noise(2, 36, seed=0))
    hidden = result != x
    each = output.mask.bool()[..., None].expand(-1, -1, 64)
    assert output.mask.mean() == 0.75
    assert torch.equal(hidden, model.unpatchify(each.float()).bool())
    error = (result - x)[hidden].square().mean()
    if norm_pix_loss:  # reconstruct undoes the normalisation of each patch
        patches, made = model.patchify(x), model.patchify(result)
        deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (((made - patches) / deviation).square().mean(-1) * output.mask).sum() / (2 * 27)
    torch.testing.assert_close(error, output.loss)


def test_the_fused_attention_for_a_gpu_gives_the_same_loss(monkeypatch):
    """No attention mask is passed, even during a recording, when transformers 5.17 makes one."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    plain, fused = (build_autoencoder(tiny(), device) for device in ("cpu", "cuda"))
    fused.load_state_dict(plain.state_dict())
    masks, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*inputs, attn_mask=None, **others):
        masks.append(attn_mask)
        return kernel(*inputs, attn_mask=attn_mask, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    x, noise = torch.randn(2, 1, 48, 48), mask_noise(2, 36, seed=0)
    expected = plain(x, noise=noise).loss
    assert not masks
    torch.testing.assert_close(fused(x, noise=noise).loss, expected)
    assert masks == [None] * (tiny().depth + tiny().decoder_depth)


def test_reconstruct_depends_on_seed_and_ratio_and_does_not_change_the_model():
    model, x = build_autoencoder(tiny()), torch.randn(2, 1, 48, 48)
    one, two = (reconstruct(model, x, seed=seed) for seed in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, reconstruct(model, x, seed=1))
    assert (reconstruct(model, x, mask_ratio=0.5) != x).float().mean() == 0.5
    assert model.config.mask_ratio == 0.75
    for wrong in (float("nan"), float("inf"), 1.0):
        with pytest.raises(InputError, match="must hide some of the 36 patches"):
            reconstruct(model, x, mask_ratio=wrong)
        with pytest.raises(InputError, match="must hide some of the 36 patches"):
            pretraining("sample", mask_ratio=wrong)
    assert model.config.mask_ratio == 0.75


def test_presets_scale_the_learning_rate_and_survive_json():
    for preset in ("sample", "quick", "full"):
        config = pretraining(preset)
        assert PretrainConfig.from_dict(config.to_dict()) == config
        assert config.warmup_epochs <= config.epochs / 10
    assert pretraining("full", batch_size=512).lr == 2 * pretraining("full", batch_size=256).lr
    assert pretraining("full", batch_size=512, lr=0.1).lr == 0.1
    draws = pretraining("sample", augmentation={"flip": 0.2}).augmentation
    assert draws == replace(PretrainConfig().augmentation, flip=0.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"patch_size": 7}, "patch_size=7 must divide img_size=48"),
        ({"patch_size": 0}, "patch_size must be 1 or more"),
        ({"depth": 0}, "depth"),
        ({"embed_dim": 190}, "embed_dim=190 must be a multiple"),
        ({"decoder_dim": 64, "decoder_heads": 0}, "decoder_heads=0"),
        ({"mask_ratio": 0.0}, "mask_ratio=0.0"),
        ({"mask_ratio": 0.99}, "mask_ratio=0.99"),
        ({"precision": "half"}, "precision"),
        ({"warmup_epochs": 12}, "warm-up"),
        ({"colour": 1}, "unknown pretraining setting: colour"),
        ({"labels": "votes"}, "unknown pretraining setting: labels"),
        ({"augmentation": {"blur": 1}}, "augmentation"),
        ({"augmentation": {}}, "changes nothing: name what to change"),
        ({"preset": "tiny"}, "preset"),
    ],
)
def test_invalid_settings_are_refused_with_a_one_line_message(values, message):
    with pytest.raises(InputError, match=message) as caught:
        pretraining(**{"preset": "sample"} | values)
    assert "\n" not in str(caught.value)


def test_a_missing_split_is_refused_before_a_folder_is_made(faces, tmp_path):
    for split, name in (("train", "training"), ("valid", "validation")):
        without = faces.subset(faces.split != split)
        with pytest.raises(InputError, match=f"has no {name} images"):
            pretrain(tiny(), without, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lr"], "NAME=VALUE"),
        (["--set", "patch_size=7"], "patch_size=7"),
        (["--dataset", "fer2013", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_the_command_line_reports_an_error_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_damaged_results_are_reported_with_a_remedy(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(finished.config))
    (tmp_path / "results.json").write_text('{"mark": ""}')
    monkeypatch.setattr(
        "fer_lib.pretrain.__main__.pretrain", lambda *_, **__: Pretraining(tmp_path)
    )
    with pytest.raises(SystemExit):
        main(["--dataset", "sample-10-100"])
    said = capsys.readouterr().err
    assert f"{tmp_path / 'results.json'} lacks the results: delete it and create it again" in said


def test_the_printed_command_fine_tunes_the_encoder(tmp_path, capsys):
    runs = ["--runs", str(tmp_path)]
    settings = [f"{name}={value}" for name, value in (TINY | {"epochs": 1}).items()]
    main(["--dataset", "sample-10-100", "--seed", "1", *runs, "--set", *settings])
    said = capsys.readouterr().out.splitlines()
    assert re.search(r"loss [\d.]+ after the first epoch, [\d.]+ after .*sample data", said[-2])
    words = shlex.split(said[-1].partition("python -m fer_lib.train ")[2])
    train_command([*words, "epochs=1", "batch_size=16"])
    assert "test accuracy" in capsys.readouterr().out
    (run,), (encoder,) = list_runs(tmp_path), tmp_path.glob("pretraining/*/encoder.safetensors")
    assert run.train_config.pretrained == str(encoder)
    assert run.train_config.options["backbone_options"]["embed_dim"] == TINY["embed_dim"]
    assert run.config["data"]["dataset"] == "sample-10-100"
    assert run.train_config.seed == 1


def test_a_printed_command_is_quoted_for_the_shell_of_the_system(monkeypatch):
    words = ["--set", 'options={"depth": 2}']
    assert quoted(words) == "--set 'options={\"depth\": 2}'"
    monkeypatch.setattr("fer_lib.pretrain.__main__.os", SimpleNamespace(name="nt"))
    assert quoted(words) == r'--set "options={\"depth\": 2}"'
