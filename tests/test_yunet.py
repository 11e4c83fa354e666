"""The detector's file: the cache, the download, and the cascade in its place."""

import hashlib
from pathlib import Path

import cv2
import huggingface_hub
import pytest

from fer_lib.files import InputError
from fer_lib.predict import faces
from fer_lib.predict.faces import Cascade, fetch_yunet, make_detector

pytestmark = pytest.mark.usefixtures("no_detector_asked_for")


class Hub:
    """Stands in for Hugging Face: `cached` and `served` are the file's content there, or None."""

    def __init__(self, folder: Path):
        self.file, self.asked = folder / faces.YUNET, []
        self.cached: bytes | None = None
        self.served: bytes | None = None

    def try_to_load_from_cache(self, *_):
        if self.cached is not None:
            self.file.write_bytes(self.cached)
        return str(self.file) if self.file.exists() else None

    def get_hf_file_metadata(self, url, **_):
        self.asked.append(url)
        if self.served is None:
            raise OSError("Cannot reach huggingface.co")

    def hf_hub_download(self, *_):
        self.file.write_bytes(self.served)
        return str(self.file)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stub = Hub(tmp_path)
    for name in ("try_to_load_from_cache", "get_hf_file_metadata", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(stub, name))
    monkeypatch.setattr(faces, "YUNET_SHA256", hashlib.sha256(b"YuNet").hexdigest())
    return stub


def test_yunet_is_fetched_once(hub):
    hub.served = b"YuNet"
    assert fetch_yunet().read_bytes() == b"YuNet"
    assert fetch_yunet() == hub.file
    (url,) = hub.asked
    assert url.startswith("https://huggingface.co/opencv/face_detection_yunet/resolve/main/")


def test_yunet_is_fetched_although_it_was_once_missing_on_the_server(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: object())
    hub.served = b"YuNet"
    assert fetch_yunet().read_bytes() == b"YuNet"


@pytest.mark.parametrize("place", ["cached", "served"])
def test_a_file_with_another_sha256_is_refused(hub, place):
    setattr(hub, place, b"half")
    with pytest.raises(InputError, match=rf"\({hub.file} has another SHA-256: delete it\)"):
        fetch_yunet()


def test_the_cascade_is_used_and_reported_if_yunet_cannot_be_fetched(hub):
    said = []
    detector = make_detector(say=said.append)
    assert isinstance(detector, Cascade)
    assert said[0].startswith("YuNet could not be fetched (Cannot reach huggingface.co): get ")
    assert said[0].endswith("use the Haar cascade with --detector haar or FER_DETECTOR=haar")
    assert said[1] == f"faces are found by {detector.name}"
    with pytest.raises(InputError, match="could not be fetched"):
        make_detector("yunet")


def test_the_chosen_detector_is_used_without_a_download(hub, monkeypatch):
    assert isinstance(make_detector("haar"), Cascade)
    monkeypatch.setenv("FER_DETECTOR", "haar")
    assert isinstance(make_detector(), Cascade)
    monkeypatch.setenv("FER_DETECTOR", "missing.onnx")
    assert isinstance(make_detector("haar"), Cascade)  # what is given comes before the variable
    assert hub.asked == []


def test_a_folder_that_the_user_may_not_read_is_named(monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    for question in ("exists", "is_file"):
        monkeypatch.setattr(Path, question, denied)
    with pytest.raises(InputError, match=r"closed/a\.onnx cannot be read \(Permission denied\)"):
        make_detector("closed/a.onnx")


def test_opencv_without_cascades_is_refused_with_a_remedy(hub, monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(InputError, match="opencv-python-headless<5"):
        make_detector(say=lambda _: None)
