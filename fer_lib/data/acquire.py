"""Finding the files of a dataset: given by the user, already on this machine, or downloaded."""

import os
from pathlib import Path

from fer_lib.data.ferplus import VOTE_FILE
from fer_lib.data.folders import OWN
from fer_lib.files import InputError, expanded, first_line, home

PUBLIC = {"fer2013": "msambare/fer2013"}
"""Handles of the datasets on Kaggle that can be downloaded without a login."""

COMPETITION = (
    "https://www.kaggle.com/c/"
    "challenges-in-representation-learning-facial-expression-recognition-challenge/data"
)


def find_source(dataset: str, data_dir: str | Path | None = None) -> Path:
    """Return the file or folder that contains a dataset, in whatever layout.

    The places are tried in this order: `data_dir`; files that the user put into `data/<dataset>/`;
    a copy in kagglehub's cache; a download of the public dataset by kagglehub, without a login.

    Raises:
        InputError: no `data_dir` was given and nothing was found; the message says what to do.
    """
    if data_dir:
        return expanded(data_dir).resolve()
    if put := put_there(dataset):
        return put
    folder = home() / "data" / dataset
    if dataset not in PUBLIC:
        raise InputError(_remedy(dataset, folder))
    return _kagglehub_cache(PUBLIC[dataset]) or _download(dataset, folder)


def put_there(dataset: str) -> Path | None:
    """Return the folder in `data/` into which the user has put files of a dataset, or None.

    For "ferplus" this may also be `data/fer2013/`, if fer2013new.csv is there.
    """
    folder = home() / "data" / dataset
    if _files(folder):
        return folder
    if dataset == "ferplus" and VOTE_FILE in _files(folder.with_name("fer2013")):
        return folder.with_name("fer2013")
    return None


def _files(folder: Path) -> set[str]:
    """Return the names in a folder that are not hidden, README.md or the project's own (`OWN`)."""
    if not folder.is_dir():
        return set()
    names = set(os.listdir(folder)) - {"README.md"}
    return {name for name in names if name[0] != "." and not OWN.fullmatch(name)}


def _kagglehub_cache(handle: str) -> Path | None:
    """Return the newest complete version in kagglehub's cache, or None; uses no network."""
    default = os.path.expanduser("~/.cache/kagglehub")  # raises nothing without a home folder
    dataset = Path(os.environ.get("KAGGLEHUB_CACHE", default)) / "datasets" / handle
    complete = [path for path in dataset.glob("versions/*") if path.name.isdigit()]
    complete = [path for path in complete if (dataset / f"{path.name}.complete").exists()]
    return max(complete, key=lambda path: int(path.name), default=None)


def _download(dataset: str, folder: Path) -> Path:
    try:
        import kagglehub  # slow to import, and only needed here

        return Path(kagglehub.dataset_download(PUBLIC[dataset]))
    except Exception as error:  # whatever went wrong, the remedy is the same
        reason = f"kagglehub: {first_line(error)[:120]}"
        raise InputError(f"{_remedy(dataset, folder)} ({reason})") from error


def _remedy(dataset: str, folder: Path) -> str:
    give = "or give the folder that holds it as data_dir (--data-dir)"
    if dataset == "fer2013":
        return (
            "FER2013 is not here and could not be downloaded: get fer2013.csv from "
            f"{COMPETITION} (with a free account), or the pictures from "
            f"https://www.kaggle.com/datasets/{PUBLIC[dataset]}, unpack them into {folder}, {give}"
        )
    if dataset == "ferplus":
        return (
            f"FERPlus is not here: put {VOTE_FILE} (https://github.com/microsoft/FERPlus, MIT "
            f"license) and fer2013.csv ({COMPETITION}) together into {folder}, {give}"
        )
    if dataset == "rafdb":
        return (
            "RAF-DB is not here, and only its authors give it out: ask them as described on "
            "http://www.whdeld.cn/RAF/model1.html, unpack its folder basic/ "
            f"(Image/aligned/, EmoLabel/) into {folder}, {give}"
        )
    return (
        f"there is no dataset {dataset!r}: use sample, fer2013, ferplus or rafdb, or give a folder "
        "of class folders (angry/, happy/ …) of your own as data_dir (--data-dir)"
    )
