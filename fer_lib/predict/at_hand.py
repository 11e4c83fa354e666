"""The models on this machine, for a page on which the user chooses one."""

from collections.abc import Callable
from functools import partial

from fer_lib.files import InputError
from fer_lib.predict.faces import Detector
from fer_lib.predict.predictor import Predictor
from fer_lib.runs import list_runs, runs_folder


def models_at_hand(detector: Detector) -> dict[str, Callable[[], Predictor]]:
    """Return the models that a page can offer, each as a function that loads it.

    Args:
        detector: finds the faces for every model.

    Returns:
        Functions by the name that the page shows: the default model, then the finished runs that
        have their weights, newest first, then the ONNX files in the folder of runs
        (`python -m fer_lib.predict --export runs/NAME.onnx` writes one), by name.
    """
    choices: dict[str, Callable[[], Predictor]] = {
        "the default model": partial(Predictor.default, detector=detector)
    }
    for run in reversed(list_runs()):
        if run.has_weights:
            mark = run.config["data"]["mark"]
            name = f"{run.name}, {mark}" if mark else run.name
            choices[name] = partial(Predictor.from_file, run.weights, detector=detector)
    for path in sorted(runs_folder().glob("*.onnx")):
        choices[path.name] = partial(Predictor.from_file, path, detector=detector)
    return choices


def model_at_hand(name: str, detector: Detector) -> Predictor:
    """Load one of `models_at_hand` by its name.

    Raises:
        InputError: the model is no longer there, or cannot be loaded.
    """
    known = models_at_hand(detector)
    if name not in known:
        raise InputError(f"the model {name} is no longer there: choose another, or reload the page")
    return known[name]()
