"""Loading a dataset by name: find it, recognise its layout, read it once, then use the cache."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from fer_lib.data import counts, ferplus, folders, rafdb, tables
from fer_lib.data.acquire import find_source, put_there
from fer_lib.data.faceset import SPLITS, FaceSet, load, save
from fer_lib.data.layouts import Layout, recognise
from fer_lib.files import InputError, home, read_json, write_json

KINDS = {
    "fer2013": ("table", "class folders"),
    "ferplus": ("table", "ferplus"),
    "rafdb": ("rafdb",),
}
"""Kinds of layout (`Layout.kind`) that each public dataset can have."""

SAMPLE = re.compile(r"sample(?:-(\d+)(?:-(\d+))?)?")
"""Names of drawn datasets: "sample" is "sample-10-3000", 3,000 faces with 10 % wrong labels."""

READERS = "6"
"""Version of the readers: a cache that another version wrote is read again from its source."""


def load_faces(
    dataset: str,
    data_dir: str | Path | None = None,
    *,
    expected: str | None = None,
    say: Callable[[str], object] = print,
) -> FaceSet:
    """Load a dataset, from its source or from the cache of an earlier call.

    The cache is in `data/<dataset>/` and is used until its source or `READERS` changes. Drawn faces
    are drawn again if a file of `fer_lib.data` has changed.

    Args:
        dataset: "sample" (drawn faces; "sample-20-8000": 8,000, with 20 % wrong labels), "fer2013"
            (7 classes, original labels, with the votes of FERPlus if fer2013new.csv is beside
            fer2013.csv), "ferplus" (8 classes, majority labels), "rafdb", or any other name for
            class folders of your own in `data_dir`.
        data_dir: file or folder in any known layout (see `layouts.recognise`). None: the cache
            (unless files were put into `data/<dataset>/` and the cache is from a download); without
            a cache, the `data_dir` that a deleted cache was read from, or else the places of
            `acquire.find_source`.
        expected: fingerprint of the data that a run was trained on, so that no other data from a
            source replace the cache; None: any data may.
        say: called with one line on what was found and read, one line for each remark and, before
            class folders are read, one line on how many pictures they hold.

    Raises:
        InputError: the data cannot be found or used, or not those expected would replace the cache.
    """
    if not re.fullmatch(r"\w[\w.-]*", dataset):
        raise InputError(f"dataset {dataset!r} must be a plain name, as it names a folder in data/")
    folder = home() / "data" / dataset
    if SAMPLE.fullmatch(dataset):
        return _sample(folder, data_dir, say)
    manifest, given = _manifest(folder), data_dir or _given_before(folder)
    source, layout = _source(dataset, given, manifest, say, ask_cache=not data_dir)
    origin = layout and f"{READERS} {layout.path} {layout.digest()}"
    if manifest and (layout is None or origin == manifest.get("origin")):
        if (faces := _cached(folder, manifest)) is None:
            return load_faces(dataset, data_dir, expected=expected, say=say)
        of = f" of {manifest['source']}" if manifest.get("source") else ""
        _tell(faces, f"from the cache {folder}{of}", say)
        return faces
    faces = _read(dataset, layout, say)
    faces.manifest |= {
        "layout": layout.description,
        "source": str(source),
        "data_dir": str(source) if given else None,
        "origin": origin,
    }
    faces.manifest["remarks"] += counts.differences(faces)
    faces.manifest["mark"] = faces.mark or counts.mark(faces)
    if expected not in (None, faces.fingerprint):
        raise InputError(
            f"{layout.path} is not the data that this run was trained on: give its own folder as "
            "data_dir (--data-dir); the cache is unchanged"
        )
    _save(faces, folder)
    _tell(faces, f"read from {layout.path}", say)
    return faces


def _manifest(folder: Path) -> dict | None:
    """Return the manifest of a cache, or None if the cache is missing or incomplete.

    The manifest of a complete cache has a fingerprint.
    """
    there = (folder / "faces.npz").exists() and (folder / "manifest.json").exists()
    manifest = read_json(folder / "manifest.json") if there else {}
    return manifest if "fingerprint" in manifest else None


def _cached(folder: Path, manifest: dict) -> FaceSet | None:
    """Load the cache that had this manifest; None if another process has changed it meanwhile."""
    try:
        return load(folder)
    except InputError:
        if _manifest(folder) == manifest:
            raise
    return None


def _given_before(folder: Path) -> str | None:
    """Return the `data_dir` of the last reading if it still exists, to renew a deleted cache."""
    path = folder / "manifest.json"
    given = read_json(path).get("data_dir") if path.exists() else None
    return given if given and os.path.exists(given) else None


def _source(
    dataset: str,
    given: str | Path | None,
    manifest: dict | None,
    say: Callable[[str], object],
    *,
    ask_cache: bool,
) -> tuple[Path | None, Layout | None]:
    """Return the source to read or to check the cache against; (None, None) if it is gone."""
    if not (manifest and ask_cache):
        source = find_source(dataset, given)
        return source, recognise(source)
    put = None if given else put_there(dataset)
    if put and str(put) != manifest.get("source"):
        try:
            return put, recognise(put)
        except InputError as error:  # a stray file, votes alone, or a damaged download
            say(f"{dataset}: note: what is in {put} is not read ({error})")
    try:
        source = Path(manifest["source"])
        return source, recognise(source)
    except (InputError, KeyError):
        return None, None


def _save(faces: FaceSet, folder: Path) -> None:
    # A cache without a fingerprint does not count: if the process dies between the two files, the
    # next one reads the same source again.
    if (folder / "manifest.json").exists():
        kept = {key: faces.manifest.get(key) for key in ("source", "data_dir")}
        write_json(folder / "manifest.json", kept)
    save(faces, folder)


def _read(dataset: str, layout: Layout, say: Callable[[str], object]) -> FaceSet:
    if layout.kind not in KINDS.get(dataset, (layout.kind,)):
        raise InputError(
            f"{layout.path} holds {layout.description}, which is not {dataset}: give another "
            "folder or another dataset"
        )
    if layout.kind == "rafdb":
        return rafdb.read(dataset, layout.path)
    if layout.kind == "class folders":
        return folders.read(dataset, layout.path, say)
    if layout.kind == "table":
        faces = tables.read(dataset, layout.path, layout.votes)
        return ferplus.keep_majority(faces) if dataset == "ferplus" else faces
    faces = ferplus.read_votes_and_pictures(dataset, layout.votes, layout.path)
    return ferplus.keep_majority(faces)


def _sample(folder: Path, data_dir: str | Path | None, say: Callable[[str], object]) -> FaceSet:
    """Return the drawn faces; they are drawn again if a file of `fer_lib.data` has changed."""
    if data_dir:
        raise InputError(
            f"dataset {folder.name} is drawn: leave out data_dir (--data-dir), or name another "
            "dataset"
        )
    code = sorted(Path(__file__).parent.glob("*.py"))
    origin = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()
    manifest = _manifest(folder)
    if manifest and manifest.get("origin") == origin:
        if (faces := _cached(folder, manifest)) is None:
            return _sample(folder, data_dir, say)
        _tell(faces, f"from the cache {folder}", say)
        return faces
    from fer_lib.data.sample import make_sample

    wrong, number = SAMPLE.fullmatch(folder.name).groups()
    faces = make_sample(int(number or 3000), wrong=int(wrong or 10) / 100)
    faces.name = folder.name
    faces.manifest |= {"origin": origin, "split": {"official": True}}
    _save(faces, folder)
    _tell(faces, faces.manifest["source"], say)
    return faces


def _tell(faces: FaceSet, how: str, say: Callable[[str], object]) -> None:
    """Say in one line what was found and read, and then each remark."""
    _, channels, height, width = faces.images.shape
    splits = ", ".join(f"{len(faces.where(split)):,} {split}" for split in SPLITS)
    colour = "RGB" if channels == 3 else "grey"
    facts = [f"{len(faces):,} faces ({splits}), {width}x{height} {colour}"]
    facts += ["with votes"] if faces.votes is not None else []
    dropped = faces.manifest.get("dropped", {})
    facts += [f"{number:,} left out: {reason}" for reason, number in dropped.items()]
    facts += [faces.mark] if faces.mark else []
    say(f"{faces.name}: {faces.manifest.get('layout')}, {how}: {'; '.join(facts)}")
    for remark in faces.manifest.get("remarks", []):
        say(f"{faces.name}: note: {remark}")
