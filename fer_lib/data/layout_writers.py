"""Writing a FaceSet in the layouts that users have on disk, for tests of the readers."""

import csv
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fer_lib.data import ferplus
from fer_lib.data.faceset import FaceSet
from fer_lib.data.layouts import LONG_NAMES
from fer_lib.labels import FERPLUS_COLUMNS, RAFDB_CODES, VOTES, reorder

USAGE_OF = {split: usage for usage, split in ferplus.USAGE.items()}
"""Value in the column Usage of fer2013.csv for each split."""


def write_layout(faces: FaceSet, layout: str, folder: Path) -> None:
    """Write grey faces with the classes `labels.EMOTIONS` in a layout into a folder.

    Args:
        faces: (N, 1, H, W) images; `votes` are written by the layouts "csv" and "ferplus", which
            needs them.
        layout: "csv" (`fer2013.csv`, with `fer2013new.csv` if there are votes), "zip", "tar.gz" (as
            Kaggle packs it), "icml" (`icml_face_data.csv`), "folders" and "emotion-detection" (the
            two folder sets on Kaggle: train/, and test/ with validation and test images), "ferplus"
            (`fer2013new.csv` with Images/, which lacks the images that have all votes for "not a
            face"), "rafdb" (validation images are written as train_) or "classes" (class folders
            without splits).
        folder: created if it does not exist.

    Raises:
        KeyError: the layout is unknown.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[layout](faces, folder)


def _table(faces: FaceSet, header: str, order: tuple[int, ...]) -> str:
    """Return the CSV text; `order` permutes (emotion, pixels, usage) to the header's columns."""
    lines = [header]
    for label, image, split in zip(faces.labels, faces.images, faces.split, strict=True):
        fields = (str(label), " ".join(map(str, image.ravel().tolist())), USAGE_OF[split])
        lines.append(",".join(fields[i] for i in order))
    return "\n".join(lines) + "\n"


def _fer2013(faces: FaceSet) -> str:
    return _table(faces, "emotion,pixels,Usage", (0, 1, 2))


def _csv(faces: FaceSet, folder: Path) -> None:
    (folder / "fer2013.csv").write_text(_fer2013(faces))
    if faces.votes is not None:
        _vote_table(faces, folder)


def _icml(faces: FaceSet, folder: Path) -> None:
    text = _table(faces, "emotion, Usage, pixels", (0, 2, 1))
    (folder / "icml_face_data.csv").write_text(text)


def _zip(faces: FaceSet, folder: Path) -> None:
    with zipfile.ZipFile(folder / "fer2013.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013.csv", _fer2013(faces))


def _tar(faces: FaceSet, folder: Path) -> None:
    members = {"fer2013/fer2013.csv": _fer2013(faces), "fer2013/README": faces.mark + "\n"}
    with tarfile.open(folder / "fer2013.tar.gz", "w:gz", compresslevel=6) as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode("ascii")))


def _picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _folders(faces: FaceSet, folder: Path) -> None:
    for i, (label, split) in enumerate(zip(faces.labels, faces.split, strict=True)):
        part = "train" if split == "train" else "test"
        name = f"{USAGE_OF[split]}_{i:07d}.png"
        _picture(folder / part / faces.classes[label] / name, faces.images[i, 0])


def _emotion_detection(faces: FaceSet, folder: Path) -> None:
    for part, rows in (("train", faces.split == "train"), ("test", faces.split != "train")):
        for label, name in enumerate(faces.classes):
            target = folder / part / LONG_NAMES.get(name, name)
            for k, i in enumerate(np.flatnonzero(rows & (faces.labels == label))):
                _picture(target / f"im{k}.png", faces.images[i, 0])


def _classes(faces: FaceSet, folder: Path) -> None:
    for label, name, image in zip(faces.labels, faces.ids, faces.images, strict=True):
        _picture(folder / faces.classes[label] / f"{name}.png", image[0])


def _vote_table(faces: FaceSet, folder: Path) -> list[str]:
    """Write `fer2013new.csv`; return its file names: "" if all votes are for "not a face"."""
    somebody = faces.votes[:, VOTES.index("not a face")] != faces.votes.sum(1)
    numbers = np.cumsum(somebody) - 1
    names = [f"fer{k:07d}.png" if s else "" for k, s in zip(numbers, somebody, strict=True)]
    votes = faces.votes[:, reorder(VOTES, FERPLUS_COLUMNS)]
    with open(folder / "fer2013new.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("Usage", "Image name", *FERPLUS_COLUMNS))
        for split, name, row in zip(faces.split, names, votes.astype(int).tolist(), strict=True):
            writer.writerow((USAGE_OF[split], name, *row))
    return names


def _ferplus(faces: FaceSet, folder: Path) -> None:
    names = _vote_table(faces, folder)
    for split, name, image in zip(faces.split, names, faces.images, strict=True):
        if name:
            _picture(folder / "Images" / ferplus.FOLDERS[split] / name, image[0])


def _rafdb(faces: FaceSet, folder: Path) -> None:
    codes = reorder(RAFDB_CODES, faces.classes)
    pictures, labels = folder / "basic/Image/aligned", folder / "basic/EmoLabel"
    for each in (pictures, labels):
        each.mkdir(parents=True, exist_ok=True)
    lines = []
    for part, rows in (("train", faces.split != "test"), ("test", faces.split == "test")):
        for k, i in enumerate(np.flatnonzero(rows), 1):
            lines.append(f"{part}_{k:05d}.jpg {codes[faces.labels[i]] + 1}\n")
            picture = Image.fromarray(faces.images[i, 0]).resize((100, 100)).convert("RGB")
            picture.save(pictures / f"{part}_{k:05d}_aligned.jpg", quality=95)
    (labels / "list_patition_label.txt").write_text("".join(lines))


WRITERS = {
    "csv": _csv,
    "zip": _zip,
    "tar.gz": _tar,
    "icml": _icml,
    "folders": _folders,
    "emotion-detection": _emotion_detection,
    "ferplus": _ferplus,
    "rafdb": _rafdb,
    "classes": _classes,
}
