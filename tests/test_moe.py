"""The head of vit_moe: its attention, auxiliary losses and statistics."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.files import InputError
from fer_lib.models.moe import (
    ATTENTIONS,
    LatentAttention,
    MixtureHead,
    MultiHeadAttention,
    PerceiverAttention,
    Routing,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def head(**options):
    return MixtureHead(48, num_classes=7, **options)


def routed(logits: torch.Tensor, top_k: int) -> MixtureHead:
    """Return a head whose last forward pass had these router logits (B, E)."""
    model = head(experts=logits.shape[1], top_k=top_k, balance=0.5, z=0.25)
    gates, chosen = logits.softmax(1).topk(top_k)
    model.routing = Routing(logits, chosen, gates)
    return model


def test_the_class_token_passes_only_the_norms_if_attention_and_experts_add_nothing():
    model = head()
    for parameter in (*model.attention.out_proj.parameters(), model.experts.weight2):
        nn.init.zeros_(parameter)
    nn.init.zeros_(model.experts.bias2)
    for norm in (model.norm_attention, model.norm, model.norm_experts):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    tokens = torch.randn(4, 5, 48)
    x = model.norm_experts(model.norm(model.norm_attention(tokens[:, 0])))
    torch.testing.assert_close(model(tokens), model.classifier(x))


def test_published_attention_equals_the_class_token_row_and_costs_less():
    tokens = torch.randn(3, 20, 48)
    full = nn.MultiheadAttention(48, 12, batch_first=True)
    nn.init.normal_(full.in_proj_bias)
    row = MultiHeadAttention(48, heads=12)
    row.load_state_dict(full.state_dict())
    with FlopCounterMode(display=False) as whole:
        expected = full(tokens, tokens, tokens, need_weights=False)[0][:, 0]
    with FlopCounterMode(display=False) as part:
        answer = row(tokens)
    torch.testing.assert_close(answer, expected)
    assert part.get_total_flops() < 0.6 * whole.get_total_flops()


def test_the_norms_of_latents_are_the_same_in_every_precision():
    norms = [
        part for part in LatentAttention(48, heads=4).modules() if isinstance(part, nn.RMSNorm)
    ]
    assert [norm.eps for norm in norms] == [1e-6, 1e-6]


def test_latent_attention_equals_full_attention_over_rebuilt_keys_and_values():
    tokens = torch.randn(3, 20, 48)
    attention = LatentAttention(48, heads=4)
    q = attention.query(tokens)
    latent = attention.latent(tokens)
    assert q.shape == (3, 20, 48)
    assert latent.shape == (3, 20, 12)
    k, v = attention.key_value(latent).chunk(2, 2)
    heads = [
        (q[..., at] @ k[..., at].mT / 12**0.5).softmax(2) @ v[..., at]
        for at in (slice(start, start + 12) for start in range(0, 48, 12))
    ]
    torch.testing.assert_close(attention(tokens), attention.out(torch.cat(heads, 2))[:, 0])


def test_the_latents_of_a_perceiver_are_added_to_what_they_read():
    attention, tokens = PerceiverAttention(48, heads=4), torch.randn(3, 20, 48)
    nn.init.zeros_(attention.read.out_proj.weight)  # nothing is read; the bias is 0
    latents = attention.norm(attention.latents).expand(3, -1, -1)
    expected = attention.write(tokens[:, :1], latents, latents)[0][:, 0]
    torch.testing.assert_close(attention(tokens), expected)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_parameter_and_every_token_has_a_gradient(attention):
    model = head(attention=attention)
    tokens = torch.randn(6, 10, 48, requires_grad=True)
    logits = model(tokens)
    assert logits.shape == (6, 7)
    targets = torch.eye(7)[:6]
    loss = F.cross_entropy(logits, targets) + sum(model.auxiliary_losses(targets).values())
    loss.backward()
    for name, parameter in [*model.named_parameters(), ("tokens", tokens)]:
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert tokens.grad.any(2).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_prediction_depends_only_on_its_own_image(attention):
    model = head(attention=attention).eval()
    tokens = torch.randn(6, 10, 48)
    alone = torch.cat([model(tokens[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(model(tokens), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
def test_load_balance_loss_for_even_and_collapsed_loads(top_k):
    even = 3 * torch.cat([torch.eye(4), torch.eye(4).roll(1, 1) + torch.eye(4).roll(2, 1)])
    even = even[:4] if top_k == 1 else even[4:]
    collapsed = torch.zeros(5, 4)
    collapsed[:, :top_k] = 50
    for logits, expected in ((even, 0.5), (collapsed, 0.5 * 4 / top_k)):
        value = routed(logits, top_k).auxiliary_losses(None)["load_balance"]
        assert value.item() == pytest.approx(expected, rel=1e-5)


def test_a_router_that_ignores_the_image_has_the_least_load_balance_when_uniform():
    uneven = [
        routed(torch.randn(1, 4).expand(6, 4), 2).auxiliary_losses(None)["load_balance"].item()
        for _ in range(50)
    ]
    assert 0.5 < min(uneven) < 0.65
    assert max(uneven) < 0.5 * 4 / 2


def test_router_z_is_the_mean_squared_logsumexp():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    sums = [math.log(math.e + math.e**2 + math.e**3), math.log(3)]
    expected = 0.25 * sum(s**2 for s in sums) / 2
    value = routed(logits, 1).auxiliary_losses(None)["router_z"]
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["load_balance", "router_z"])
def test_each_auxiliary_loss_has_gradients_for_the_router_and_the_tokens(name):
    model = head()
    tokens = torch.randn(6, 5, 48, requires_grad=True)
    model(tokens)
    model.auxiliary_losses(None)[name].backward()
    for value in (*model.experts.router.parameters(), tokens):
        assert value.grad.isfinite().all()
        assert value.grad.any()


def test_load_balancing_evens_out_a_collapsed_router():
    model = head(balance=1.0)
    model.experts.router.bias.data = torch.tensor([2.0, 1.5, 0.0, -0.5])
    tokens = torch.randn(128, 5, 48)
    optimizer = torch.optim.SGD(model.experts.router.parameters(), lr=0.3)
    losses, largest = [], []
    for _ in range(30):
        model(tokens)
        loss = model.auxiliary_losses(None)["load_balance"]
        losses.append(loss.item())
        largest.append(max(model.routing.load).item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert largest[0] > 0.4
    assert largest[-1] < 0.32
    assert losses[-1] < 1.03 < 1.3 < losses[0]


def test_statistics_of_known_routings():
    certain = routed(40 * torch.eye(4)[[0, 1, 0, 1]], 1).statistics()
    assert [certain[f"load_{i}"].item() for i in range(4)] == [0.5, 0.5, 0, 0]
    assert certain["routing_entropy"].item() == pytest.approx(math.log(2), rel=1e-4)
    assert certain["routing_entropy_image"].item() == pytest.approx(0, abs=1e-4)
    undecided = routed(torch.zeros(3, 4, requires_grad=True), 2).statistics()
    for name in ("routing_entropy", "routing_entropy_image"):
        assert undecided[name].item() == pytest.approx(math.log(4), rel=1e-6)
    for value in undecided.values():
        assert value.shape == ()
        assert not value.requires_grad


def test_losses_and_statistics_need_a_forward_pass_in_training_mode():
    model = head().eval()
    model(torch.randn(2, 5, 48))
    for ask in (lambda: model.auxiliary_losses(torch.eye(7)[:2]), model.statistics):
        with pytest.raises(RuntimeError, match="training mode first"):
            ask()


def test_evaluation_does_not_change_the_routing_of_training():
    model = head()
    model(torch.randn(8, 5, 48))
    kept = model.routing
    model.eval()(torch.randn(3, 5, 48))
    assert model.routing is kept


def test_a_model_can_be_copied_and_pickled_between_steps():
    model = head()
    tokens = torch.randn(2, 5, 48)
    logits = model(tokens)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert other.routing is None
        torch.testing.assert_close(other(tokens), logits)
    sum(model.auxiliary_losses(None).values()).backward()  # the original keeps its routing


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_bf16_autocast_routes_in_float32(attention, recwarn):
    model = head(attention=attention)
    tokens = torch.randn(16, 10, 48)
    features = torch.randn(16, 48)
    logits = model.experts.route(features).logits
    with torch.autocast("cpu", torch.bfloat16):
        answer = model(tokens.bfloat16())  # the dtype that the backbone's norm returns on a CPU
        assert torch.equal(model.experts.route(features).logits, logits)
        losses = model.auxiliary_losses(None)
    assert answer.dtype == torch.bfloat16
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert model.routing.logits.dtype == model.routing.gates.dtype == torch.float32
    (answer.float().square().mean() + sum(losses.values())).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in model.parameters())
    assert not [str(warning.message) for warning in recwarn]


def test_biases_and_learned_latents_have_no_weight_decay():
    model = head(attention="perceiver")
    undecayed = model.no_weight_decay()
    assert undecayed == {"experts.bias1", "experts.bias2", "attention.latents"}
    assert undecayed <= dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "linear"}, "'linear' is unknown: use mha, mla, perceiver"),
        ({"top_k": 5}, "top_k=5 must be a whole number from 1 to experts=4"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"balance": -1.0}, "balance=-1.0 and z=0.001 of vit_moe must be 0 or more"),
        ({"heads": 7}, "heads=7 does not divide the 48 features"),
        ({"heads": 0}, "heads=0"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        head(**options)
