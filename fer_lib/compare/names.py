"""What runs are called side by side: by their recipe, and by what they changed in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_lib.config import TrainConfig
from fer_lib.data.faceset import FaceSet
from fer_lib.recipes import recipe
from fer_lib.runs import Run


def setting(config: TrainConfig) -> str:
    """What a run changed in its recipe, as in "epochs=5 width=16"; "" for the plain recipe.

    The seed does not count, nor a warm-up that is shorter because the epochs are. Values are JSON;
    `default` stands for an option that the recipe sets and the run does not.
    """
    shortened = recipe(config.model, config.recipe, config.preset, epochs=config.epochs)
    plain = recipe(config.model, config.recipe, config.preset)
    before = _flat(shortened) | {"epochs": plain.epochs, "seed": config.seed}
    after = _flat(config)
    changed = [key for key in {**after, **before} if after.get(key) != before.get(key)]
    return " ".join(f"{key}={_text(after.get(key, 'default'))}" for key in changed)


def _flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by name, those of the model and of the augmentation among them."""
    values = json.loads(json.dumps(config.to_dict()))  # lists and tuples become the same
    options, draws = values.pop("options"), values.pop("augmentation")
    if isinstance(values["pretrained"], str):  # files of runs have the same names: say which run
        start = Path(values["pretrained"])
        values["pretrained"] = (start.parent if start.stem in ("best", "encoder") else start).name
    options |= options.pop("backbone_options", None) or {}
    return values | options | {f"augmentation.{key}": value for key, value in draws.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def short_names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: model, recipe, seed and `setting`; with the time if need be.

    Of runs with the same model, recipe and seed that differ, what all of them changed alike is left
    out.
    """
    short = _named(runs, [f"{_plain_name(run)} s{run.train_config.seed}" for run in runs])
    return [
        name if short.count(name) == 1 else f"{name} {run.name.split('_')[0]}"
        for name, run in zip(short, runs, strict=True)
    ]


def system_names(runs: Sequence[Run]) -> list[str]:
    """The same without the seed: runs with equal names differ in nothing else."""
    return _named(runs, list(map(_plain_name, runs)))


def _plain_name(run: Run) -> str:
    return f"{run.train_config.model} {run.train_config.recipe}"


def _named(runs: Sequence[Run], stems: list[str]) -> list[str]:
    """Each stem with what its run changed, less what all others of that stem changed alike."""
    settings = [tuple(setting(run.train_config).split()) for run in runs]
    different: dict[str, set[tuple[str, ...]]] = {stem: set() for stem in stems}
    for stem, parts in zip(stems, settings, strict=True):
        different[stem].add(parts)
    alike = {
        stem: set.intersection(*map(set, every)) if len(every) > 1 else set()
        for stem, every in different.items()
    }
    return [
        " ".join([stem, *(part for part in parts if part not in alike[stem])])
        for stem, parts in zip(stems, settings, strict=True)
    ]


def marks(runs: Sequence[Run], faces: FaceSet) -> str:
    """All caveats of the data and of the runs, each once, joined by "; "; "" for none.

    One that not all runs have begins with "some".
    """
    each = [run.results["mark"].split("; ") for run in runs]
    every = dict.fromkeys(part for parts in [[faces.mark], *each] for part in parts if part)
    shared = lambda part: part == faces.mark or all(part in parts for parts in each)  # noqa: E731
    return "; ".join(part if shared(part) else f"some {part}" for part in every)
