"""What runs are called side by side: by their recipe, and by what they changed in it."""

from collections.abc import Mapping, Sequence
from string import ascii_letters

from fer_lib.data.faceset import FaceSet
from fer_lib.networks import label
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.recipes import changed_settings
from fer_lib.runs import Run

SHORT = 24
"""Characters up to which what a run changed stands in its name; of more, a sign."""


def short_names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: system (see `system_names`) and seed; with the time if need be."""
    short = _named(runs, [f" s{run.train_config.seed}" for run in runs])
    return [
        name if short.count(name) == 1 else f"{name} {run.name.split('_')[0]}"
        for name, run in zip(short, runs, strict=True)
    ]


def named(runs: Sequence[Run] | Mapping[str, Run]) -> dict[str, Run]:
    """Runs by the names that they are given, or else by `short_names`."""
    if isinstance(runs, Mapping):
        return dict(runs)
    return dict(zip(short_names(runs), runs, strict=True))


def contents(run: Run) -> dict[str, str | None]:
    """SHA-256 of what a run learned from and knows by the name of a file: first weights, labels."""
    parts = (("environment", "pretrained_sha256"), ("data", "refined_sha256"))
    return {key: run.config.get(part, {}).get(key) for part, key in parts}


def settings(runs: Sequence[Run]) -> list[list[str]]:
    """What each run changed in its recipe, see `fer_lib.recipes.changed_settings`.

    Of runs that changed the same but differ in the contents of a file, as in labels that were
    refined anew, each has the first digits of its SHA-256 besides.
    """
    told = [changed_settings(run.train_config) for run in runs]
    stems = [
        (config.model, config.recipe, config.preset, *changed)
        for config, changed in zip((run.train_config for run in runs), told, strict=True)
    ]
    for key in ("pretrained_sha256", "refined_sha256"):
        found = [contents(run)[key] or "unknown" for run in runs]
        kinds: dict[tuple[str, ...], set[str]] = {}
        for stem, digest in zip(stems, found, strict=True):
            kinds.setdefault(stem, set()).add(digest)
        for stem, digest, changed in zip(stems, found, told, strict=True):
            if len(kinds[stem]) > 1:
                changed.append(f"{key}={digest[:8]}")
    return told


def system_names(runs: Sequence[Run]) -> list[str]:
    """Model, recipe and `setting` of each run; runs with equal names differ in the seed alone.

    What sets its network apart is named, as in "vit_tiny ours on vit_small_patch16_224" (see
    `fer_lib.networks.label`). What else was changed follows where it is short; else there is a star
    behind the recipe, and where several runs changed different things, a letter that tells which:
    "vit_tiny ours*a". The column `setting` of `scores.leaderboard` has all of it.
    """
    return _named(runs, [""] * len(runs))


def _named(runs: Sequence[Run], ends: Sequence[str]) -> list[str]:
    """Each run's system with an end between its stem and its short changes."""
    parts = [_parts(*one) for one in zip(runs, settings(runs), strict=True)]
    long: dict[tuple[str, str], set[str]] = {}
    for recipe, network, changed in parts:
        if len(changed) > SHORT:
            long.setdefault((recipe, network), set()).add(changed)
    sign = {
        (*stem, changed): "*" + letter * (len(several) > 1)
        for stem, several in long.items()
        for letter, changed in zip(signs(len(several)), sorted(several), strict=True)
    }
    names = []
    for (recipe, network, changed), end in zip(parts, ends, strict=True):
        star = sign.get((recipe, network, changed), "")
        shown = f" {changed}" if changed and not star else ""
        names.append(f"{recipe}{star}{network}{end}{shown}")
    return names


def _parts(run: Run, setting: Sequence[str]) -> tuple[str, str, str]:
    """Model with recipe, what its network is on or without, and what else was changed."""
    config = run.train_config
    known = run.config | {"pretraining": pretraining_of(run.config)}
    network = label(known).removeprefix(config.model)
    changed = [part for part in setting if not part.startswith("backbone=")]
    return f"{config.model} {config.recipe}", network, " ".join(changed)


def signs(number: int) -> list[str]:
    """So many signs: the letters from a, and numbers in brackets after them."""
    return [*ascii_letters[:number], *(f"({n})" for n in range(len(ascii_letters), number))]


def marks(runs: Sequence[Run], faces: FaceSet) -> str:
    """All caveats of the data and of the runs, each once, joined by "; "; "" for none.

    One that not all runs have begins with "some".
    """
    each = [run.results["mark"].split("; ") for run in runs]
    every = dict.fromkeys(part for parts in [[faces.mark], *each] for part in parts if part)
    shared = lambda part: part == faces.mark or all(part in parts for parts in each)
    return "; ".join(part if shared(part) else f"some {part}" for part in every)
