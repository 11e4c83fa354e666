"""Finding a dataset: what the user gave, what is there already, and what can be downloaded."""

import os
from pathlib import Path

from fer_lib.data.ferplus import VOTE_FILE
from fer_lib.data.folders import OWN
from fer_lib.files import InputError, expanded, home

PUBLIC = {"fer2013": "msambare/fer2013"}
"""Datasets on Kaggle that need no login."""

COMPETITION = (
    "https://www.kaggle.com/c/"
    "challenges-in-representation-learning-facial-expression-recognition-challenge/data"
)


def find_source(dataset: str, data_dir: str | Path | None = None) -> Path:
    """Return the file or folder that holds a dataset, in whatever layout.

    Looked for in this order: `data_dir`; files that somebody put into `data/<dataset>/`; a copy
    that kagglehub has; a download by kagglehub of the public dataset, without a login.

    Raises:
        InputError: none is given and there is none; the sentence says what can be done.
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
    """The folder in `data/` into which somebody has put files of a dataset; None: there is none."""
    folder = home() / "data" / dataset
    if _files(folder):
        return folder
    if dataset == "ferplus" and VOTE_FILE in _files(folder.with_name("fer2013")):
        return folder.with_name("fer2013")
    return None


def _files(folder: Path) -> set[str]:
    """Names in a folder that are neither hidden nor the cache nor a README."""
    if not folder.is_dir():
        return set()
    names = set(os.listdir(folder)) - {"README.md"}
    return {name for name in names if name[0] != "." and not OWN.fullmatch(name)}


def _kagglehub_cache(handle: str) -> Path | None:
    """The newest complete version that kagglehub has downloaded before; asks no network."""
    default = os.path.expanduser("~/.cache/kagglehub")  # as it is where there is no home folder
    dataset = Path(os.environ.get("KAGGLEHUB_CACHE", default)) / "datasets" / handle
    complete = [path for path in dataset.glob("versions/*") if path.name.isdigit()]
    complete = [path for path in complete if (dataset / f"{path.name}.complete").exists()]
    return max(complete, key=lambda path: int(path.name), default=None)


def _download(dataset: str, folder: Path) -> Path:
    try:
        import kagglehub  # slow to import, and only needed here

        return Path(kagglehub.dataset_download(PUBLIC[dataset]))
    except Exception as error:  # whatever went wrong there, the remedies are the same
        reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise InputError(f"{_remedy(dataset, folder)} (kagglehub: {reason})") from error


def _remedy(dataset: str, folder: Path) -> str:
    give = "or give the folder that holds it as --data-dir"
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
        "of class folders (angry/, happy/ …) of your own as --data-dir"
    )
