"""The folder of data and runs, with and without FER_HOME."""

from pathlib import Path

import pytest

from fer_lib import files
from fer_lib.files import InputError, home, replacing


@pytest.fixture
def no_home(monkeypatch):
    """Unset the environment variable that chooses the folder."""
    monkeypatch.delenv("FER_HOME")


def test_the_variable_chooses_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("FER_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"


def test_a_relative_home_is_refused_with_the_full_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_HOME", "here")
    with pytest.raises(InputError, match=f"^FER_HOME=here .* set it to {tmp_path / 'here'}$"):
        home()


def test_an_empty_variable_is_as_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_HOME", "")
    assert home() == Path(files.__file__).resolve().parent.parent


@pytest.mark.usefixtures("no_home")
def test_the_home_is_the_checkout_or_for_a_package_the_current_folder(monkeypatch, tmp_path):
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(files, "__file__", str(checkout / "fer_lib" / "files.py"))
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    assert home() == checkout


def test_two_writers_of_one_file_do_not_mix_what_they_write(tmp_path):
    """As of two containers on one volume, which may have the same process id."""
    path = tmp_path / "file.txt"
    with replacing(path) as first:
        first.write_text("a" * 9)
        with replacing(path) as second:
            second.write_text("b")
        assert path.read_text() == "b"
    assert path.read_text() == "a" * 9
    assert list(tmp_path.iterdir()) == [path]
