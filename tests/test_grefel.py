"""Tests of GReFEL's head: its formula, independence of the batch, losses, and training."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from fer_lib.files import InputError
from fer_lib.models.grefel import GReFELHead

CLASSES = 7


def make(dim: int = 32, **options) -> GReFELHead:
    torch.manual_seed(0)
    return GReFELHead(dim, **{"num_classes": CLASSES, "anchors": 4} | options)


def draw(images: int = 6, tokens: int = 10, dim: int = 32) -> torch.Tensor:
    return torch.randn(images, tokens, dim, generator=torch.Generator().manual_seed(1))


SOFT = (2 * draw(1, 6, CLASSES)[0]).softmax(1)  # soft targets of six images


def confidence(q: np.ndarray) -> np.ndarray:
    return 1 - entropy(q, axis=-1) / np.log(q.shape[-1])


def weighted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([np.average(q, 0, confidence(np.array(q))) for q in zip(a, b, strict=True)])


@pytest.mark.parametrize("prefix", [1, 5])
def test_prediction_agrees_with_the_formula_of_the_paper(prefix):
    head = make(delta=0.2, temperature=0.5, prefix_tokens=prefix).eval()
    tokens = draw()
    with torch.no_grad():
        parts, logits = head.explanation(tokens), head(tokens)
        e = parts.embedding.double().numpy()
        hidden = head.primary(torch.from_numpy(e * e.shape[1] ** 0.5).float()).double().numpy()
        attended = head.attention(tokens)[:, prefix:].mean(1)
        t_a = softmax(head.attentive(attended).double().numpy(), -1)
    a = head.directions.detach().double().numpy()
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    d = np.linalg.norm(e[:, None, None] - a, axis=-1)
    s = softmax((-d / 0.2).reshape(len(e), -1), -1).reshape(d.shape)
    p, t_g = softmax(hidden / 0.5, -1), s.sum(-1)
    t = weighted(t_g, t_a)
    expected = {"p": p, "t_g": t_g, "t_a": t_a, "t": t, "final": weighted(p, t)}
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(parts.distances, d, atol=1e-5)
    sure = parts.confidences()
    for name, q in parts.probabilities().items():
        np.testing.assert_allclose(q, expected[name], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(sure[name], confidence(expected[name]), atol=1e-5, err_msg=name)
    np.testing.assert_allclose(logits.softmax(1), q, atol=1e-7)
    np.testing.assert_allclose(logits.exp().sum(1), 1, atol=1e-6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = head.explanation(tokens)
    for name in ("p", "t_g"):  # all but the attention is in float32
        assert torch.equal(mixed.logarithms[name], parts.logarithms[name])


@pytest.mark.parametrize("scale", [0, 1e-6, 1, 1e6])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("answer", [torch.eye(CLASSES)[:6], torch.full((6, 7), 1 / 7)])
def test_extreme_inputs_give_finite_losses_and_gradients(scale, bf16, answer):
    head = make().train()
    tokens = (draw() * scale).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = head(tokens)
        loss = F.cross_entropy(logits, answer) + sum(head.auxiliary_losses(answer).values())
    loss.backward()
    assert logits.dtype == torch.float32
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in [tokens, *head.parameters()])


def test_uniform_branches_give_the_uniform_distribution_and_finite_gradients():
    head, on_anchor = make(), torch.eye(16)[:1].requires_grad_()
    with torch.no_grad():
        for layer in (head.primary[-1], head.attentive[-1]):
            layer.weight.zero_(), layer.bias.zero_()
        head.directions.copy_(on_anchor.expand_as(head.directions))
    logits = head(draw())
    torch.testing.assert_close(logits.exp(), torch.full((6, CLASSES), 1 / CLASSES))
    (logits[:, 0].sum() + head.distances(on_anchor).sum()).backward()
    assert all(x.grad.isfinite().all() for x in (on_anchor, head.projection.weight))


def test_attention_mixes_only_tokens_of_the_same_image():
    head = make(prefix_tokens=2).eval()
    tokens = draw().requires_grad_()
    head.explanation(tokens).probabilities()["t_a"][0].square().sum().backward()
    assert (tokens.grad != 0).any(2).sum(1).tolist() == [10, 0, 0, 0, 0, 0]
    order = torch.cat([torch.arange(2), 2 + torch.randperm(8)])  # patches have no order
    with torch.no_grad():
        torch.testing.assert_close(head(tokens[:, order]), head(tokens), atol=1e-5, rtol=1e-4)


def test_the_classification_loss_alone_reaches_every_parameter_at_the_start():
    head = make(dim=384, anchors=10, num_classes=8).train()
    tokens = draw(64, 17, 384)
    F.cross_entropy(head(tokens), torch.arange(64) % 8).backward()
    norms = {name: p.grad.norm().item() for name, p in head.named_parameters()}
    assert min(norms.values()) > 1e-5, norms
    statistics = head.statistics()
    for name, value in head.explanation(tokens).confidences().items():
        torch.testing.assert_close(statistics[f"confidence_{name}"], value.detach().mean())
    sure = [statistics[f"confidence_{name}"].item() for name in ("p", "t_g", "t_a")]
    assert min(sure) > 1e-3
    assert max(sure) < 6 * min(sure)


def test_auxiliary_losses_reach_only_the_anchors_and_the_projection():
    head = make().train()
    both = {"directions", "projection.weight", "projection.bias"}
    for name, reached in (("anchor_spread", {"directions"}), ("centre", both)):
        head.zero_grad()
        head(draw())
        head.auxiliary_losses(SOFT)[name].backward()
        norms = {n: p.grad.norm() for n, p in head.named_parameters() if p.grad is not None}
        assert {n for n, norm in norms.items() if norm > 1e-4} == reached


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
@pytest.mark.parametrize("sign", [None, 1, -1])
def test_auxiliary_losses_are_bounded(scale, sign):
    head = make(num_classes=2, spread_weight=1.0, centre_weight=1.0).train()
    with torch.no_grad():
        if sign:  # anchors of the two classes coincide, or are opposite
            head.directions.copy_(head.directions[:1, :1].expand_as(head.directions))
            head.directions[1] *= sign
        for parameter in head.parameters():
            parameter.mul_(scale)
    head(draw() * scale)
    losses = head.auxiliary_losses(torch.eye(2)[torch.arange(6) % 2])
    assert set(losses) == {"anchor_spread", "centre"}
    assert -4 - 1e-5 <= losses["anchor_spread"] <= 4 + 1e-5
    assert 0 <= losses["centre"] <= 4
    if sign:
        assert losses["anchor_spread"].item() == pytest.approx(4 * sign, abs=1e-4)


def test_auxiliary_losses_agree_with_their_weighted_formulas():
    head = make(spread_weight=0.3, centre_weight=0.7, branch_weight=0.6).train()
    head(draw())
    parts = head.seen
    losses = head.auxiliary_losses(SOFT)
    a = head.anchors.detach()
    others = [(a[i], a[k]) for i in range(7) for k in range(7) if i != k]
    mean = np.mean([math.exp(4 * x @ y) for first, second in others for x in first for y in second])
    d = parts.distances.detach()
    centre = sum(SOFT[b, i] * d[b, i].min() ** 2 for b in range(6) for i in range(7)) / 6
    assert losses["anchor_spread"].item() == pytest.approx(0.3 * math.log(mean), abs=1e-5)
    assert losses["centre"].item() == pytest.approx(0.7 * centre.item(), abs=1e-5)
    each = [F.cross_entropy(parts.logarithms[name], SOFT) for name in ("p", "t_g", "t_a")]
    torch.testing.assert_close(losses["branches"], 0.2 * sum(each))
    copy.deepcopy(head)  # as the moving average does; fails if the module keeps a graph
    head.eval()(draw())
    with pytest.raises(RuntimeError, match="forward"):
        head.auxiliary_losses(SOFT)


def test_a_few_steps_move_anchors_to_their_class_and_away_from_others():
    head = make(dim=64).train()
    labels = torch.arange(42) % CLASSES
    answer, tokens = F.one_hot(labels).float(), draw(7, 5, 64)[labels] + 0.3 * draw(42, 5, 64)
    with torch.no_grad():
        head.directions.copy_(0.5 * head.directions + head.directions[0, 0])  # close together
    before, optimizer = head.anchors.detach(), torch.optim.AdamW([head.directions], lr=1e-2)
    values = []
    for _ in range(20):
        head(tokens)
        losses = head.auxiliary_losses(answer)
        values.append([losses["anchor_spread"].item() / 0.1, losses["centre"].item() / 0.1])
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (head.anchors - before).norm(dim=-1).mean() > 0.1
    assert values[-1][0] < values[0][0] - 0.5, values
    assert values[-1][1] < values[0][1] - 0.2, values


def clusters(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (images, 9, 32) around the centres of classes, which overlap, and labels."""
    centres = torch.randn(CLASSES, 32, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(seed)
    labels = torch.randint(CLASSES, (images,))
    image = centres[labels][:, None] + 0.8 * torch.randn(images, 1, 32)
    return image + torch.randn(images, 9, 32), labels


def test_head_learns_clusters_and_its_confidence_tells_right_from_wrong():
    head = make(dropout=0.1)
    tokens, labels = clusters(1024, seed=1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for part in torch.arange(100 * 64).remainder(1024).split(64):
        answer = F.one_hot(labels[part], CLASSES).float()
        loss = F.cross_entropy(head(tokens[part]), answer)
        (loss + sum(head.auxiliary_losses(answer).values())).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    tokens, labels = clusters(2000, seed=2)
    with torch.no_grad():
        parts = head.eval().explanation(tokens)
    right = parts.logarithms["final"].argmax(1) == labels
    assert right.float().mean() > 0.9
    c = parts.confidences()["final"]
    assert (c[right][:, None] > c[~right]).float().mean() > 0.7  # area under the ROC curve


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("heads", 5), ("heads", 0), ("anchors", 0), ("delta", 0.0), ("embedding", -1)),
        *(("temperature", 0), ("spread_weight", -1.0), ("branch_weight", -0.5)),
    ],
)
def test_impossible_sizes_are_refused(option, value):
    with pytest.raises(InputError, match=f"{option}.*{value}"):
        make(**{option: value})


def test_size_and_anchors_at_the_published_width():
    head = GReFELHead(768, num_classes=8)
    assert head.no_weight_decay() == {"directions"}
    anchors = head.anchors.detach().flatten(0, 1)
    assert anchors.shape == (80, 384)
    torch.testing.assert_close(anchors.norm(dim=1), torch.ones(80))
    assert torch.pdist(anchors).min() > 1
