"""Grad-CAM: where a class is found, on which feature map, without parameter gradients."""

import pytest
import torch
from torch import nn

from fer_lib import explain
from fer_lib.models import create_model


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class BrightOrDark(nn.Module):
    """Scores bright pixels as class 0, dark ones as class 1; ReLU in place as in our networks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)

    def forward(self, x):
        return self.act(self.conv(x)).mean((2, 3))


def quadrant():
    """An image (1, 1, 8, 8) that is bright in the upper right quadrant and dark elsewhere."""
    x = -torch.ones(1, 1, 8, 8)
    x[..., :4, 4:] = 5
    return x


def test_grad_cam_locates_the_class():
    model, x = BrightOrDark(), quadrant()
    bright = (x[:, 0] > 0).float()
    torch.testing.assert_close(explain.grad_cam(model, x, 0), bright * 5 / 64)
    torch.testing.assert_close(explain.grad_cam(model, x, 1), (1 - bright) / 64)
    torch.testing.assert_close(explain.grad_cam(model, x), bright * 5 / 64)
    each = explain.grad_cam(model, x.expand(2, -1, -1, -1), torch.tensor([1, 0]))
    torch.testing.assert_close(each, torch.cat([(1 - bright) / 64, bright * 5 / 64]))


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("baseline_cnn", {}, "stages.2.2"),
        ("attention_cnn", {}, "stages.2.7"),
        ("attention_cnn", {"attention": "published"}, "stages.2.5"),
        ("attention_cnn", {"attention": "none"}, "stages.2.5"),
    ],
)
def test_grad_cam_uses_the_last_map_before_the_pooling(name, options, layer):
    model = create_model(name, width=16, **options)
    x, greatest = torch.randn(3, 1, 48, 48), 0.0
    assert explain.feature_maps(model, x)[-1] == layer
    for target in range(7):
        found = explain.grad_cam(model, x, target)
        assert found.shape == (3, 12, 12)
        assert found.dtype == torch.float32
        assert (found >= 0).all()
        greatest = max(greatest, found.max().item())
        alone = explain.grad_cam(model, x[1:2], target)
        torch.testing.assert_close(found[1:2], alone, atol=1e-6, rtol=1e-4)
    assert greatest > 0


def test_grad_cam_works_without_gradients_of_the_parameters():
    model, x = create_model("baseline_cnn", width=4), torch.randn(3, 1, 48, 48)
    wanted = explain.grad_cam(model, x)
    with torch.inference_mode():
        assert torch.equal(explain.grad_cam(model, x.clone()), wanted)
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(explain.grad_cam(model, x), wanted)
