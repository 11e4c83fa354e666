"""The file of the face detector YuNet: where it is, or a download of 0.2 MB."""

import hashlib
import os
import ssl
import tempfile
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import certifi

from fer_lib.files import InputError, cache, exists, replacing, sha256

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_URLS = (
    f"https://huggingface.co/opencv/face_detection_yunet/resolve/main/{YUNET}",
    f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}",
)
"""MIT licence."""
YUNET_BYTES = 232_589

SECONDS = 5  # without an answer after which a download is given up


def fetch_yunet(say: Callable[[str], None] = print) -> Path:
    """Return the path of YuNet's file in the cache; download the file if it is not there.

    Nothing is downloaded if the environment variable HF_HUB_OFFLINE is 1, on, yes or true. If the
    cache cannot be written to, the file is in a temporary folder.

    Raises:
        InputError: the file cannot be downloaded, the download has another SHA-256, or the user may
            not read the folder of the cache.
    """
    path = cache() / YUNET
    if exists(path) and sha256(path) == YUNET_SHA256:
        return path
    reasons = []
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    for url in YUNET_URLS if not offline else ():
        try:
            with urllib.request.urlopen(url, timeout=SECONDS, context=certificates()) as answer:
                data = answer.read(YUNET_BYTES + 1)
        except (OSError, HTTPException) as error:
            reasons.append(f"{url.split('/')[2]}: {getattr(error, 'reason', error)}")
            continue
        if hashlib.sha256(data).hexdigest() != YUNET_SHA256:
            reasons.append(f"{url.split('/')[2]}: the download has another SHA-256")
            continue
        return stored(data, path, url, say)
    raise InputError(
        f"YuNet could not be fetched ({'; '.join(reasons) or 'HF_HUB_OFFLINE is set'}): get "
        f"{YUNET} elsewhere and give it with --detector or FER_DETECTOR, or put it in "
        f"{path.parent}, or use the Haar cascade with --detector haar or FER_DETECTOR=haar"
    )


def certificates() -> ssl.SSLContext:
    """Return a context that trusts the system's certificates and certifi's.

    Python from python.org has none on macOS; those of a company's proxy are only in the system.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def stored(data: bytes, path: Path, url: str, say: Callable[[str], None]) -> Path:
    """Write a download to `path`, or to a temporary folder if that fails; return where it is."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except InputError:
        path, cache_path = Path(tempfile.mkdtemp(prefix="fer_lib_")) / path.name, path
        path.write_bytes(data)
        say(f"{cache_path} cannot be written, so YuNet will be fetched again: put {path} there")
    else:
        say(f"YuNet was fetched once from {url} to {path}")
    return path
