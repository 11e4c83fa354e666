"""Voters that are image classifiers from Hugging Face: names on the hub, or folders on disk."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_lib.arguments import several
from fer_lib.batches import autocast
from fer_lib.data.faceset import FaceSet
from fer_lib.device import choose_precision, processes
from fer_lib.files import InputError, expanded, home, replacing, sha256
from fer_lib.refine.ballots import Ballots, translate, vocabulary

HUB_VOTERS = (
    "trpakov/vit-face-expression",
    "dima806/facial_emotions_image_detection",
    "mo-thecreator/vit-Facial-Expression-Recognition",
    "HardlyHumans/Facial-expression-detection",
)
"""Classifiers of expressions on the hub; the published refinement names the first of them.

They could not be fetched and run here. According to its card, the first was trained on FER2013
itself and reaches 71.16 % on its test set; a card of the third, under its former name
motheecreator/..., names FER2013 and MMI; nothing is known here about the others. A classifier that
was trained on FER2013 has seen the labels that it votes on, including their errors; out-of-fold
voters (`refine.folds`) have not.
"""

BATCH = 256
"""Number of images about which a voter is asked at once."""


@dataclass
class Voter:
    """A loaded classifier.

    Attributes:
        classes: M names from `labels.EMOTIONS_8`, in the order of the classifier's outputs.
        processor: the preprocessor of its checkpoint.
    """

    classes: tuple[str, ...]
    processor: Any
    model: nn.Module

    def logits(self, images: Tensor) -> Tensor:
        """Compute the logits (B, M) of uint8 images (B, 1 or 3, H, W) on the model's device."""
        images = images.expand(-1, 3, -1, -1)
        pixels = self.processor(images, input_data_format="channels_first", return_tensors="pt")
        return self.model(pixel_values=pixels["pixel_values"]).logits


@dataclass
class VoterAnswers:
    """The answers of a voter to N images, and the file that stores them.

    Attributes:
        path: the file, which need not exist yet.
        classes: M class names.
        probabilities: (N, M) float32; the row of an image is NaN until the voter is asked about it.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: np.ndarray

    def unasked(self, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` that the voter was not asked about yet, sorted, each once."""
        return np.unique(rows[np.isnan(self.probabilities[rows]).all(1)])


def hub_votes(
    faces: FaceSet,
    rows: np.ndarray,
    names: Sequence[str] | bool = True,
    *,
    allow_missing: bool = False,
) -> Ballots:
    """Ask image classifiers from Hugging Face for their votes, on a GPU if there is one.

    Classes are matched by the names in a checkpoint's `id2label`; its own preprocessor prepares
    the images. All voters are checked before the first is asked. A line is printed for each voter.
    Their answers are kept in `data/<dataset>/voter_<name>_<fingerprint>.npz`, rewritten after each
    batch. A later call asks only about images that are missing there, and loads no weights if none
    is missing. The file belongs to a name on the hub, so pin a revision (`name@revision`) if the
    weights may change.

    Args:
        rows: (N,) int, row numbers of the images to vote on.
        names: names on the hub, also as `name@revision`, or folders that `save_pretrained` wrote;
            True for `HUB_VOTERS`.
        allow_missing: leave out voters that are neither folders nor available from the hub; the
            threshold of the rule `majority` still counts them.

    Returns:
        Ballots over `faces.classes` on the images `rows`; without voters if none is named or left.

    Raises:
        InputError: a voter is missing (without `allow_missing`) or named twice; a classifier was
            not trained for its labels, or one of these is not a known expression; a file is
            damaged; the faces were changed after loading.
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
            f"{len(missing)} of {len(names)} voters are neither folders nor available from the "
            f"Hugging Face hub, {'; '.join(map(' '.join, missing.items()))}: correct the name, "
            "fetch it (`hf download NAME`), or leave it out with allow_missing=True"
        )
    for name in missing:
        print(f"voter {name} is left out, because it is not available {missing[name]}")
    tables = []
    for name in present:
        known = answers[name]
        number = ask(voters.pop(name), known, faces, rows) if name in voters else 0
        print(f"voter {name}: {len(np.unique(rows)) - number:,} images cached, {number:,} computed")
        said, labels = known.probabilities[rows], faces.labels[rows]
        tables.append(translate(said, known.classes, faces.classes, labels)[None])
    return Ballots(tuple(present), np.concatenate([nobody, *tables]), tuple(missing))


def voter_path(faces: FaceSet, name: str) -> Path:
    """Return the path of the file that stores a voter's answers.

    For a folder, the file name depends on the weights and settings in it, so that other weights in
    a folder of the same name get another file.
    """
    folder = expanded(name)
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
    """Read the stored answers of a voter to `number` images.

    Without a file, no image has an answer: there are no classes, and the probabilities are
    (number, 1), all NaN.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return VoterAnswers(path, (), np.full((number, 1), np.nan, np.float32))
    try:
        with np.load(path, allow_pickle=False) as file:
            classes, probabilities = tuple(file["classes"].tolist()), file["probabilities"]
        if probabilities.shape == (number, len(classes)) and probabilities.dtype == np.float32:
            return VoterAnswers(path, vocabulary(classes, path.name), probabilities)
    except Exception:  # on flipped bytes, zipfile and numpy raise almost anything
        pass
    raise InputError(f"the answers of a voter in {path} are damaged: delete it and run again")


