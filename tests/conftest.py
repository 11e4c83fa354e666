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
