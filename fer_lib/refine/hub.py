"""Voters that are image classifiers of Hugging Face: names on the hub, or folders on disk."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fer_lib.batches import autocast
from fer_lib.data.faceset import DAMAGE, FaceSet
from fer_lib.device import processes
from fer_lib.files import InputError, home, replacing, sha256
from fer_lib.refine.ballots import Ballots, translate, vocabulary
from fer_lib.settings import several

HUB_VOTERS = (
    "trpakov/vit-face-expression",
    "dima806/facial_emotions_image_detection",
    "mo-thecreator/vit-Facial-Expression-Recognition",
    "HardlyHumans/Facial-expression-detection",
)
"""Classifiers of expressions on the hub, the first of them named by the published refinement.

They could not be fetched and run here. By its card, the first was trained on FER2013 itself and
reaches 71.16 % on its test set; a card of the third, under its former name motheecreator/..., names
FER2013 and MMI; of the others nothing is known here. One that was trained on FER2013 has seen the
very labels that it votes on, their errors included; out-of-fold voters (`refine.folds`) have not.
"""


@dataclass
class Voter:
    """A classifier of M `classes`, in our words and in the order of its head."""

    classes: tuple[str, ...]
    processor: Any
    model: nn.Module

    def logits(self, images: Tensor) -> Tensor:
        """(B, M) of uint8 images (B, 1 or 3, H, W) on the device of the model."""
        images = images.expand(-1, 3, -1, -1)
        pixels = self.processor(images, input_data_format="channels_first", return_tensors="pt")
        return self.model(pixel_values=pixels["pixel_values"]).logits


@dataclass
class VoterAnswers:
    """What a voter said of N images, and the file that keeps it.

    `probabilities` is (N, M) float32 over its M `classes`, NaN in rows that it was not asked yet.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: np.ndarray

    def unasked(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that the voter was not asked yet, each once."""
        return np.unique(rows[np.isnan(self.probabilities[rows]).all(1)])


def hub_votes(
    faces: FaceSet,
    rows: np.ndarray,
    names: Sequence[str] | bool = True,
    *,
    allow_missing: bool = False,
    batch_size: int = 256,
    say: Callable[[str], None] = print,
) -> Ballots:
    """Ask image classifiers of Hugging Face for their votes, on a GPU where there is one.

    Classes are matched by the names in a checkpoint's `id2label`; images are prepared by its own
    preprocessor. All voters are checked before the first is asked. What they say is kept in
    `data/<dataset>/voter_<name>_<fingerprint>.npz`, rewritten after each batch: another call asks
    only what is missing there, and loads no weights where nothing is. They are kept by the
    name on the hub, so pin a revision (`name@revision`) where its weights may change.

    Args:
        rows: (N,) int, the images of `faces` to vote on.
        names: on the hub, also as `name@revision`, or folders that `save_pretrained` wrote;
            True: `HUB_VOTERS`.
        allow_missing: leave out voters that are in no folder and not to be had from the hub; the
            threshold of a majority still counts them.
        batch_size: images asked at a time.

    Returns:
        Ballots over `faces.classes`, of the images `rows`; of nobody where none is named or left.

    Raises:
        InputError: a voter is missing, or one is named twice; a head is not the one
            that was trained, or a label is no expression that is known; a file is damaged; the
            faces were changed after loading.
    """
    faces.require_unchanged()
    names = several(HUB_VOTERS if names is True else names or ())
    nobody = np.empty((0, len(rows), len(faces.classes)), np.float32)
    answers = {name: read_voter_answers(voter_path(faces, name), len(faces)) for name in names}
    if len({known.path for known in answers.values()}) < len(names):
        raise InputError(f"a voter is named twice in {', '.join(names)}: name each one once")
    voters = {name: load_voter(name) for name in names if len(answers[name].unasked(rows))}
    missing = {name: voter for name, voter in voters.items() if isinstance(voter, str)}
    present = [name for name in names if name not in missing]
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(names)} voters are in no folder and not to be had from the "
            f"Hugging Face hub, {'; '.join(map(' '.join, missing.items()))}: correct the name, "
            "fetch it (`hf download NAME`), or leave it out by allow_missing=True"
        )
    for name in missing:
        say(f"voter {name} is left out, not to be had {missing[name]}")
    tables = []
    for name in present:
        known = answers[name]
        number = ask(voters.pop(name), known, faces, rows, batch_size) if name in voters else 0
        say(f"voter {name}: {len(np.unique(rows)) - number:,} images cached, {number:,} computed")
        said, labels = known.probabilities[rows], faces.labels[rows]
        tables.append(translate(said, known.classes, faces.classes, labels)[None])
    return Ballots(tuple(present), np.concatenate([nobody, *tables]), tuple(missing))


def voter_path(faces: FaceSet, name: str) -> Path:
    """The file of a voter's answers; other weights in a folder of the same name have another."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        digest = hashlib.sha256()
        for pattern in ("*.safetensors", "*.bin", "*config.json"):
            for path in sorted(folder.glob(pattern)):
                digest.update(bytes.fromhex(sha256(path)))
        name = f"{folder.resolve().name}-{digest.hexdigest()[:8]}"
    else:
        name = f"{name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    slug = re.sub(r"[^\w.-]+", "-", name)
    return home() / "data" / faces.name / f"voter_{slug}_{faces.fingerprint[:12]}.npz"


def read_voter_answers(path: Path, number: int) -> VoterAnswers:
    """What is known of `number` images: nothing where the file does not exist yet."""
    if not path.exists():
        return VoterAnswers(path, (), np.full((number, 1), np.nan, np.float32))
    try:
        with np.load(path, allow_pickle=False) as file:
            classes, probabilities = tuple(file["classes"].tolist()), file["probabilities"]
        if probabilities.shape == (number, len(classes)) and probabilities.dtype == np.float32:
            return VoterAnswers(path, vocabulary(classes, path.name), probabilities)
    except DAMAGE:
        pass
    raise InputError(f"the answers of a voter in {path} are damaged: delete it and run again")


def load_voter(name: str) -> Voter | str:
    """Load a voter and check that it can vote; where it cannot be found or fetched, the reason."""
    from transformers import AutoConfig, AutoModelForImageClassification  # loads in seconds

    folder = Path(name).expanduser()
    source, _, revision = (str(folder), "", "") if folder.is_dir() else name.partition("@")
    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        labels = AutoConfig.from_pretrained(source, **options).id2label
        classes = vocabulary([labels[index] for index in sorted(labels)], f"voter {name}")
        processor = load_processor(source, **options)
        model, report = AutoModelForImageClassification.from_pretrained(
            source, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        voter = Voter(classes, processor, model.float().eval())
        with torch.inference_mode():
            trial = voter.logits(torch.zeros(1, 1, 48, 48, dtype=torch.uint8))
    except InputError:
        raise
    except (*DAMAGE, SafetensorError, UnpicklingError) as error:
        if isinstance(error, OSError) and not folder.is_dir():
            return f"({shorten(str(error), 60)})"
        raise InputError(
            f"voter {name} cannot be used as an image classifier ({shorten(str(error), 160)}): "
            "save or fetch it again, or name another one"
        ) from error
    # A mismatched tensor is reported with both of its shapes.
    fresh = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if fresh or sorted(labels) != list(range(trial.shape[1])) or not trial.isfinite().all():
        reason = f"{min(fresh)} would start at random" if fresh else f"{trial.shape[1]} outputs"
        raise InputError(
            f"voter {name} is no classifier that was trained for its {len(labels)} labels "
            f"({reason}): correct its config.json or its weights, or name another one"
        )
    return voter


def load_processor(source: str, **options: Any) -> Any:
    """Load a checkpoint's preprocessing, in the form that takes a batch of tensors."""
    import transformers

    try:
        kind = transformers.AutoImageProcessor
        return kind.from_pretrained(source, backend="torchvision", **options)
    except ValueError:  # old files name a class that is called ...ImageProcessor since
        settings, _ = transformers.BaseImageProcessor.get_image_processor_dict(source, **options)
        old = settings.pop("image_processor_type", "")
        if not old.endswith("FeatureExtractor"):
            raise
        kind = getattr(transformers, old.replace("FeatureExtractor", "ImageProcessor"))
        return kind.from_dict(settings)


@torch.inference_mode()
def ask(
    voter: Voter, known: VoterAnswers, faces: FaceSet, rows: np.ndarray, batch_size: int
) -> int:
    """Ask for those of `rows` that are not known yet, in batches; return their number."""
    if known.classes != voter.classes:
        known.classes = voter.classes
        known.probabilities = np.full((len(faces), len(voter.classes)), np.nan, np.float32)
    device = processes().device
    voter.model.to(device)
    unasked = known.unasked(rows)
    for start in range(0, len(unasked), batch_size):
        some = unasked[start : start + batch_size]
        images = torch.from_numpy(faces.images[some]).to(device)
        with autocast(device, "bf16" if device.type == "cuda" else "no"):
            logits = voter.logits(images)
        known.probabilities[some] = logits.float().softmax(1).cpu().numpy()
        with replacing(known.path) as temporary:
            np.savez(temporary, probabilities=known.probabilities, classes=np.array(known.classes))
    return len(unasked)
