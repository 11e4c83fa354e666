"""Train a model, from Python or from the command line, in one process or several.

    python -m fer_lib.train baseline_cnn --dataset fer2013 --data-dir DIR --preset full
    torchrun --nproc_per_node 2 -m fer_lib.train attention_cnn --set epochs=10

The images stay on the device as uint8 if they fit, the random draws of an epoch depend only on
seed, epoch and process, and metrics stay on the device until the epoch ends. A run that was
killed resumes after its last finished epoch and, on the same CPU with as many processes, ends with
the same numbers as one that was not.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from fer_lib.arguments import APART, add_arguments, parse_settings
from fer_lib.config import RECIPE_NAMES, TrainConfig
from fer_lib.data import FaceSet, load_faces
from fer_lib.device import OTHERS, enough_memory, processes
from fer_lib.files import InputError, continued, locked, require_writable
from fer_lib.given import given_path
from fer_lib.learner import Learner
from fer_lib.models import MODULES, create_model
from fer_lib.optim import create_optimizer, require_layers
from fer_lib.provenance import code_digest
from fer_lib.recipes import OF_WEIGHTS, RECIPES, default_preset, merged_options, own_start, recipe
from fer_lib.runs import Run, find_run, runs_folder, start_run
from fer_lib.training import Training


@enough_memory("training", OTHERS)
def train(
    config: TrainConfig,
    faces: FaceSet,
    *,
    runs: str | Path | None = None,
    progress: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a model; if this config was run on these data before, resume or return that run.

    Args:
        runs: folder of all runs; None: `runs/` in `files.home()`.
        progress: whether to show a progress bar for each epoch.
        quiet: whether to print no line after each epoch, nor for a finished run.

    Returns:
        The finished run.

    Raises:
        InputError: the config does not fit the data, a fine-tuning has no run to start from, the
            faces were changed after loading, another process is training this run, or the GPU has
            too little free memory.
        FloatingPointError: the loss became infinite or NaN; the last good epoch is kept.
    """
    require_start(config)
    faces.require_unchanged()
    main = processes().is_main_process
    run = shared_run(find_run(config, faces, runs) if main else None)
    begun = run is not None and run.begun
    if begun and run.config["environment"].get("code") != code_digest():
        processes().print(
            f"{run.name} was {'trained' if run.finished else 'begun'} by other code, which may "
            "give other numbers; delete its folder to train it again"
        )
    if run and run.finished:
        if not quiet:
            text = f"loaded {run.name}, a finished run of these settings and data"
            if not run.has_weights:
                text += "; its weights are not here: delete its folder to train it again"
            processes().print(text)
        return run
    require_writable(runs_folder(runs))  # before a model is downloaded
    learner = Learner(config, faces, progress=progress, resumes=begun)  # raises on a misfit
    if not main:
        return finished(None, learner, faces, quiet)  # waits for the main process
    with locked(runs_folder(runs) / ".lock", "starting a run"):
        run = find_run(config, faces, runs) or start_run(config, faces, runs)
    with locked(run.folder / ".lock", f"training {run.folder}"):
        return finished(run, learner, faces, quiet)


def finished(run: Run | None, learner: Learner, faces: FaceSet, quiet: bool) -> Run:
    """Train the run of the main process to its end, unless another program has done that by now."""
    run = shared_run(run)
    return run if run.finished else Training(run, learner, faces, quiet).fit()


def require_start(config: TrainConfig) -> None:
    """Raise InputError if a fine-tuning does not start from a run."""
    if config.recipe == "finetune" and own_start(config.pretrained) != "run":
        raise InputError(
            "the recipe finetune starts from a finished run: give --from-run, or create the "
            "config with fer_lib.train.fine_tuning"
        )


def require_buildable(config: TrainConfig, faces: FaceSet) -> None:
    """Check that the network and the optimizer of a training can be built, before others begin.

    They are built without values, so this loads no weights and takes little time.

    Raises:
        InputError: the model or the optimizer does not take its settings, or all layers are frozen.
    """
    with torch.device("meta"):
        model = create_model(config.model, num_classes=len(faces.classes), **config.options)
    require_layers(model, config)
    create_optimizer(model, config)


