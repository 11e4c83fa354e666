"""What the weights that a training starts from have learned from, and whether that is its test set.

It is recorded in each weights file as `learned_from`, and in a run's `config.json` as
`started_from`: a list of `dataset`, `fingerprint` and `split` of the data of the last training, of
the one that it started from, and so on.
"""

import json
from typing import Any

from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.data.loading import KINDS, SAMPLE
from fer_lib.files import InputError, expanded, read_json
from fer_lib.models.weights import read_metadata

ORIGIN = ("dataset", "fingerprint", "split")

UNKNOWN = dict.fromkeys(ORIGIN)
"""Origin of weights that do not name the data that they were trained on."""


def learned_from(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the weights of a run have learned from.

    Args:
        config: the content of the run's `config.json`.
    """
    own = {key: config["data"].get(key) for key in ORIGIN}
    return [own, *config.get("started_from", [])]


def started_from(config: TrainConfig) -> list[dict[str, Any]]:
    """Return what the weights that a training starts from have learned from.

    Returns:
        What the run says in whose folder the file is, or else the file itself. If neither
        does, `UNKNOWN` for a classifier of this project, what it names for a pretraining of an
        earlier version, and [] for weights of others.

    Raises:
        InputError: the file of the weights cannot be read.
    """
    if not isinstance(config.pretrained, str):
        return []
    path = expanded(config.pretrained)
    try:
        return learned_from(read_json(path.with_name("config.json")))
    except (AttributeError, InputError, KeyError, TypeError):  # another program's, or none
        known = read_metadata(path)
    if origins := json.loads(known.get("learned_from", "[]")):
        return origins
    ours = "model" in known or "fingerprint" in known
    return [UNKNOWN | {key: known[key] for key in ORIGIN if key in known}] * ours


def may_know_test(start: dict[str, Any], faces: FaceSet) -> bool:
    """Return whether a start may have learned from test images, or chose its epoch on some.

    The official test images of public datasets stay apart from the training images of any other
    data. That is not known of test images that were drawn at random, or are from folders of the
    user. Samples of other sizes have many faces in common, and none with photographs.

    Args:
        start: one entry of `started_from`.
        faces: the data of the training.
    """
    if start["fingerprint"] == faces.fingerprint:
        return False
    names = (start.get("dataset"), faces.name)
    samples = [bool(SAMPLE.fullmatch(name or "")) for name in names]
    if None not in names and any(samples):
        return all(samples)
    splits = (start["split"], faces.manifest.get("split"))
    before, now = ((split or {}).get("fractions", ()) for split in splits)
    public = all(name in KINDS for name in names)
    validated = faces.mark.startswith("test = ") and "valid" not in before  # by PublicTest
    return not public or "test" in (*before, *now) or validated
