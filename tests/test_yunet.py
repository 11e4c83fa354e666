"""The detector's file: the cache, the download, and the cascade in its place."""

import hashlib
import io
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import certifi
import cv2
import pytest

from fer_lib.files import InputError
from fer_lib.predict import yunet
from fer_lib.predict.faces import Cascade, make_detector

pytestmark = pytest.mark.usefixtures("no_detector_asked_for")


def test_a_folder_that_the_user_may_not_read_is_named(monkeypatch, fer_home):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    for question in ("exists", "is_file"):
        monkeypatch.setattr(Path, question, denied)
    with pytest.raises(InputError, match=r"closed/a\.onnx cannot be read \(Permission denied\)"):
        make_detector("closed/a.onnx")
    said = []
    assert isinstance(make_detector(say=said.append), Cascade)
    assert f"{fer_home / 'cache' / yunet.YUNET} cannot be read (Permission denied)" in said[0]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local stand-in for both YuNet servers: its folder, the requested paths, and the file."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(yunet, "YUNET_URLS", (f"{address}/first", f"{address}/second"))
    content = b"stands for YuNet's file"
    monkeypatch.setattr(yunet, "YUNET_SHA256", hashlib.sha256(content).hexdigest())
    yield folder, asked, content
    server.shutdown()
    server.server_close()


def test_yunet_is_fetched_once_from_the_first_server_that_has_it(server, fer_home):
    folder, asked, content = server
    (folder / "second").write_bytes(content)
    said = []
    path = yunet.fetch_yunet(said.append)
    assert path == fer_home / "cache" / yunet.YUNET
    assert path.read_bytes() == content
    assert "/second" in said[0]
    number = len(asked)
    assert yunet.fetch_yunet(said.append) == path
    assert len(asked) == number
    assert len(said) == 1


def test_a_download_with_another_sha256_is_refused(server, fer_home):
    folder, _, content = server
    (folder / "first").write_bytes(content[:-1])
    with pytest.raises(InputError, match="another SHA-256"):
        yunet.fetch_yunet()
    assert not list(fer_home.rglob("*.onnx"))


def test_a_damaged_file_in_the_cache_is_fetched_again(server, fer_home):
    folder, _, content = server
    (fer_home / "cache").mkdir()
    (fer_home / "cache" / yunet.YUNET).write_bytes(b"half")
    (folder / "first").write_bytes(content)
    assert yunet.fetch_yunet(lambda _: None).read_bytes() == content


def test_the_cascade_is_used_and_reported_if_yunet_cannot_be_fetched(server):
    said = []
    detector = make_detector(say=said.append)
    assert isinstance(detector, Cascade)
    assert "could not be fetched" in said[0]
    assert said[0].endswith("use the Haar cascade with --detector haar or FER_DETECTOR=haar")
    assert said[1] == f"faces are found by {detector.name}"
    with pytest.raises(InputError, match="could not be fetched"):
        make_detector("yunet")


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    for name in ("FER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    said = []
    assert isinstance(make_detector(say=said.append), Cascade)
    assert said[0].endswith("this user has no home folder: set FER_HOME or HOME")


def test_the_certificates_of_certifi_are_trusted_besides_those_of_the_system(monkeypatch):
    contexts = []

    def refuse(*_, context, **__):
        contexts.append(context)
        raise OSError("offline")

    def create():
        return SimpleNamespace(files=["of the system"], load_verify_locations=load)

    load = lambda file: added.append(file)
    added = []
    monkeypatch.setattr(yunet.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(yunet.ssl, "create_default_context", create)
    with pytest.raises(InputError, match="offline"):
        yunet.fetch_yunet()
    assert added == [certifi.where()] * 2
    assert [context.files for context in contexts] == [["of the system"]] * 2


def test_a_download_reads_at_most_one_byte_more_than_the_file_has(monkeypatch):
    asked = []

    class Endless(io.BytesIO):
        def read(self, amount):
            asked.append(amount)
            return b"a" * amount

    monkeypatch.setattr(yunet.urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(InputError, match="another SHA-256"):
        yunet.fetch_yunet()
    assert asked == [yunet.YUNET_BYTES + 1] * 2


def test_a_server_that_does_not_speak_http_counts_as_unavailable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            for _ in yunet.YUNET_URLS:
                with listening.accept()[0] as asking:
                    asking.recv(4096)
                    asking.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setattr(yunet, "YUNET_URLS", (address, address))
        with pytest.raises(InputError, match="nonsense"):
            yunet.fetch_yunet()
        thread.join(5)


def test_yunet_is_stored_elsewhere_if_the_cache_cannot_be_written(server, fer_home):
    folder, _, content = server
    (folder / "first").write_bytes(content)
    (fer_home / "cache").touch()  # a file, which even root cannot use as a folder
    said = []
    path = yunet.fetch_yunet(said.append)
    assert path.read_bytes() == content
    assert f"{fer_home / 'cache' / yunet.YUNET} cannot be written" in said[0]
    assert f"put {path} there" in said[0]


@pytest.mark.parametrize("value", ["0", ""])
def test_hf_hub_offline_0_or_empty_allows_the_download(server, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    make_detector(say=lambda _: None)
    assert server[1]


def test_nothing_is_requested_offline(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = []
    make_detector(say=said.append)
    assert server[1] == []
    assert "HF_HUB_OFFLINE" in said[0]


def test_the_chosen_detector_is_used_without_a_download(server, monkeypatch):
    assert isinstance(make_detector("haar"), Cascade)
    monkeypatch.setenv("FER_DETECTOR", "haar")
    assert isinstance(make_detector(), Cascade)
    assert server[1] == []


def test_opencv_without_cascades_is_refused_with_a_remedy(server, monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(InputError, match="opencv-python-headless<5"):
        make_detector(say=lambda _: None)
