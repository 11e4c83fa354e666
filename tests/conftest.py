"""Every test has a home of its own, so that nothing lands in the checkout."""

import numpy as np
import pytest

from fer_lib.data import load_faces
from fer_lib.files import InputError


@pytest.fixture(autouse=True)
def fer_home(tmp_path_factory, monkeypatch):
    """Point `data/`, `runs/` and kagglehub's downloads into a temporary folder, not `tmp_path`."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FER_HOME", str(folder))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(folder / "kagglehub"))
    return folder


@pytest.fixture
def refused(fer_home):
    """Load something bad; return the one sentence, having checked that nothing was written."""

    def load(dataset, path):
        before = sorted(fer_home.rglob("*"))
        with pytest.raises(InputError) as caught:
            load_faces(dataset, path, say=lambda line: None)
        assert sorted(fer_home.rglob("*")) == before
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        return message

    return load


@pytest.fixture(scope="session")
def smooth_noise():
    """A function that draws blotches of a few pixels, unlike each other."""

    def draw(n: int, side: int = 48, channels: int = 1) -> np.ndarray:
        """(n, channels, side, side) uint8."""
        rng = np.random.default_rng(0)
        coarse = rng.integers(40, 200, (n, channels, side // 4, side // 4))
        fine = rng.integers(-15, 16, (n, channels, side, side))
        return (coarse.repeat(4, 2).repeat(4, 3) + fine).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def fitted():
    """A function that trains a model for a few steps, so that it tells drawn faces apart."""
    import torch

    from fer_lib.augment import Prepare
    from fer_lib.data.drawing import draw

    def fit(model: torch.nn.Module) -> torch.nn.Module:
        torch.manual_seed(0)
        labels = np.arange(42) % 7
        x = Prepare(model.pretrained_cfg)(torch.from_numpy(draw(labels, 0, rough=0.5)))
        targets = torch.eye(7)[labels]
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 0.5
        model.train()
        for _ in range(15):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), targets)
            if hasattr(model, "auxiliary_losses"):
                loss = sum(model.auxiliary_losses(targets).values(), loss)
            loss.backward()
            optimizer.step()
        return model.eval()

    return fit
