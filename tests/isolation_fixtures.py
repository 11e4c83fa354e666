"""Fixtures for all tests: a temporary home, and no use of the internet."""

import ipaddress
import socket

import pytest


def set_home(patch: pytest.MonkeyPatch, folder) -> None:
    """Use a folder for `data/`, `runs/` and kagglehub's downloads."""
    patch.setenv("FER_HOME", str(folder))
    patch.setenv("KAGGLEHUB_CACHE", str(folder / "kagglehub"))


@pytest.fixture(scope="session", autouse=True)
def shared_home(tmp_path_factory):
    """Use a temporary home for the fixtures that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        set_home(patch, tmp_path_factory.mktemp("shared_home"))
        yield


@pytest.fixture(autouse=True)
def fer_home(tmp_path_factory, monkeypatch):
    """Use a temporary home of its own for each test; it is not `tmp_path`."""
    folder = tmp_path_factory.mktemp("home")
    set_home(monkeypatch, folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Find no address of another host, as if this machine were offline.

    Processes that a test starts are not kept off the internet.
    """
    find = socket.getaddrinfo

    def find_here(host, *arguments, **named):
        if not is_here(host):
            raise socket.gaierror(socket.EAI_NONAME, f"the tests do not ask for {host}")
        return find(host, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):  # may be numbers, which pass
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        patch.setattr(socket, "getaddrinfo", find_here)
        yield


def is_here(host: str | bytes | None) -> bool:
    """Return whether a host is this machine or a numeric address, which needs no server."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
