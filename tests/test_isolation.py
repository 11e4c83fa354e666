"""Tests see neither this machine's own data nor the internet."""

import socket

import pytest

from fer_lib.files import home


@pytest.fixture(scope="module")
def home_of_the_module():
    return home()


def test_shared_fixtures_and_tests_have_temporary_homes(home_of_the_module, tmp_path_factory):
    for folder in (home_of_the_module, home()):
        assert folder.is_relative_to(tmp_path_factory.getbasetemp().resolve())
    assert home() != home_of_the_module


def test_only_hosts_of_this_machine_have_an_address():
    for host in ("localhost", "127.0.0.1", None):
        assert socket.getaddrinfo(host, 80)
    with pytest.raises(socket.gaierror, match=r"the tests do not ask for example\.org"):
        socket.getaddrinfo("example.org", 80)
