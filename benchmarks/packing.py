"""Pack finished runs into a few small files, to bring them home from a lent machine.

An archive is a zip file with the paths of the project: `runs/NAME/...`, `runs/pretraining/NAME/...`
and `data/DATASET/refined_RULE.npz`.
"""

import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fer_lib.data import FaceSet
from fer_lib.evaluate import aligned, halved, load_predictions, save_predictions
from fer_lib.files import InputError, home, replacing
from fer_lib.runs import Run, RunFolder, runs_folder

ARCHIVE = 15 * 2**20
"""Maximum bytes of an archive, unless one run is larger: lent machines return files of 16 MiB."""

WEIGHTS = 12 * 2**20
"""Maximum bytes of a run's best weights that are packed."""

FacesOf = Callable[[str], FaceSet]


class Archives:
    """The archives `runs-1.zip`, `runs-2.zip`, … in a folder; if the last is full, one is added."""

    def __init__(self, folder: Path):
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the paths of the archives, in the order of their numbers."""
        known = (path for path in self.folder.glob("runs-*.zip") if path.stem[5:].isdigit())
        return sorted(known, key=lambda path: int(path.stem[5:]))

    def names(self) -> set[str]:
        """Return the names of all files in the archives."""
        return {name for path in self.paths() for name in read_archive(path)}

    def other(self, files: dict[str, bytes]) -> list[str]:
        """Return the sorted names of given files that the archives contain with other content."""
        found = []
        for path in self.paths():
            held = read_archive(path)
            found += [name for name in files.keys() & held.keys() if held[name] != files[name]]
        return sorted(found)

    def add(self, files: dict[str, bytes]) -> Path:
        """Add files (name in the archive -> content), all or none; return the archive's path."""
        before = self.paths()
        path = before[-1] if before else self.folder / "runs-1.zip"
        content = path.read_bytes() if before else b""
        buffer = zipped(content, files)
        if content and len(buffer) > ARCHIVE:
            path = self.folder / f"runs-{int(path.stem[5:]) + 1}.zip"
            buffer = zipped(b"", files)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer)
        return path


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of an archive, name -> content.

    Raises:
        InputError: the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return {name: file.read(name) for name in file.namelist()}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an archive ({error})") from None


def zipped(content: bytes, files: dict[str, bytes]) -> bytes:
    """Return the bytes of a zip file (b"" for a new one) with more files added."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def contents(run: RunFolder) -> dict[str, bytes]:
    """Return the files of a finished run that are packed, name in the archive -> content.

    These are all its files except those for resuming it. Predictions are in half precision. Weights
    are included if they are small: of a run up to `WEIGHTS` bytes, of a pretraining its encoder.
    """
    inside = "pretraining/" if run.folder.parent.name == "pretraining" else ""
    where, found = f"runs/{inside}{run.name}", {}
    for path in sorted(run.folder.iterdir()):
        weights = path.name == "encoder.safetensors" if inside else path.stat().st_size <= WEIGHTS
        wanted = weights or path.suffix != ".safetensors"
        if path.is_file() and path.name[0] != "." and wanted:
            found[f"{where}/{path.name}"] = path.read_bytes()
    for path in run.folder.glob("predictions*.npz"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **asdict(halved(load_predictions(path))))
        found[f"{where}/{path.name}"] = buffer.getvalue()
    return found


def verify(run: Run, faces: FaceSet) -> None:
    """Check that a run's predictions give the confusion matrices of its `results.json`.

    Raises:
        InputError: they do not, or the run belongs to other data.
    """
    from sklearn.metrics import confusion_matrix  # slow to import

    run.require_data(faces)
    predictions = load_predictions(run.folder / "predictions.npz")
    for split in ("valid", "test"):
        known = np.array(run.results[split]["full"]["confusion"])
        labels, answers = faces.labels[faces.where(split)], aligned(faces, predictions, split)
        found = confusion_matrix(labels, answers.argmax(1), labels=range(len(known)))
        if not np.array_equal(found, known):
            here, there = (100 * np.trace(m) / m.sum() for m in (found, known))
            raise InputError(
                f"{run.name}: the confusion matrix of its predictions on {split} ({here:.3f} % "
                f"right) is not that of its results.json ({there:.3f} %): pack the run again"
            )


def unpack(archive: Path, faces_of: FacesOf, runs: str | None = None) -> Iterator[RunFolder]:
    """Unpack an archive into `runs/` and `data/`; files that exist already stay as they are.

    New predictions are checked (`verify`) and written in single precision.

    Args:
        faces_of: function that returns the faces of a dataset by its name.
        runs: folder of all runs; None: `runs/`.

    Yields:
        Each run or pretraining that is new or has new files, before the next one is unpacked.

    Raises:
        InputError: the archive cannot be read, one of its runs exists already but is unfinished,
            other refined labels exist already, or new predictions do not give their run's results.
    """
    found = {
        (runs_folder(runs) if root == "runs" else home() / "data").joinpath(*rest): (root, files)
        for (root, *rest), files in folders(archive).items()
    }
    for target, (root, files) in found.items():
        if root == "runs" and target.exists() and not (target / "results.json").exists():
            raise InputError(f"{target} is an unfinished run: move it away, then unpack again")
        for path in (target / name for name in files if root == "data"):
            if path.exists() and path.read_bytes() != files[path.name]:
                raise InputError(
                    f"{path} contains other labels than those in {archive} from which runs "
                    "learned: move the file away, then unpack again"
                )
    # Labels come first, since the results of a run are kept together with its labels.
    for target, (root, files) in sorted(found.items(), key=lambda item: item[1][0] == "runs"):
        if root == "runs" and not target.exists():
            yield unpack_run(target, files, faces_of)
            continue
        new = [target / name for name in files if not (target / name).exists()]
        for path in new:
            with replacing(path) as temporary:
                temporary.write_bytes(files[path.name])
        if (added := target / "predictions.npz") in new:
            try:
                check_predictions(Run(target), faces_of)
            except InputError:
                added.unlink()
                raise
        if root == "runs" and new:
            yield Run(target) if "predictions.npz" in files else RunFolder(target)


def folders(archive: Path) -> dict[tuple[str, ...], dict[str, bytes]]:
    """Return the files in each folder of an archive.

    Returns:
        Folder, as the parts of its path -> file name -> content.

    Raises:
        InputError: the archive cannot be read, or was not written by `Archives`.
    """
    found: dict[tuple[str, ...], dict[str, bytes]] = {}
    for name, data in read_archive(archive).items():
        *folder, last = name.split("/")
        found.setdefault(tuple(folder), {})[last] = data
    for parts in found:
        if len(parts) not in (2, 3) or parts[0] not in ("runs", "data") or ".." in parts:
            raise InputError(f"{archive} contains {'/'.join(parts)}, which is no run: leave it out")
    return found


def check_predictions(run: Run, faces_of: FacesOf) -> None:
    """Check the unpacked predictions of a run (`verify`), and write them in single precision."""
    verify(run, faces_of(run.results["dataset"]))
    path = run.folder / "predictions.npz"
    save_predictions(path, load_predictions(path))


def unpack_run(target: Path, files: dict[str, bytes], faces_of: FacesOf) -> RunFolder:
    """Write the files of one run, all or none, and check its predictions (`verify`)."""
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        if "predictions.npz" in files:
            check_predictions(Run(temporary), faces_of)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(target) if "predictions.npz" in files else RunFolder(target)