def load_voter(name: str) -> Voter | str:
    """Load a voter and check that it can vote.

    Args:
        name: a folder, or a name on the hub, also as `name@revision`.

    Returns:
        The voter, or the reason, in parentheses, if it cannot be found or fetched.

    Raises:
        InputError: it is damaged, not an image classifier, or not trained for its labels, or one of
            these is not a known expression.
    """
    from transformers import AutoConfig, AutoModelForImageClassification  # slow to import

    folder = expanded(name)
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
    except Exception as error:  # of transformers, or of what reads the files
        if isinstance(error, OSError) and not folder.is_dir():
            return f"({shorten(str(error), 60)})"
        raise InputError(
            f"voter {name} cannot be used as an image classifier ({shorten(str(error), 160)}): "
            "save or fetch it again, or name another one"
        ) from error
    # A mismatched tensor is reported as its name and both shapes.
    fresh = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    reason = ""
    if fresh:
        reason = f"{min(fresh)} would start at random"
    elif sorted(labels) != list(range(trial.shape[1])):
        reason = f"labels {sorted(labels)}, but {trial.shape[1]} outputs"
    elif not trial.isfinite().all():
        reason = "its outputs are not finite"
    if reason:
        raise InputError(
            f"voter {name} is not a classifier that was trained for its {len(labels)} labels "
            f"({reason}): correct its config.json or its weights, or name another one"
        )
    return voter


def load_processor(source: str, **options: Any) -> Any:
    """Load a checkpoint's preprocessor in the variant that takes a batch of tensors."""
    import transformers

    try:
        kind = transformers.AutoImageProcessor
        return kind.from_pretrained(source, backend="torchvision", **options)
    except ValueError:  # old files have ...FeatureExtractor, now called ...ImageProcessor
        settings, _ = transformers.BaseImageProcessor.get_image_processor_dict(source, **options)
        old = settings.pop("image_processor_type", "")
        if not old.endswith("FeatureExtractor"):
            raise
        kind = getattr(transformers, old.replace("FeatureExtractor", "ImageProcessor"))
        return kind.from_dict(settings)


@torch.inference_mode()
def ask(voter: Voter, known: VoterAnswers, faces: FaceSet, rows: np.ndarray) -> int:
    """Ask a voter about those of `rows` that it was not asked about yet; return their number.

    The answers are added to `known`, and its file is rewritten after each batch. If the classes
    there are not those of the voter, all earlier answers are discarded.
    """
    if known.classes != voter.classes:
        known.classes = voter.classes
        known.probabilities = np.full((len(faces), len(voter.classes)), np.nan, np.float32)
    device = processes().device
    precision = choose_precision() if device.type == "cuda" else "no"
    voter.model.to(device)
    unasked = known.unasked(rows)
    for start in range(0, len(unasked), BATCH):
        some = unasked[start : start + BATCH]
        images = torch.from_numpy(faces.images[some]).to(device)
        with autocast(device, precision):
            logits = voter.logits(images)
        if not logits.isfinite().all():  # a NaN would stand for "not asked"
            remedy = "it is damaged: leave it out"
            if device.type == "cuda":
                remedy = "let it vote on the CPU, with CUDA_VISIBLE_DEVICES="
            name = known.path.stem
            raise InputError(f"answers of {name} are not finite in precision {precision}: {remedy}")
        known.probabilities[some] = logits.float().softmax(1).cpu().numpy()
        with replacing(known.path) as temporary:
            np.savez(temporary, probabilities=known.probabilities, classes=np.array(known.classes))
    return len(unasked)
