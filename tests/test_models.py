"""All models: published sizes, independence of the batch; the two forms of the CNN's attention."""

import pytest
import torch
from torch import nn

from fer_lib.augment import Prepare
from fer_lib.files import InputError
from fer_lib.models import MODULES, create_model
from fer_lib.models.cnn import (
    ChannelAttention,
    MeanPool2d,
    OverChannels,
    OverPositions,
    SpatialAttention,
    TwoGateChannelAttention,
)
from fer_lib.models.moe import MultiHeadAttention
from fer_lib.recipes import recipe


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("baseline_cnn", {}, 404_359),
        ("attention_cnn", {}, 1_190_893),
        ("attention_cnn", {"attention": "published"}, 1_190_893),
        ("attention_cnn", {"attention": "none"}, 1_179_847),
        ("vit_patch", {}, 2_739_271),
        (
            "vit_patch",
            {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4},
            823_943,
        ),
        ("vit_cnn", {}, 2_767_495),
        ("vit_tiny", {}, 5_509_319),
        ("vit_mae", {}, 85_805_575),
        # The published model has 590,592 more, in the unused pooler of transformers' ViT.
        ("vit_moe", {}, 98_211_083 - 590_592),
        ("grefel", {}, 88_640_654),
    ],
)
def test_the_number_of_parameters_is_as_published(name, options, parameters):
    with torch.device("meta"):  # saves the time for random numbers
        model = create_model(name, **options).to_empty(device="cpu")
    assert sum(p.numel() for p in model.parameters()) == parameters
    size = {"vit_tiny": (1, 224, 224), "vit_mae": (3, 224, 224), "vit_moe": (3, 224, 224)}
    size["grefel"] = size["vit_moe"]
    assert model.pretrained_cfg["input_size"] == size.get(name, (1, 48, 48))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
        assert model(torch.zeros(2, *model.pretrained_cfg["input_size"])).shape == (2, 7)


def unmade(name: str, **options) -> nn.Module:
    """Build a model by its published recipe on the meta device, which takes no time."""
    with torch.device("meta"):
        return create_model(name, **recipe(name, "published").options | options)


