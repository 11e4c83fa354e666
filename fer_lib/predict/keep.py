"""Write a finished run's weights with everything needed to use them, and their model card.

    python -m fer_lib.predict.keep runs/FOLDER --data-dir DIR --out FILE

With the file `fer_lib/predict/default.safetensors`, they replace those that come with the package.
Nothing is written unless the file gives every validation and test image the class that the run
gave it, or a class that was equally likely (see `TIE`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.data import FaceSet, load_faces
from fer_lib.evaluate import Predictions, aligned, load_predictions
from fer_lib.evaluate.abstention import operating_point
from fer_lib.files import InputError, expanded, replacing
from fer_lib.given import given_path
from fer_lib.models.weights import State, read_weights, write_weights
from fer_lib.predict.model_card import model_card
from fer_lib.predict.predictor import Predictor
from fer_lib.runs import Run
from fer_lib.starts import learned_from

LIMIT = 6 * 2**20
"""Size in bytes up to which a weights file is kept in the repository."""

CARD = "MODEL_CARD.md"

TIE = 2e-3
"""Difference up to which two probabilities count as equal. Probabilities of the CNNs that a GPU
computed with TF32 convolutions, kept in half precision, differ by up to 1.2e-3 from float32 on a
CPU."""


def keep_weights(run: Run, faces: FaceSet, path: Path) -> None:
    """Write a run's best weights with everything needed to use them, and their model card.

    The weights are stored in half precision if they would otherwise take more than `LIMIT`.

    Args:
        path: path of the weights file; the card is written beside it.

    Raises:
        InputError: the run is unfinished, has no weights here or was trained on other data, or the
            file would be too large, give other predictions than the run, or cannot be written.
    """
    run.require_finished()
    run.require_data(faces)
    predictions = load_predictions(run.folder / "predictions.npz")
    state, metadata = read_weights(run.weights)
    if sum(tensor.nbytes for tensor in state.values()) > LIMIT:
        state = half_precision(state)
    use = operating_point(faces, predictions)
    with replacing(path.with_name(CARD)) as card, replacing(path) as temporary:
        write_weights(temporary, state, metadata | file_metadata(run, faces, use))
        if (size := temporary.stat().st_size) > LIMIT:
            raise InputError(
                f"the weights of {run.name} take {size:,} bytes, more than {LIMIT:,}: choose a "
                "smaller model"
            )
        check(Predictor.from_file(temporary, device="cpu"), predictions, faces)
        text = model_card(run, faces, predictions, use, temporary, path.name)
        card.write_text(text, encoding="utf-8")


def half_precision(state: State) -> State:
    """Convert weights to half precision; counts and other whole numbers stay as they are."""
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def file_metadata(run: Run, faces: FaceSet, use: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of the file, without folders of the disk on which the run was trained."""
    settings = run.train_config.to_dict()
    if isinstance(settings["pretrained"], str):
        settings["pretrained"] = Path(settings["pretrained"]).name
    return {
        "name": f"{run.train_config.model} trained on {faces.name}",
        "run": run.name,
        "image": json.dumps(list(faces.images.shape[1:])),
        "train": json.dumps(settings),
        "learned_from": json.dumps(learned_from(run.config)),
        "use": json.dumps(use),
    }


def check(predictor: Predictor, predictions: Predictions, faces: FaceSet) -> None:
    """Raise InputError unless a predictor gives every image the class that its run gave it.

    Of two classes whose probabilities differed by no more than `TIE`, it may give either: a run
    that was scored on another device rounds differently.
    """
    for split in ("valid", "test"):
        rows = faces.where(split)
        found = predictor.probabilities(faces.images[rows]).argmax(1)
        known = aligned(faces, predictions, split)
        behind = known.max(1) - known[np.arange(len(rows)), found]
        if differ := (behind > TIE).sum():
            raise InputError(
                f"the file gives {differ:,} of {len(rows):,} {split} images another class than its "
                "run did, so nothing is written: choose another run, or train this one again here"
            )


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a user error ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.predict.keep", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--data-dir", help="folder of the run's data, as for a training")
    parser.add_argument("--out", type=Path, required=True, help="weights file, .safetensors")
    args = parser.parse_args(arguments)
    try:
        run, out = Run(given_path(args.run)), expanded(args.out)
        name = run.config["data"]["dataset"]
        keep_weights(run, load_faces(name, args.data_dir, expected=run.fingerprint), out)
    except InputError as error:
        parser.error(str(error))
    print(f"{out} and {out.with_name(CARD)} are written from {run.name}")


if __name__ == "__main__":
    main()
