"""Name runs that are compared by their model, their recipe, and what they changed in it."""

from collections.abc import Mapping, Sequence
from string import ascii_letters

from fer_lib.changed import changed_settings, label
from fer_lib.data.faceset import FaceSet
from fer_lib.pretrain.folder import pretraining_of
from fer_lib.runs import Run

SHORT = 24
"""Characters up to which a run's name spells out its changes; longer ones become a sign."""


def short_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run from its system and seed, as in "vit_tiny ours s0".

    See `system_names` for the system. The time of a run's start is added to names that would
    otherwise be equal.
    """
    short = _named(runs, [f" s{run.train_config.seed}" for run in runs])
    return [
        name if short.count(name) == 1 else f"{name} {run.name.split('_')[0]}"
        for name, run in zip(short, runs, strict=True)
    ]


def named(runs: Sequence[Run] | Mapping[str, Run]) -> dict[str, Run]:
    """Return runs by the names that they are given, or else by `short_names`."""
    if isinstance(runs, Mapping):
        return dict(runs)
    return dict(zip(short_names(runs), runs, strict=True))


def contents(run: Run) -> dict[str, str | None]:
    """Return the SHA-256 of what a run learned from and its settings only name.

    Returns:
        `pretrained_sha256` (of the first weights, from a file or the hub) and `refined_sha256` (of
        the training targets by refined labels); None if the run does not have it.
    """
    parts = (("environment", "pretrained_sha256"), ("data", "refined_sha256"))
    return {key: run.config.get(part, {}).get(key) for part, key in parts}


def settings(runs: Sequence[Run]) -> list[list[str]]:
    """Return what each run changed in its recipe, as `fer_lib.changed.changed_settings` does.

    Runs may have changed the same settings but differ in what these name (see `contents`), for
    example if labels were refined again. Then each list also has the first digits of its SHA-256.
    """
    told = [changed_settings(run.train_config) for run in runs]
    stems = [
        (config.model, config.recipe, config.preset, *changed)
        for config, changed in zip((run.train_config for run in runs), told, strict=True)
    ]
    for key in ("pretrained_sha256", "refined_sha256"):
        found = [contents(run)[key] or "unknown" for run in runs]
        kinds: dict[tuple[str, ...], set[str]] = {}
        for run, stem, digest in zip(runs, stems, found, strict=True):
            if digest == "unknown" and run.train_config.pretrained is True:
                continue  # weights of the hub, by code that did not record which
            kinds.setdefault(stem, set()).add(digest)
        for stem, digest, changed in zip(stems, found, told, strict=True):
            if len(kinds.get(stem, ())) > 1:
                changed.append(f"{key}={digest[:8]}")
    return told


def system_names(runs: Sequence[Run]) -> list[str]:
    """Return model, recipe and changes of each run; runs of equal name differ only in the seed.

    A network that is not the recipe's own is named, as in "vit_tiny ours on vit_small_patch16_224"
    (see `fer_lib.changed.label`). Other changes follow if they are short. If they are long, a star
    follows the recipe, with a letter if several runs changed different things: "vit_tiny ours*a".
    The column `setting` of `scores.leaderboard` always has all changes.
    """
    return _named(runs, [""] * len(runs))


def _named(runs: Sequence[Run], ends: Sequence[str]) -> list[str]:
    """Return each run's system name, with its `ends` item before the short changes."""
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
    """Return model with recipe, what sets the network apart, and the other changes."""
    config = run.train_config
    known = run.config | {"pretraining": pretraining_of(run.config)}
    network = label(known).removeprefix(config.model)
    changed = [part for part in setting if not part.startswith("backbone=")]
    return f"{config.model} {config.recipe}", network, " ".join(changed)


def signs(number: int) -> list[str]:
    """Return `number` signs: the letters a to z and A to Z, then numbers in brackets."""
    return [*ascii_letters[:number], *(f"({n})" for n in range(len(ascii_letters), number))]


def marks(runs: Sequence[Run], faces: FaceSet) -> str:
    """Return all caveats of the data and of the runs, each once, joined by "; "; "" for none.

    "some" is put before a caveat that only some of the runs have.
    """
    each = [run.results["mark"].split("; ") for run in runs]
    every = dict.fromkeys(part for parts in [[faces.mark], *each] for part in parts if part)
    shared = lambda part: part == faces.mark or all(part in parts for parts in each)
    return "; ".join(part if shared(part) else f"some {part}" for part in every)
