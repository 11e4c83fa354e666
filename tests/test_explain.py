"""Explanations equal an independent computation and do not change the model."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from fer_lib import explain
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.models import create_model
from fer_lib.models.backbones import BackboneModel
from fer_lib.models.cnn import SpatialAttention
from fer_lib.models.grefel import GReFELHead
from fer_lib.models.moe import MixtureHead


def dinov2(**options):
    """Return a small ViT with four register tokens and a LayerScale large enough to matter."""
    sizes = {"img_size": 56, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    return timm.create_model(
        "vit_small_patch14_reg4_dinov2", **sizes | {"init_values": 0.5} | options
    )


def vit_patch():
    return create_model("vit_patch", patch_size=8, embed_dim=32, depth=3, num_heads=2, dropout=0.5)


def without_class_token():
    return dinov2(class_token=False, reg_tokens=0, global_pool="avg")


def mixture():
    return BackboneModel(dinov2(), MixtureHead(48, num_classes=7, heads=4), (3, 56, 56))


def grefel():
    return BackboneModel(
        dinov2(), GReFELHead(48, num_classes=7, anchors=3, dropout=0.5), (3, 56, 56)
    )


def cnn():
    return create_model("baseline_cnn", width=4)


def attention_cnn():
    return create_model("attention_cnn", width=16)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(model, n=3):
    vit = getattr(model, "backbone", model)
    if not hasattr(vit, "patch_embed"):
        return torch.randn(n, 1, 48, 48)
    return torch.randn(n, vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size)


def attention_weights(model, x):
    """Return the attention of every block, (B, heads, T, T); its rows are the queries."""
    return explain.record_attention(model, x, lambda weights: weights)


@pytest.mark.parametrize(("build", "grid"), [(vit_patch, 6), (dinov2, 4), (mixture, 4)])
def test_rollout_and_class_attention_equal_a_plain_computation(build, grid):
    model = build().train()
    x = images(model)
    weights = [block.double().numpy() for block in attention_weights(model, x)]
    prefix = weights[0].shape[-1] - grid * grid
    assert len(weights) == len(getattr(model, "backbone", model).blocks)
    for image in range(len(x)):
        product = np.eye(prefix + grid * grid)
        for block in weights:
            mixed = block[image].mean(0) + np.eye(len(product))
            product = mixed / mixed.sum(1, keepdims=True) @ product
        np.testing.assert_allclose(product.sum(1), 1)
        wanted = product[0, prefix:].reshape(grid, grid)
        np.testing.assert_allclose(explain.rollout(model, x)[image], wanted, atol=1e-6)
        row = weights[-1][image, :, 0, prefix:].mean(0).reshape(grid, grid)
        np.testing.assert_allclose(explain.class_attention(model, x)[image], row, atol=1e-6)


def test_recorded_attention_equals_that_of_queries_and_keys_of_each_block():
    model = dinov2().eval()
    x = images(model)
    weights = attention_weights(model, x)
    with torch.no_grad():
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        for block, found in zip(model.blocks, weights, strict=True):
            q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 3, 16)).unbind(2)
            wanted = (torch.einsum("bthd,buhd->bhtu", q, k) / 4).softmax(-1)
            assert found.shape == (3, 3, 21, 21)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, wanted)
            tokens = block(tokens)


def test_a_map_is_largest_at_the_patch_with_the_attention():
    model, patch = dinov2(img_size=(56, 42)), 7  # 4 × 3 patches; 7 is the second of the third row
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        place = torch.linspace(-1, 1, 48)
        model.pos_embed[0, patch] = place
        for block in model.blocks:
            block.norm1.weight.fill_(1)
            block.attn.qkv.weight[48:96] = torch.eye(48)  # keys are the tokens
            block.attn.qkv.bias[:48] = 2 * place  # all queries match that patch
    x = torch.randn(2, 3, 56, 42)
    for found in (explain.rollout(model, x), explain.class_attention(model, x)):
        assert found.shape == (2, 4, 3)
        assert found.flatten(1).argmax(1).tolist() == [patch, patch]
        assert (found[:, 2, 1] > 2 * found[:, 0, 0]).all()


def fused(part):
    return getattr(part, "fused_attn", None)


def settings(model):
    """Return everything but tensors that an explanation could change in a model."""
    parts = {
        name: (part.training, sorted(vars(part)), len(part._forward_hooks), fused(part))
        for name, part in model.named_modules()
    }
    return parts, [(p.requires_grad, p.grad is None) for p in model.parameters()]


def tensors(model):
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [*gradients, *(value.clone() for value in model.state_dict().values())]


CASES = [
    (attention_weights, vit_patch),
    (explain.class_attention, dinov2),
    (explain.rollout, mixture),
    (explain.grad_cam, cnn),
    (explain.maps, grefel),
    (explain.maps, attention_cnn),
    (explain.spatial_gates, attention_cnn),
    (explain.routing, mixture),
    (explain.reliability, grefel),
]


@pytest.mark.parametrize(("function", "build"), CASES)
def test_the_model_is_not_changed(function, build):
    model = build().eval()
    for part in [part for part in model.modules() if fused(part)][1:]:
        part.fused_attn = False  # only the first stays fused
    x = images(model)
    with torch.no_grad():
        wanted = model(x)
    frozen = next(model.train().children())
    frozen.eval().requires_grad_(False)  # like a part that is not trained
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    before = settings(model), tensors(model)
    function(model, x)
    with pytest.raises(RuntimeError, match="channels"):
        function(model, x[:, [0] * 5])
    assert settings(model) == before[0]
    torch.testing.assert_close(tensors(model), before[1], atol=0, rtol=0)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), wanted)


def test_maps_chooses_the_method_by_the_kind_of_model():
    for build, name in ((vit_patch, "attention rollout"), (mixture, "attention rollout")):
        model = build()
        x = images(model)
        found, heat = explain.maps(model, x)
        assert found == name
        torch.testing.assert_close(heat, explain.rollout(model, x))
    model = cnn()
    x = images(model)
    found, heat = explain.maps(model, x)
    assert found == "Grad-CAM"
    assert torch.equal(heat, explain.grad_cam(model, x))


@pytest.mark.parametrize(("form", "sides"), [("cbam", [48, 24, 12]), ("published", [24, 12, 1])])
def test_spatial_gates_are_the_factors_of_the_features(form, sides):
    model = create_model("attention_cnn", width=16, attention=form).eval()
    x = images(model)
    found = explain.spatial_gates(model, x)
    assert [tuple(gates.shape) for gates in found] == [(3, side, side) for side in sides]
    features = x
    with torch.no_grad():
        for stage, gates in zip(model.stages, found, strict=True):
            for layer in stage:
                before, features = features, layer(features)
                if isinstance(layer, SpatialAttention):
                    torch.testing.assert_close(before * gates[:, None], features)


def test_the_half_that_is_named_is_covered():
    covered = explain.half_covered(torch.zeros(1, 1, 1, 4, dtype=torch.uint8))
    assert covered["left"].flatten().tolist() == [128, 128, 0, 0]
    assert covered["right"].flatten().tolist() == [0, 0, 128, 128]
    assert not covered["none"].any()


def test_routing_equals_the_top_two_probabilities_of_the_router():
    model = mixture()
    x, seen = images(model, 5), []
    model.eval().head.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    gates = explain.routing(model, x).numpy()
    router = model.head.experts.router
    logits = seen[0].double() @ router.weight.double().T + router.bias.double()
    p = np.exp(logits.detach().numpy())
    p[np.argsort(np.argsort(p)) < 2] = 0  # each image uses two of four experts
    np.testing.assert_allclose(gates, p / p.sum(1, keepdims=True), atol=1e-6)
    assert gates.dtype == np.float32


def test_expert_table_contains_the_shares_of_routes_of_each_class():
    gates = torch.tensor([[0.9, 0.1, 0], [0.5, 0, 0.5], [0, 0.2, 0.8]])
    table = explain.expert_table(gates, np.array([3, 3, 0]), EMOTIONS)
    assert list(table.index) == list(EMOTIONS)
    assert list(table.columns) == ["expert 0", "expert 1", "expert 2"]
    np.testing.assert_allclose(table.loc["happy"], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(table.loc["angry"], [0, 0.5, 0.5])
    assert table.drop(["happy", "angry"]).isna().all(axis=None)


def test_reliability_ends_with_the_prediction():
    model = grefel().train()
    x = images(model)
    found = explain.reliability(model, x)
    assert found.distances.shape == (3, 7, 3)
    assert not found.embedding.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(found.logarithms["final"], model.eval()(x))


@pytest.mark.parametrize(
    ("function", "build", "message"),
    [
        (explain.grad_cam, vit_patch, "use rollout"),
        (explain.grad_cam, mixture, "use rollout"),
        (explain.grad_cam, lambda: nn.Sequential(nn.Flatten(), nn.Linear(2304, 7)), "rollout"),
        (explain.rollout, cnn, "use grad_cam"),
        (attention_weights, cnn, "use grad_cam"),
        (explain.rollout, without_class_token, "class token"),
        (explain.spatial_gates, cnn, "use attention_cnn"),
        (explain.routing, grefel, "use vit_moe"),
        (explain.reliability, mixture, "use grefel"),
    ],
)
def test_a_method_that_does_not_suit_the_model_is_refused(function, build, message):
    model = build()
    x = images(model)
    with pytest.raises(InputError, match=message):
        function(model, x)
