"""The folder of a pretraining: what is written to it, and how the next stage finds and reads it."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from fer_lib.data import FaceSet
from fer_lib.data.faceset import SPLITS
from fer_lib.epochs import in_common
from fer_lib.files import InputError, expanded, write_json
from fer_lib.models.weights import load_into, read_weights, timm_state, write_weights
from fer_lib.pretrain.autoencoder import build_autoencoder
from fer_lib.pretrain.config import PretrainConfig, pretraining_command
from fer_lib.provenance import code_digest, describe_environment
from fer_lib.runs import RunFolder, describe_data, new_folder, newest, read_runs
from fer_lib.starts import learned_from

CODE = (
    *("augment", "batches", "checkpoints", "config", "device", "epochs", "graph", "optim"),
    *("models/weights", "pretrain/*"),
)
"""Modules that the numbers of a pretraining depend on."""


class Pretraining(RunFolder):
    """Folder of one pretraining, `runs/pretraining/<timestamp>_mae_<dataset>_s<seed>/`.

    Starting the same pretraining again resumes an unfinished one.

    Attributes:
        pretrain_config: its settings.
        encoder_path: file with the encoder's weights, under the names of timm's VisionTransformer.
        autoencoder_path: file with the weights of the whole autoencoder.
        options: options for building a classifier on the encoder:
            `create_model("vit_mae", pretrained=encoder_path, **options)`.
    """

    scores = ("valid_loss",)

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        try:
            self.pretrain_config = PretrainConfig.from_dict(self.config["pretrain"])
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{folder} is not a pretraining of this version ({error})") from error
        self.encoder_path = self.folder / "encoder.safetensors"
        self.autoencoder_path = self.folder / "autoencoder.safetensors"
        self.options = self.pretrain_config.classifier_options

    def load(self) -> nn.Module:
        """Load the autoencoder as its last epoch left it, in evaluation mode, on the CPU."""
        state, _ = read_weights(self.autoencoder_path)
        autoencoder = build_autoencoder(self.pretrain_config)
        load_into(autoencoder, state, self.autoencoder_path)
        return autoencoder.eval()


def find_pretraining(config: PretrainConfig, faces: FaceSet, root: Path) -> Pretraining | None:
    """Find the newest pretraining with exactly this config and these data, if there is one.

    Finished pretrainings come before unfinished ones. `cuda_graph` may differ.
    """
    return newest(
        one
        for one in read_runs(root, Pretraining)
        if one.fingerprint == faces.fingerprint and one.pretrain_config == config
    )


def origin(encoder: str | Path) -> dict[str, Any] | None:
    """Describe the pretraining that an encoder file comes from.

    Returns:
        `command`, `commit`, `epochs`, `train_seconds` and `valid_loss` of the pretraining; None if
        the file is not in the folder of a finished one.
    """
    try:
        run = Pretraining(expanded(encoder).parent)
        results = run.results
    except InputError:
        return None
    shared = ("epochs", "train_seconds", "valid_loss")
    return {
        "command": pretraining_command(run.pretrain_config, results["dataset"]),
        "commit": run.config["environment"]["commit"],
        **{key: results[key] for key in shared},
    }


def pretraining_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the `origin` of the encoder that a run started from; None if it is not known.

    It is read from the folder of the encoder. If that is not there, it is taken from the config of
    the run, in which a restored run has it.

    Args:
        config: the `config.json` of the run.
    """
    start = config["train"]["pretrained"]
    return (origin(start) if isinstance(start, str) else None) or config.get("pretraining")


def start_pretraining(config: PretrainConfig, faces: FaceSet, root: Path) -> Pretraining:
    """Create the folder of a new pretraining, with its `config.json`."""
    folder = new_folder(root, "mae", faces, config.seed)
    images = {split: len(faces.where(split)) for split in SPLITS}
    data = describe_data(faces, images=images)
    write_json(
        folder / "config.json",
        {"pretrain": config.to_dict(), "data": data, "environment": environment_of(config)},
    )
    return Pretraining(folder)


def environment_of(config: PretrainConfig) -> dict[str, Any]:
    """Return what `config.json` says about versions, device, commit and command."""
    environment = describe_environment(config.training)
    return environment | {"transformers": version("transformers"), "code": code_digest(CODE)}


def write_autoencoder(run: Pretraining, autoencoder: nn.Module) -> None:
    """Write the whole autoencoder, and in another file its encoder alone, with timm's names."""
    state = autoencoder.state_dict()
    data = run.config["data"]
    metadata = {
        "options": json.dumps(run.options),
        "dataset": data["dataset"],
        "fingerprint": run.fingerprint,
        "mark": data["mark"] or "",
        "learned_from": json.dumps(learned_from(run.config)),
    }
    write_weights(run.autoencoder_path, state, metadata)
    write_weights(run.encoder_path, timm_state(state), metadata)


def write_results(run: Pretraining, faces: FaceSet, rows: list[dict[str, Any]]) -> None:
    """Write `results.json`. This comes last, because it marks the pretraining as finished."""
    results = {
        **in_common(run.pretrain_config, faces, rows, "pretrained"),
        "train_loss": {"first": rows[0]["train_loss"], "last": rows[-1]["train_loss"]},
        "valid_loss": {"first": rows[0]["valid_loss"], "last": rows[-1]["valid_loss"]},
    }
    write_json(run.folder / "results.json", results)