def described(layer: nn.Module):
    """Return the sizes of a linear layer, the rate of dropout, or else the type of the layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.p if isinstance(layer, nn.Dropout) else type(layer)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (("baseline_cnn", "attention_cnn"), [0.5, (256, 128), nn.ReLU, 0.3, (128, 7)]),
        (("vit_patch", "vit_cnn"), [(192, 192), nn.GELU, 0.15, (192, 7)]),
        (("vit_tiny",), [(192, 256), nn.GELU, 0.4, (256, 128), nn.GELU, 0.3, (128, 7)]),
        (("vit_mae",), [nn.LayerNorm, (768, 7)]),
    ],
)
def test_a_head_has_the_published_layers(names, layers):
    for name in names:
        assert [described(layer) for layer in unmade(name).get_classifier()] == layers


SMALL_PATCHES = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "options", "tokens", "blocks", "heads", "hidden", "normalised"),
    [
        ("vit_patch", {}, 144, 6, 6, 768, ((0.5,), (0.5,))),
        ("vit_patch", SMALL_PATCHES, 36, 4, 4, 512, ((0.5,), (0.5,))),
        ("vit_cnn", {}, 144, 6, 6, 768, ((0.5,), (0.5,))),
        ("vit_tiny", {}, 196, 12, 3, 768, ((0.5,), (0.5,))),
        ("vit_mae", {}, 196, 12, 12, 3072, IMAGENET),
        ("vit_moe", {}, 196, 12, 12, 3072, ((0.5,) * 3, (0.5,) * 3)),
        ("grefel", {}, 196, 12, 12, 3072, ((0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_a_transformer_has_the_published_tokens_and_blocks(
    name, options, tokens, blocks, heads, hidden, normalised
):
    model = unmade(name, **options)
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]) == normalised
    vit = getattr(model, "backbone", model)
    assert vit.patch_embed.num_patches == tokens == vit.pos_embed.shape[1] - 1  # class token
    assert len(vit.blocks) == blocks
    assert isinstance(vit.norm, nn.LayerNorm)
    for block in vit.blocks:
        assert (block.attn.num_heads, block.mlp.fc1.out_features) == (heads, hidden)
        assert type(block.mlp.act) is nn.GELU
    first = vit.blocks[0].to_empty(device="cpu").eval()
    x = torch.randn(1, 2, vit.embed_dim)
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.fill_(name in ("norm1.bias", "norm2.bias"))
        assert torch.equal(first(x), x)  # the norms come before attention and MLP, not after


def test_the_rates_of_a_scratch_vit_reach_its_layers():
    model = unmade("vit_patch", dropout=0.2, drop_path=0.1)
    assert model.pos_drop.p == 0.2
    for block in model.blocks:
        assert block.attn.proj_drop.p == block.mlp.drop1.p == 0.2
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_the_tokens_of_a_convolutional_stem_are_in_the_order_of_rows():
    stem = create_model("vit_cnn").patch_embed.eval()
    x = torch.zeros(1, 1, 48, 48)
    dot = x.clone()
    dot[..., 5:7, 13:15] = 1  # in the second row, the fourth of 12 tokens
    with torch.no_grad():
        assert (stem(dot) - stem(x)).norm(dim=2).argmax() == 12 + 3


def test_the_heads_of_vit_moe_and_grefel_have_the_published_sizes():
    head = unmade("vit_moe").head
    assert type(head.attention) is MultiHeadAttention
    assert head.attention.num_heads == 12
    assert (head.experts.top_k, tuple(head.experts.weight1.shape)) == (2, (4, 768, 1536))
    head = unmade("grefel").head
    assert head.directions.shape[:2] == (7, 10)
    rates = [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout) and layer.p]
    assert rates == [0.15, 0.15]


def plain_cnn() -> nn.Sequential:
    """Build `baseline_cnn` as a plain sequence of the published layers."""
    layers = []
    for inputs, outputs, pool in (
        (1, 64, nn.MaxPool2d(2)),
        (64, 128, nn.MaxPool2d(2)),
        (128, 256, nn.AdaptiveAvgPool2d(1)),
    ):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [pool]
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(128, 7))


@pytest.mark.parametrize("training", [False, True])
def test_the_baseline_computes_the_same_as_the_published_layers(training):
    torch.manual_seed(0)
    model, plain = create_model("baseline_cnn"), plain_cnn()
    for values in model.state_dict().values():
        if values.is_floating_point():
            values.add_(0.1 * torch.randn_like(values))  # so that the norms have an effect
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    x, answers = torch.randn(4, 1, 48, 48), []
    for one in (model, plain):
        torch.manual_seed(1)  # for dropout
        answers.append(one.train(training)(x))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_a_prediction_depends_on_its_own_image_only(name):
    torch.manual_seed(0)
    options = recipe(name, "ours", "sample").options
    model = create_model(name, num_classes=8, **options).eval()
    x = torch.randn(6, 1, 48, 48)
    with torch.no_grad():
        whole = model(x)
        alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
    assert whole.shape == (6, 8)
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "gates"),
    [
        ("cbam", [ChannelAttention, SpatialAttention]),
        ("published", [TwoGateChannelAttention, SpatialAttention]),
        ("none", []),
    ],
)
def test_a_stage_of_the_attention_cnn_has_the_gates_of_its_form(form, gates):
    stages = unmade("attention_cnn", attention=form).stages
    for stage, pool in zip(stages, (nn.MaxPool2d, nn.MaxPool2d, MeanPool2d), strict=True):
        end = [pool, *gates] if form == "published" else [*gates, pool]
        layers = [type(layer) for layer in stage]
        assert layers.count(nn.Conv2d) == 2
        assert [layer for layer in layers if layer in end or "Attention" in layer.__name__] == end


@pytest.mark.parametrize("kind", [ChannelAttention, TwoGateChannelAttention])
def test_channel_gates_add_the_branches_of_mean_and_maximum(kind):
    torch.manual_seed(0)
    gate = kind(64, rd_ratio=1 / 16, rd_divisor=1)
    x = torch.randn(8, 64, 1, 1) + torch.randn(8, 64, 6, 6)
    mean, most = (
        gate.fc2(gate.fc1(pooled[:, :, None, None]).relu())
        for pooled in (x.mean((2, 3)), x.amax((2, 3)))
    )
    assert min(mean.abs().max(), (mean - most).abs().max()) > 0.05  # both branches matter
    one = kind is ChannelAttention
    gates = (mean + most).sigmoid() if one else mean.sigmoid() + most.sigmoid()
    torch.testing.assert_close(gate(x), x * gates)


def test_spatial_gates_are_of_the_mean_and_the_maximum_of_the_channels():
    torch.manual_seed(0)
    gate, x = SpatialAttention(), torch.randn(2, 3, 9, 9)
    both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    torch.testing.assert_close(gate(x), x * gate.conv(both).sigmoid())


def test_published_gates_reach_two_and_corrected_ones_one():
    torch.manual_seed(0)
    x = torch.rand(4, 64, 12, 12) + 1
    for model, low, high in (
        (create_model("attention_cnn", attention="published"), 0, 2),
        (create_model("attention_cnn"), 0, 1),
    ):
        gate = next(m for m in model.modules() if type(m).__name__.endswith("ChannelAttention"))
        with torch.no_grad():
            gate.fc2.weight.fill_(5.0)
            gate.fc1.weight.fill_(5.0)
            ratio = gate(x) / x
        assert low < ratio.max() <= high + 1e-5
        assert ratio.max() > high - 0.01


def test_weight_init_jax_is_xavier_initialisation():
    narrow, wide = (
        create_model("vit_patch", embed_dim=128, num_heads=4, weight_init=way)
        for way in ("", "jax")
    )
    deviation = lambda model: model.blocks[0].mlp.fc1.weight.std().item()
    assert deviation(narrow) == pytest.approx(0.02, rel=0.05)
    assert deviation(wide) == pytest.approx((2 / (128 + 512)) ** 0.5, rel=0.05)
    for model in (narrow, wide):
        assert model.head[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("name", ["baseline_cnn", "attention_cnn", "vit_patch", "vit_cnn"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_three_channels_takes_grey_and_colour(name, channels):
    model = create_model(name, in_chans=3)
    prepare = Prepare(model.pretrained_cfg, torch.device("cpu"))
    x = prepare(torch.zeros(2, channels, 48, 48, dtype=torch.uint8))
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize(("attention", "positions"), [("published", 1), ("cbam", 144)])
def test_last_spatial_attention_sees_more_than_one_position_only_when_corrected(
    attention, positions
):
    model = create_model("attention_cnn", attention=attention).eval()
    seen = []
    last = [m for m in model.modules() if isinstance(m, SpatialAttention)][-1]
    last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[2:].numel()))
    model(torch.zeros(1, 1, 48, 48))
    assert seen == [positions]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {}, "unknown"),
        ("baseline_cnn", {"depth": 3}, "does not take"),
        ("attention_cnn", {"attention": "se"}, "cbam, published or none"),
        ("vit_patch", {"weight_init": "moco"}, 'use "" or jax'),
        ("vit_patch", {"drop_path": 2}, "drop_path must be"),
        ("vit_patch", {"patch_size": 0}, "does not take these options"),
        ("baseline_cnn", {"width": 0}, "width must be 1 or more"),
        ("vit_tiny", {"img_size": 10}, "must be a multiple of the patch size 16: use 16"),
        ("vit_moe", {"img_size": 100}, "patch size 16: use 96 or 112"),
        ("vit_tiny", {"in_chans": 2}, "1 .grey. or 3 .RGB."),
        ("vit_moe", {"expert_ratio": 0}, "does not take these options"),
        ("grefel", {"dropout": 3}, "does not take these options"),
        ("vit_tiny", {"pretrained": "none.safetensors"}, "none.safetensors cannot be read"),
        ("vit_patch", {"pretrained": True}, "has no pretrained weights"),
        ("vit_moe", {"backbone": "vit_none"}, "'vit_none' is unknown"),
        ("vit_mae", {"backbone": "resnet18"}, "'resnet18' is unknown"),
        ("grefel", {"backbone": "vit_base_patch16_siglip_224"}, "no class token"),
        *(
            ("vit_moe", {"backbone_options": {"depth": 1} | option}, 'add "final_norm": true')
            for option in ({"global_pool": "avg"}, {"final_norm": False})
        ),
        ("vit_patch", {"patch_size": 5}, "patch_size=5"),
        ("vit_cnn", {"patch_size": 8}, "patches of 4"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize("name", ["vit_patch", "vit_cnn"])
def test_the_configuration_of_a_scratch_vit_has_its_input_size(name):
    model = create_model(name, img_size=32, in_chans=3, depth=1)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert create_model(name, depth=1).pretrained_cfg["input_size"] == (1, 48, 48)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pool", [OverChannels, OverPositions])
def test_the_gradients_of_mean_and_maximum_pooling_are_correct(pool, layout):
    x = torch.randn(2, 3, 4, 5, dtype=torch.double).contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(pool.apply, x.requires_grad_())


def test_equal_maxima_over_channels_share_the_gradient():
    x = torch.ones(1, 4, 1, 1, requires_grad=True)
    OverChannels.apply(x)[:, 1].sum().backward()
    assert x.grad.flatten().tolist() == [0.25] * 4
