"""Sparse experts: equal to computing all experts, at the cost of those chosen; their benchmark."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.models.moe import SparseExperts


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def dense(layer: SparseExperts, x: torch.Tensor) -> torch.Tensor:
    """Compute every expert for every image, then mask and weight their outputs."""
    p = layer.router(x).softmax(1)
    threshold = p.sort(1, descending=True).values[:, layer.top_k - 1 : layer.top_k]
    gates = torch.where(p >= threshold, p, 0)
    if layer.top_k > 1:
        gates = gates / gates.sum(1, keepdim=True)
    y = 0
    for e in range(p.shape[1]):
        hidden = F.gelu(x @ layer.weight1[e] + layer.bias1[e])
        y = y + gates[:, e : e + 1] * (hidden @ layer.weight2[e] + layer.bias2[e])
    return y


@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (5, 1), (3, 3), (1, 1)])
def test_sparse_experts_equal_a_dense_reference(experts, top_k):
    layer = SparseExperts(24, hidden=40, experts=experts, top_k=top_k)
    x = torch.randn(33, 24, requires_grad=True)
    weight = torch.randn(33, 24)
    inputs = [x, *layer.parameters()]
    y, expected = layer(x)[0], dense(layer, x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)
    ours = torch.autograd.grad((y * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_experts_start_like_linear_layers():
    layer = SparseExperts(64, hidden=256)
    for ours, linear in (
        ((layer.weight1, layer.bias1), nn.Linear(64, 256)),
        ((layer.weight2, layer.bias2), nn.Linear(256, 64)),
    ):
        for stacked, single in zip(ours, (linear.weight, linear.bias), strict=True):
            for one in stacked:
                assert one.std().item() == pytest.approx(single.std().item(), rel=0.25)
                assert one.abs().max().item() == pytest.approx(single.abs().max().item(), 0.1)


def test_gates_sum_to_one_and_train_the_router_even_with_one_expert_per_image():
    x = torch.randn(9, 24)
    torch.testing.assert_close(SparseExperts(24, hidden=8).route(x).gates.sum(1), torch.ones(9))
    single = SparseExperts(24, hidden=8, top_k=1)
    single(x)[0].square().sum().backward()
    assert single.router.weight.grad.abs().max() > 1e-4


def flops(layer: SparseExperts, x: torch.Tensor) -> int:
    """Return the FLOPs of forward and backward, without the router, whose cost is fixed."""
    with FlopCounterMode(display=False) as counter:
        layer(x)[0].sum().backward()
    return counter.get_total_flops() - 3 * 2 * x.shape[0] * layer.router.weight.numel()


def test_experts_that_are_not_chosen_cost_nothing():
    x = torch.randn(64, 24, requires_grad=True)
    one, every = (SparseExperts(24, hidden=40, experts=8, top_k=k) for k in (1, 8))
    assert flops(one, x) == 3 * 64 * 2 * (24 * 40 + 40 * 24)
    assert 8 * flops(one, x) == flops(every, x)


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched to the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


def test_a_larger_batch_takes_no_more_operations():
    counts = []
    for batch in (8, 256):
        layer = SparseExperts(24, hidden=40)
        with Operations() as operations:
            layer(torch.randn(batch, 24))[0].sum().backward()
        counts.append(operations.count)
    assert counts[0] == counts[1] > 50


def test_an_expert_without_images_has_a_gradient_of_zero_not_none():
    """DistributedDataParallel waits for the gradient of every parameter."""
    layer = SparseExperts(24, hidden=40)
    nn.init.zeros_(layer.router.weight)
    layer.router.bias.data = torch.tensor([9.0, 8.0, 0.0, 0.0])
    y, routing = layer(torch.randn(6, 24))
    assert routing.load.tolist() == [0.5, 0.5, 0, 0]
    y.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert layer.weight1.grad.flatten(1).any(1).tolist() == [True, True, False, False]


def test_benchmark_layers_agree_and_their_rates_are_printed(capsys):
    import experts

    experts.main(["--dim", "16", "--batch-size", "8", "--rounds", "1"])
    text = capsys.readouterr().out
    assert "commit" in text
    for number in (4, 16):
        assert f"| 2 of {number} experts, float32 |" in text
