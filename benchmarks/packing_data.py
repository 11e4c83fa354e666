"""Pack the faces of a dataset into one small file, to take them to a lent machine.

The images are in one sheet, as PNG.
"""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fer_lib.data import FaceSet
from fer_lib.data.faceset import save
from fer_lib.data.ferplus import keep_majority
from fer_lib.files import InputError, home, replacing

COLUMNS = 190
"""Faces in a row of the sheet, which is nearly square for FER2013."""


def pack_data(faces: FaceSet, path: Path) -> None:
    """Write grey faces of one size into one small zip file: a PNG sheet, arrays and manifest."""
    n, _, side, _ = faces.images.shape
    rows = -(-n // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, side, side), np.uint8)
    tiles[:n] = faces.images[:, 0]
    sheet = tiles.reshape(rows, COLUMNS, side, side).swapaxes(1, 2).reshape(rows * side, -1)
    picture, rest = io.BytesIO(), io.BytesIO()
    Image.fromarray(sheet).save(picture, "png", optimize=True)
    arrays = {key: array for key, array in faces.arrays().items() if key != "images"}
    np.savez_compressed(rest, classes=np.array(faces.classes), **arrays)
    manifest = json.dumps({"name": faces.name, **faces.manifest, "side": side})
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr("faces.png", picture.getvalue())
        file.writestr("faces.npz", rest.getvalue())
        file.writestr("manifest.json", manifest)


def unpack_data(path: Path) -> list[FaceSet]:
    """Make the cache of a dataset from a file that `pack_data` wrote.

    Returns:
        The dataset; if it is FER2013 with votes, also FERPlus, whose cache is then made too.

    Raises:
        InputError: the file cannot be read, or the faces are not those that were packed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read("manifest.json"))
            sheet = np.asarray(Image.open(io.BytesIO(file.read("faces.png"))))
            with np.load(io.BytesIO(file.read("faces.npz")), allow_pickle=False) as rest:
                arrays = {key: rest[key] for key in rest.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as packed data ({error})") from None
    name, side, known = (manifest.pop(key) for key in ("name", "side", "fingerprint"))
    tiles = sheet.reshape(-1, side, COLUMNS, side).swapaxes(1, 2).reshape(-1, 1, side, side)
    classes = tuple(arrays.pop("classes").tolist())
    images = np.ascontiguousarray(tiles[: len(arrays["labels"])])
    faces = FaceSet(name, images, classes=classes, manifest=manifest, **arrays)
    if faces.fingerprint != known:
        raise InputError(f"{path} is damaged: its faces are not those that were packed")
    every = [faces]
    if name == "fer2013" and faces.votes is not None:
        every.append(keep_majority(replace(faces, name="ferplus", manifest=dict(manifest))))
    for one in every:
        save(one, home() / "data" / one.name)
    return every
