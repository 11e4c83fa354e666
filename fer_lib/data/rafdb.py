"""Reading RAF-DB's basic set in the layout that its authors provide.

Li, Deng, Du: Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression
Recognition in the Wild, CVPR 2017, http://www.whdeld.cn/RAF/model1.html. Licensed on request.
"""

from pathlib import Path

import numpy as np

from fer_lib.data.faceset import FaceSet
from fer_lib.data.pictures import read_pictures
from fer_lib.data.splits import draw_split
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, RAFDB_CODES, canonical

LABELS = Path("EmoLabel", "list_patition_label.txt")
PICTURES = Path("Image", "aligned")


def basic_folder(folder: Path) -> Path | None:
    """Return the folder of RAF-DB's basic set: `folder`/basic or `folder`; None if neither is."""
    return next((f for f in (folder / "basic", folder) if (f / LABELS).is_file()), None)


def read(name: str, basic: Path) -> FaceSet:
    """Read the aligned pictures, (N, 3, 100, 100), and draw 10 % of train as validation split.

    Args:
        basic: contains EmoLabel/list_patition_label.txt and Image/aligned/.

    Raises:
        InputError: a line of the label file is not `train_00001.jpg 5`, the pictures are not
            there, or a file is damaged or cannot be read.
    """
    stems, labels = _read_labels(basic / LABELS)
    folder = basic / PICTURES
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: unpack aligned.zip, which lies beside it")
    listed = {path.name for path in folder.iterdir()}
    there = np.array([f"{stem}_aligned.jpg" in listed for stem in stems])
    if not there.any():
        raise InputError(f"{folder} holds none of the pictures that {basic / LABELS} names")
    rows = np.flatnonzero(there)
    images, remarks = read_pictures([folder / f"{stems[row]}_aligned.jpg" for row in rows])
    if images.shape[1] == 1:  # a few of its pictures are grey, and a small copy may have only those
        images = images.repeat(3, axis=1)
    missing = int((~there).sum())
    faces = FaceSet(
        name,
        images,
        labels[rows],
        np.array([stems[row].partition("_")[0] for row in rows]).astype("<U5"),
        np.array([stems[row] for row in rows]),
        manifest={
            "dropped": {"picture missing": missing} if missing else {},
            "remarks": remarks,
        },
    )
    draw_split(faces, {"train": 0.9, "valid": 0.1})
    return faces


def _read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the names without suffix, and labels (N,) int64, index into `labels.EMOTIONS`."""
    codes = {str(code): EMOTIONS.index(canonical(name)) for code, name in enumerate(RAFDB_CODES, 1)}
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): ask its owner") from None
    labels: list[int] = []
    rows: dict[str, int] = {}  # the row of each name
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        stem = fields[0].removesuffix(".jpg")
        if len(fields) != 2 or fields[1] not in codes or not stem.startswith(("train_", "test_")):
            raise InputError(
                f"{path}, row {number}: {line[:60]!r} is not a picture and a label from 1 to 7, "
                "as in 'train_00001.jpg 5'"
            )
        if stem in rows:
            raise InputError(
                f"{path}, row {number}: {stem} has a label in row {rows[stem]} already: delete one"
            )
        rows[stem] = number
        labels.append(codes[fields[1]])
    if not rows:
        raise InputError(f"{path} is empty: get it again from the authors of RAF-DB")
    return list(rows), np.array(labels, np.int64)
