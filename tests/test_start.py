"""Starting weights from the hub, a file or a run, and freezing of layers."""

import socket
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from conftest import small
from safetensors.torch import load_file, save_file
from torch import nn

from fer_lib.checkpoints import save_weights
from fer_lib.data import load_faces
from fer_lib.files import InputError, read_json, write_json
from fer_lib.labels import EMOTIONS_8
from fer_lib.learner import Learner
from fer_lib.models import MODULES, create_model
from fer_lib.models.weights import timm_state
from fer_lib.optim import freeze, layers, parameter_groups
from fer_lib.predict import Predictor
from fer_lib.predict.faces import make_detector
from fer_lib.recipes import recipe
from fer_lib.runs import list_runs, start_run
from fer_lib.train import fine_tuning, main, train
from fer_lib.training import Training

TINY = {"patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
BACKBONES = ["vit_tiny", "vit_mae", "vit_moe", "grefel"]
tiny = {"backbone_options": TINY, "img_size": 48, "in_chans": 1}

pytestmark = pytest.mark.usefixtures("undrawn_runs")


@pytest.fixture
def offline(monkeypatch):
    """Raise AssertionError on any use of the internet."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def vit(**options):
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY, **options)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_starts_from_a_file_with_another_head(name, tmp_path):
    source = vit(img_size=48, in_chans=1)
    save_file(source.state_dict() | {"head.weight": torch.zeros(5, 24)}, tmp_path / "w.safetensors")
    model = create_model(name, pretrained=tmp_path / "w.safetensors", **tiny)
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], tensor)


def test_weights_of_another_image_size_precision_or_number_of_channels_are_adapted(tmp_path):
    source = vit(img_size=96)
    half = {name: tensor.half() for name, tensor in source.state_dict().items()}
    save_file(half, tmp_path / "w.safetensors")
    model = create_model("vit_tiny", pretrained=str(tmp_path / "w.safetensors"), **tiny).backbone
    assert model.pos_embed.shape == (1, 10, 24)
    assert model.pos_embed.dtype == torch.float32
    grey = source.patch_embed.proj.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.weight, grey, atol=2e-3, rtol=1e-3)


def test_a_vit_mae_encoder_of_transformers_gives_the_same_output_in_timm(tmp_path):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=48,
        num_channels=1,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        layer_norm_eps=1e-6,
        mask_ratio=0.0,
    )
    theirs = ViTMAEForPreTraining(config).eval()
    x = torch.randn(3, 1, 48, 48)
    order = torch.arange(9.0).expand(3, -1)
    with torch.no_grad():
        expected = theirs.vit(x, noise=order).last_hidden_state
    theirs.save_pretrained(tmp_path)  # with the parameter names of the hub
    for source in ("in memory", "on disk"):
        state = theirs.state_dict()
        if source == "on disk":
            state = load_file(tmp_path / "model.safetensors")
            assert any("encoder.layer." in name for name in state)
        ours = vit(img_size=48, in_chans=1).eval()
        ours.load_state_dict(timm_state(state))
        with torch.no_grad():
            torch.testing.assert_close(ours.forward_features(x), expected, atol=1e-5, rtol=1e-5)
    model = create_model("vit_mae", pretrained=tmp_path / "model.safetensors", **tiny).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.backbone.forward_features(x), expected, atol=1e-5, rtol=0)


def test_dinov2_of_transformers_gives_the_same_output_in_timm(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = Dinov2Model(config).eval()
    for name, values in theirs.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(values)
    theirs.save_pretrained(tmp_path)
    options = {
        "backbone": "vit_small_patch14_dinov2",
        "img_size": 28,
        "in_chans": 3,
        "backbone_options": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    }
    ours = create_model("vit_tiny", pretrained=tmp_path / "model.safetensors", **options).eval()
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.backbone.forward_features(x), expected, atol=1e-5, rtol=0)


def test_vit_mae_uses_all_patches_and_predicts_deterministically():
    model = create_model("vit_mae", **tiny).eval()
    x = torch.randn(2, 1, 48, 48, requires_grad=True)
    first = model(x)
    assert torch.equal(first, model(x))
    first.sum().backward()
    patches = x.grad.abs().unfold(2, 16, 16).unfold(3, 16, 16).sum((-1, -2))  # (B, 1, 3, 3)
    assert (patches > 0).all()


def test_a_file_of_another_backbone_is_refused(tmp_path):
    save_file(vit(img_size=48).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="does not contain this backbone"):
        create_model("vit_mae", pretrained=tmp_path / "w.safetensors", img_size=48)
    shallow = tiny | {"backbone_options": TINY | {"depth": 1}}
    with pytest.raises(InputError, match=r"has 12 tensors in its blocks .* blocks\.1\.attn\.proj"):
        create_model("vit_mae", pretrained=tmp_path / "w.safetensors", **shallow)
    scaled = tmp_path / "scaled.safetensors"
    save_file(vit(img_size=48, in_chans=1, init_values=1e-5).state_dict(), scaled)
    with pytest.raises(InputError, match=r"the first is blocks\.0\.ls1\.gamma: use the backbone"):
        create_model("vit_mae", pretrained=scaled, **tiny)
    save_file(vit(img_size=48, in_chans=1).state_dict(), tmp_path / "grey.safetensors")
    rgb = tiny | {"in_chans": 3}
    with pytest.raises(InputError, match="is for images with in_chans=1: set this option"):
        create_model("vit_mae", pretrained=tmp_path / "grey.safetensors", **rgb)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="no vision transformer"):
        create_model("vit_mae", pretrained=tmp_path / "a.safetensors", img_size=48)


def test_an_unreachable_hub_raises_an_error_with_remedies(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("huggingface.co cannot be reached")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    for name in BACKBONES:
        with pytest.raises(InputError, match=r"cannot be reached.*pretrained=FILE.*=False"):
            create_model(name, pretrained=True, backbone="vit_tiny_patch16_224")


def test_hub_weights_that_do_not_fit_are_not_reported_as_unreachable(monkeypatch):
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: weights)
    with pytest.raises(InputError, match="do not fit these options of vit_moe"):
        create_model(
            "vit_moe",
            pretrained=True,
            backbone="vit_tiny_patch16_224",
            backbone_options={"embed_dim": 24, "num_heads": 2},
        )


def test_hub_weights_are_loaded_whole_or_not_at_all(monkeypatch):
    source = vit()
    head = {"head.weight": torch.zeros(1000, TINY["embed_dim"]), "head.bias": torch.zeros(1000)}
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf",
        lambda *_, **__: source.state_dict() | head,
    )
    options = {"pretrained": True, "backbone": "vit_tiny_patch16_224"}
    model = create_model("grefel", backbone_options=TINY, **options)
    assert torch.equal(model.backbone.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    for other in ({"depth": 3}, {"depth": 1}, {"init_values": 1e-5}):
        with pytest.raises(InputError, match="do not fit these options of grefel"):
            create_model("grefel", backbone_options=TINY | other, **options)


@pytest.mark.parametrize("name", MODULES)
def test_a_run_loads_without_internet_and_starting_weights(name, faces, tmp_path, offline):
    changes = {"epochs": 1, "limit": 64, "ema_decay": 0.0}
    if name in BACKBONES:
        start = tmp_path / "start.safetensors"
        save_file(vit(img_size=48, in_chans=1).state_dict(), start)
        changes |= {"pretrained": str(start), "options": tiny}
    run = train(recipe(name, "ours", "sample", **changes), faces, runs=tmp_path / "runs")
    if name in BACKBONES:
        start.unlink()
    model = run.load_model()
    assert not model.training
    assert train(run.train_config, faces, runs=tmp_path / "runs").folder == run.folder


def test_fine_tuning_starts_from_the_best_weights_of_a_run(faces, tmp_path, capsys):
    short = {"epochs": 1, "limit": 64, "options": tiny}
    first = train(recipe("grefel", "ours", "sample", **short), faces, runs=tmp_path)
    assert first.results["train_images"] == 64
    config = fine_tuning(first, epochs=1, limit=64)
    assert (config.recipe, config.weight_decay) == ("finetune", 0.007)
    assert config.options["backbone_options"] == TINY
    learner = Learner(config, faces)
    best = load_file(first.folder / "best.safetensors")
    assert all(
        torch.equal(tensor, best[name]) for name, tensor in learner.core.state_dict().items()
    )
    arguments = ["grefel", "--runs", str(tmp_path), "--dataset", "sample-10-100"]
    arguments += ["--set", "epochs=1", "limit=64"]
    with pytest.raises(SystemExit):
        main(["vit_mae", *arguments[1:], "--from-run", str(first.folder)])
    assert "is a run of grefel, not of vit_mae" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--recipe", "finetune"])
    assert "give --from-run" in capsys.readouterr().err
    from_run = [*arguments, "--from-run", str(first.folder)]
    with pytest.raises(SystemExit):
        main([*arguments, "pretrained=true", *from_run[-2:]])
    assert f"{first.folder} starts from its weights: omit pretrained" in capsys.readouterr().err
    main(from_run)
    assert "test accuracy" in capsys.readouterr().out
    (second,) = [run for run in list_runs(tmp_path) if run.name != first.name]
    assert second.train_config == config


def test_a_fine_tuning_has_the_data_of_its_run_and_a_recipe_that_its_model_has(tmp_path):
    drawn = load_faces("sample-10-100", say=lambda line: None)
    first = train(small(epochs=1), drawn, runs=tmp_path)
    changes = ["--set", "epochs=1"]
    main(["baseline_cnn", "--runs", str(tmp_path), "--from-run", str(first.folder), *changes])
    (second,) = [run for run in list_runs(tmp_path) if run.name != first.name]
    assert (second.fingerprint, second.train_config.recipe) == (drawn.fingerprint, "ours")


@pytest.mark.parametrize(("before", "after"), [("ours", "published"), ("published", "ours")])
def test_fine_tuning_with_another_recipe_keeps_the_network(faces, tmp_path, before, after):
    short = {"epochs": 1, "limit": 64, "options": {"width": 4}}
    run = train(recipe("attention_cnn", before, "sample", **short), faces, runs=tmp_path)
    config = fine_tuning(run, after, epochs=1, limit=64)
    assert config.options == run.train_config.options
    Learner(config, faces)


@pytest.mark.parametrize(("before", "after"), [(7, 8), (8, 7)])
def test_weights_of_shared_classes_transfer_with_and_without_contempt(before, after, tmp_path):
    config = recipe("grefel", "ours", "sample", options=tiny)
    first = create_model("grefel", num_classes=before, **tiny)
    classes = EMOTIONS_8[:before]
    save_weights(tmp_path / "best.safetensors", first.state_dict(), config, classes)
    second = create_model("grefel", num_classes=after, pretrained=tmp_path / "best.safetensors",
                          **tiny)  # fmt: skip
    old, new = first.state_dict(), second.state_dict()
    for name, tensor in new.items():
        n = min(len(tensor), len(old[name]))
        assert torch.equal(tensor[:n], old[name][:n]), name
    assert second.head.anchors.shape[0] == after
    assert second.head.anchors.isfinite().all()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("grefel", {}, {"anchors": 3}), ("vit_moe", {"experts": 7}, {"experts": 8})],
)
def test_a_run_of_another_size_is_refused_instead_of_partly_loaded(name, before, after, tmp_path):
    config = recipe(name, "ours", "sample", options=tiny | before)
    path, first = tmp_path / "best.safetensors", create_model(name, **tiny, **before)
    save_weights(path, first.state_dict(), config, EMOTIONS_8[:7])  # as many as experts
    with pytest.raises(InputError, match="another model"):
        create_model(name, pretrained=path, **tiny, **after)


def train_until_an_epoch_is_kept(config, faces, runs):
    keep = Training.keep

    def killed(self, *epoch):
        keep(self, *epoch)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, faces, runs=runs)


def test_training_resumes_without_its_starting_weights(faces, tmp_path, offline):
    start = tmp_path / "start.safetensors"
    save_file(vit(img_size=48, in_chans=1).state_dict(), start)
    config = recipe("vit_mae", "ours", "sample", epochs=2, limit=64, options=tiny,
                    pretrained=str(start))  # fmt: skip
    train_until_an_epoch_is_kept(config, faces, tmp_path / "runs")
    start.unlink()
    run = train(config, faces, runs=tmp_path / "runs")
    assert len(run.metrics()) == 2


def test_dinov2_files_are_read_with_registers_and_layer_scales(tmp_path):
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    name = "vit_small_patch14_reg4_dinov2"
    source = timm.create_model(name, num_classes=0, img_size=64, **sizes)
    state = source.state_dict()
    assert "blocks.0.ls1.gamma" in state
    # DINOv2's own files have separate registers, and a position for the class token.
    theirs = {k: v for k, v in state.items() if k not in ("reg_token", "pos_embed")}
    theirs |= {
        "register_tokens": state["reg_token"],
        "mask_token": torch.zeros(1, 24),
        "pos_embed": torch.cat([torch.zeros(1, 1, 24), state["pos_embed"]], dim=1),
    }
    save_file({k: v.contiguous() for k, v in theirs.items()}, tmp_path / "dino.safetensors")
    model = create_model("vit_moe", backbone=name, backbone_options=sizes, img_size=48,
                         pretrained=tmp_path / "dino.safetensors")  # fmt: skip
    new = model.backbone.state_dict()
    assert torch.equal(new["blocks.1.ls2.gamma"], state["blocks.1.ls2.gamma"])
    assert torch.equal(new["reg_token"], state["reg_token"])
    assert new["pos_embed"].shape == (1, 36, 24)  # resampled from 64 positions
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 7)


def test_training_updates_anchors_and_routers_and_logs_their_losses(faces):
    for name, part, losses in (
        ("grefel", "head.directions", {"anchor_spread", "centre"}),
        ("vit_moe", "head.experts.router.weight", {"load_balance", "router_z", "load_0"}),
    ):
        config = recipe(name, "ours", "sample", limit=64, accumulate=2, options=tiny)
        learner = Learner(config, faces)
        before = learner.core.get_parameter(part).detach().clone()
        logged = learner.train_epoch(0)
        assert losses <= set(logged)
        assert np.isfinite(list(logged.values())).all()
        moved = (learner.core.get_parameter(part) - before).abs().max()
        assert moved > 1e-4, name


def test_grefel_trains_on_votes_for_eight_classes(faces):
    eight = faces.subset(np.arange(len(faces)))
    eight.classes = EMOTIONS_8
    learner = Learner(recipe("grefel", "ours", "sample", labels="votes", limit=64, options=tiny),
                      eight)  # fmt: skip
    assert learner.batches.targets.shape == (64, 8)
    assert np.isfinite(learner.train_epoch(0)["train_loss"])
    assert np.isfinite(learner.validate()["valid_loss"])


def test_a_run_is_reused_only_for_the_same_starting_weights(faces, tmp_path):
    start = tmp_path / "start.safetensors"
    save_file(vit(img_size=48, in_chans=1).state_dict(), start)
    config = recipe("vit_mae", "ours", "sample", epochs=1, limit=64, options=tiny,
                    pretrained=str(start))  # fmt: skip
    first = train(config, faces, runs=tmp_path / "runs")
    assert len(first.config["environment"]["pretrained_sha256"]) == 64
    assert train(config, faces, runs=tmp_path / "runs").folder == first.folder
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(start.read_bytes())
    elsewhere = replace(config, pretrained=str(moved))
    assert train(elsewhere, faces, runs=tmp_path / "runs").folder == first.folder
    other = {name: tensor + 1 for name, tensor in load_file(start).items()}
    save_file(other, start)
    assert train(config, faces, runs=tmp_path / "runs").folder != first.folder


@pytest.fixture
def on_hub(monkeypatch):
    """A function that puts the weights of a tiny ViT, given by its seed, and a head on the hub."""

    def put(seed: int, head: float = 0.0) -> None:
        torch.manual_seed(seed)
        state = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).state_dict()
        state |= {"head.weight": torch.full((1000, 24), head), "head.bias": torch.zeros(1000)}
        monkeypatch.setattr(
            "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state)
        )

    return put


FROM_HUB = {"epochs": 2, "limit": 64, "pretrained": True, "options": tiny}


def test_a_run_records_which_weights_of_the_hub_it_started_from(faces, tmp_path, on_hub, offline):
    config = recipe("vit_tiny", "ours", "sample", **FROM_HUB | {"epochs": 1})
    begun = start_run(config, faces, tmp_path)  # as an earlier version wrote it
    on_hub(1)
    run = train(config, faces, runs=tmp_path)
    environment = run.config["environment"]
    assert environment == read_json(run.folder / "config.json")["environment"]
    assert environment["pretrained_hub_id"] == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert len(environment["pretrained_sha256"]) == 64
    assert run.folder == begun.folder
    sha256 = lambda: Learner(config, faces).from_hub["pretrained_sha256"]
    on_hub(1, head=1.0)
    assert sha256() == environment["pretrained_sha256"]
    on_hub(2)
    assert sha256() != environment["pretrained_sha256"]
    on_hub(1)
    options = {"options": tiny | {"img_size": 64}}  # its positions are resized, with some rounding
    other = Learner(recipe("vit_tiny", "ours", "sample", **FROM_HUB | options), faces)
    assert other.from_hub["pretrained_sha256"] == environment["pretrained_sha256"]
    on_hub(2)
    assert train(config, faces, runs=tmp_path).folder == run.folder  # without asking the hub
    drawn = recipe("vit_tiny", "ours", "sample", **FROM_HUB | {"pretrained": False})
    assert Learner(drawn, faces).from_hub == {}


def test_a_run_from_the_hub_resumes_without_a_record_of_it(
    faces, tmp_path, on_hub, monkeypatch, offline
):
    on_hub(1)
    config = recipe("vit_tiny", "ours", "sample", **FROM_HUB)
    train_until_an_epoch_is_kept(config, faces, tmp_path)
    (begun,) = list_runs(tmp_path, finished=False)
    for key in ("pretrained_sha256", "pretrained_hub_id"):
        del begun.config["environment"][key]
    write_json(begun.folder / "config.json", begun.config)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", None)
    run = train(config, faces, runs=tmp_path)
    assert (run.folder, len(run.metrics())) == (begun.folder, 2)
    assert run.config == begun.config


@pytest.mark.parametrize("name", MODULES)
def test_layers_end_with_the_head_and_contain_every_parameter_once(name):
    options = {"vit_patch": {"depth": 2, "embed_dim": 24}, "vit_cnn": {"depth": 2, "embed_dim": 24}}
    model = create_model(name, **(tiny if name in BACKBONES else options.get(name, {"width": 4})))
    found = layers(model)
    assert sorted(name for layer in found for name in layer) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert len(found) == 4  # a stem and two blocks, or three stages, then the head
    head = {id(p) for p in model.get_classifier().parameters()}
    assert head <= {id(model.get_parameter(name)) for name in found[-1]}
    config = recipe(name, "ours", layer_decay=0.5)
    groups = parameter_groups(model, config)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("count", "dropped"), [(0, True), (1, False)])
def test_dropout_after_a_frozen_embedding_is_off(count, dropped):
    model = create_model("vit_patch", embed_dim=24, depth=2, num_heads=2, dropout=0.5).train()
    freeze(model, count)
    assert model.pos_drop.training == dropped


def test_frozen_layers_have_no_gradient_and_no_dropout():
    model = create_model(
        "vit_mae", **tiny | {"backbone_options": TINY | {"proj_drop_rate": 0.5}}
    ).train()
    freeze(model, 2)  # the embedding and the first block
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {
        *("cls_token", "pos_embed", "patch_embed", "blocks"),
    }
    assert not any(name.startswith("backbone.blocks.1") for name in frozen)
    assert not model.backbone.blocks[0].mlp.drop1.training
    assert model.backbone.blocks[1].mlp.drop1.training


def test_a_path_of_an_unknown_user_is_refused(faces):
    for start in (
        lambda path: train(recipe("vit_tiny", "ours", "sample", pretrained=path), faces),
        Predictor.of,
        Predictor.from_file,
        make_detector,
    ):
        with pytest.raises(InputError, match="begins with an unknown user"):
            start("~no-such-user/file.safetensors")