def shared_run(run: Run | None) -> Run | None:
    """Return in every process the run that the main process gives."""
    (folder,) = broadcast_object_list([str(run.folder) if run else None])
    return Run(folder) if folder else None


def fine_tuning(
    run: Run, name: str | None = None, preset: str | None = None, **changes: Any
) -> TrainConfig:
    """Return the config of a training that starts from the best weights of a finished run.

    The model is that of the run. Its options are those of the run too, except for those of the
    recipe that are not `OF_WEIGHTS`, such as the head's dropout, and those in `changes`.

    Args:
        name: the recipe, "published", "ours" or, if the model has one, "finetune". None: the last
            of these that the model has.
        preset: None: that of the run.
        changes: settings of the training, as `recipe` takes them; `labels` defaults to those of
            the run.

    Raises:
        InputError: the run is unfinished or has lost its weights, its model has no such recipe, or
            a change is not allowed.
    """
    run.require_finished()
    if "pretrained" in changes:
        raise InputError(f"a fine-tuning of {run.folder} starts from its weights: omit pretrained")
    old = run.train_config
    name = name or ("finetune" if (old.model, "finetune") in RECIPES else "ours")
    config = recipe(old.model, name, preset or old.preset, **{"labels": old.labels} | changes)
    of_recipe = RECIPES[old.model, name].get("options", {})
    new = {key: value for key, value in of_recipe.items() if key not in OF_WEIGHTS}
    options = merged_options(old.options, new, changes.get("options", {}))
    return replace(config, options=options, pretrained=str(run.weights))


@continued()
def main(arguments: list[str] | None = None) -> None:
    """Run the command line; after a user's error, end with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("model", choices=sorted(MODULES))
    add_arguments(parser, "TrainConfig")
    parser.set_defaults(dataset=None)
    parser.add_argument(
        "--recipe",
        choices=RECIPE_NAMES,
        help="default: ours; with --from-run finetune, if the model has it",
    )
    parser.add_argument(
        "--from-run",
        metavar="FOLDER",
        help="start from the best weights of this finished run; default dataset, preset and labels "
        "are its own",
    )
    parser.add_argument(
        "--labels",
        help="original, votes, refined_RULE or refined_RULE:soft; default: original",
    )
    args = parser.parse_args(arguments)
    try:
        apart = (*APART, "seed", *([] if args.labels is None else ["labels"]))
        changes = {"seed": args.seed} | parse_settings(args.set, apart)
        if args.labels is not None:
            changes |= {"labels": args.labels}
        if args.from_run is not None:  # an unset variable of a script gives "", which is refused
            run = Run(given_path(args.from_run))
            if run.train_config.model != args.model:
                raise InputError(
                    f"{run.folder} is a run of {run.train_config.model}, not of {args.model}"
                )
            dataset = run.config["data"]["dataset"] if args.dataset is None else args.dataset
            config = fine_tuning(run, args.recipe, args.preset, **changes)
        else:
            dataset = "sample" if args.dataset is None else args.dataset
            preset = args.preset or default_preset(dataset)
            config = recipe(args.model, args.recipe or "ours", preset, **changes)
            require_start(config)
        with processes().main_process_first():  # it writes the cache that the others read
            faces = load_faces(dataset, args.data_dir, say=processes().print)
        run = train(config, faces, runs=args.runs)
        if processes().is_main_process:
            accuracy = run.results["test"]["full"]["accuracy"]
            print(f"{run.folder}: test accuracy {accuracy:.2%} {run.results['mark']}".rstrip())
    except (InputError, FloatingPointError) as error:
        parser.error("; ".join([str(error), *getattr(error, "__notes__", ())]))
    processes().destroy_process_group()  # or several processes end with a warning


if __name__ == "__main__":
    main()
