"""The models that are on this machine, for a page that lets one choose."""

from collections.abc import Callable
from functools import partial

from fer_lib.files import InputError
from fer_lib.predict.faces import Detector
from fer_lib.predict.predictor import Predictor
from fer_lib.runs import list_runs, runs_folder


def models_at_hand(detector: Detector) -> dict[str, Callable[[], Predictor]]:
    """What loads each model that a page offers, by a name for people.

    The default, then the finished runs that have their weights, the newest first, then what was
    exported into the folder of runs (`--export runs/NAME.onnx` of `python -m fer_lib.predict`).

    Args:
        detector: finds the faces for all of them.
    """
    choices: dict[str, Callable[[], Predictor]] = {
        "the default model": partial(Predictor.default, detector=detector)
    }
    for run in reversed(list_runs()):
        if run.has_weights:
            mark = run.config["data"]["mark"]
            name = f"{run.name}, {mark}" if mark else run.name
            choices[name] = partial(Predictor.from_run, run, detector=detector)
    for path in sorted(runs_folder().glob("*.onnx")):
        choices[path.name] = partial(Predictor.from_file, path, detector=detector)
    return choices


def model_at_hand(name: str, detector: Detector) -> Predictor:
    """One of `models_at_hand`, loaded; InputError where it is no longer there."""
    known = models_at_hand(detector)
    if name not in known:
        raise InputError(f"the model {name} is no longer there: choose another, or reload the page")
    return known[name]()
