"""Every test has a home of its own, so that nothing lands in the checkout."""

import pytest


@pytest.fixture(autouse=True)
def fer_home(tmp_path, monkeypatch):
    """Point `data/`, `runs/` and kagglehub's downloads into the test's temporary folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("FER_HOME", str(folder))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    return folder
