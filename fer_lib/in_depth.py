"""Evaluate a finished run in depth, and write its `evaluation.json`.

    python -m fer_lib.in_depth runs/20260101-000000_baseline_cnn_fer2013_s0

The file contains, as plain numbers (shares in 0..1):

- `run`, `mark` (the caveat of data and run, "" for none), `test_images`;
- `full`, `clean`, `ferplus_majority`: see `evaluate.evaluate`;
- `calibration`: `temperature`; `before`, `after`: `ece`, `nll`, `brier`, `interval`, `confidence`,
  `ece_if_calibrated` (see `calibration.scores`); `bins`, `bins_after`: lists of `from`, `to`,
  `confidence`, `n`, `accuracy`, `low`, `high`;
- `coverage`: a list of `coverage`, `threshold`, `n`, `accuracy`, `low`, `high`, beginning with all
  images;
- `abstention`: `aurc`; `targets`: a list of `target`, `threshold`, `valid_coverage`, `coverage`,
  `n`, `accuracy`, `low`, `high`; if the target is not reached on validation, `threshold` is null
  and the rest is absent; if no test image is answered, `n` and the rest are absent;
- `accuracy_by_agreement`: a list of `from`, `to`, `n`, `accuracy`, `low`, `high`; [] without votes.

The following parts are computed from the weights, and absent if these were never there:

- `views`: by name ("one", "mirror", "ten_crop"), see `robustness.compare_views`;
- `robustness`: for each kind of `corruptions.CORRUPTIONS` a list of `severity`, `unit`, `n`,
  `accuracy`, `low`, `high`; the first is of undamaged images, the others go from mild to strong;
- `gates`, for models with spatial attention, in one view: `maps`, the gates of each attention, mean
  over the images, in order; `covered`: by side ("none", "left", "right") `n`, `accuracy`, `low`,
  `high` with that half of every image made grey; `mirrored`: the same with the last gate flipped
  left to right, and the share of answers that this `changed`;
- `experts`, for models with a mixture of experts, in one view: by class, the share of the routes of
  its images that went to each expert, in order; a class without images is left out;
- `computed`: how these parts were computed: `images` (number of test images), `mark` ("" or
  "1,000 of 3,589 test images"), `weights_sha256`, `code` (of views and robustness), `seed`,
  `device`, `threads`.
"""

import argparse
from typing import Any

from fer_lib.data import FaceSet, load_faces
from fer_lib.device import OTHERS, enough_memory
from fer_lib.evaluate import evaluate, load_predictions
from fer_lib.evaluate.abstention import abstention, confidence_of, coverage
from fer_lib.evaluate.answers import answers, by_agreement
from fer_lib.evaluate.calibration import calibration
from fer_lib.evaluate.corruptions import CORRUPTIONS
from fer_lib.files import InputError, continued, read_json, write_json
from fer_lib.from_weights import FEWEST, Subject
from fer_lib.given import given_runs
from fer_lib.runs import Run

COMPUTED = ("views", "robustness", "gates", "experts")
FROM_WEIGHTS = (*COMPUTED, "computed")


@enough_memory("evaluating in depth", OTHERS)
def evaluate_in_depth(run: Run, faces: FaceSet, *, images: int | None = None) -> dict[str, Any]:
    """Evaluate a finished run, write its `evaluation.json`, and return the content of the file.

    Views and robustness are computed once: earlier results of the same weights are kept if they are
    of as many images or more, or if the CPU is too slow to compute any. Each part is written as
    soon as it is done. Without the weights, these parts are left out, or kept as computed before.
    A printed line says what was kept (also whether other code computed it), computed or left out.

    Args:
        images: number of test images for all that needs the weights, drawn with a fixed seed.
            None: all on a GPU; on a CPU all if `from_weights.CPU_WORK` allows, otherwise as many
            hundreds as it allows, or none if it allows fewer than `FEWEST`.

    Raises:
        InputError: `images` is below 1, the run is unfinished or was trained on other data, or the
            weights are not those that made its predictions.
    """
    require_images(images)
    run.require_data(faces)
    path, found = run.folder / "evaluation.json", from_predictions(run, faces)
    if run.has_weights:
        write_json(path, found)
        from_weights(run, faces, found, images)
        return found
    left_out(found, same_weights=True)  # drops parts that were begun and have no results
    write_json(path, found)
    what = "are those computed before" if "robustness" in found else "are left out"
    print(f"the weights of {run.name} have been deleted: the parts that need them {what}")
    return found


def require_images(images: int | None) -> None:
    """Raise InputError for a number of images below 1."""
    if images is not None and images < 1:
        raise InputError(f"images must be 1 or more, not {images}")


def from_predictions(run: Run, faces: FaceSet) -> dict[str, Any]:
    """Compute all parts that follow from the kept predictions; takes seconds, needs no weights.

    The parts that `evaluation.json` has from the weights are added as they are.
    """
    predictions = load_predictions(run.folder / "predictions.npz")
    path = run.folder / "evaluation.json"
    earlier = read_json(path) if path.exists() else {}
    return {
        "run": run.name,
        "mark": run.results["mark"],
        "test_images": len(faces.where("test")),
        **evaluate(faces, predictions),
        "calibration": calibration(faces, predictions),
        "coverage": coverage(*confidence_of(faces, predictions, "test")),
        "abstention": abstention(faces, predictions),
        "accuracy_by_agreement": by_agreement(answers(faces, predictions)),
        **{key: earlier[key] for key in FROM_WEIGHTS if key in earlier},
    }


def from_weights(run: Run, faces: FaceSet, found: dict[str, Any], images: int | None) -> None:
    """Add the parts that need the weights to `found`, and write the file after each."""
    path, subject = run.folder / "evaluation.json", Subject(run, faces)
    total = len(faces.where("test"))
    wanted = subject.affordable() if images is None else min(images, total)
    made, now = found.get("computed", {}), subject.conditions(wanted)
    enough = made.get("images", -1) >= wanted
    same = enough and all(made[key] == now[key] for key in ("weights_sha256", "seed"))
    whole = found.get("views") and set(CORRUPTIONS) <= set(found.get("robustness", {}))
    missing = [name for name in subject.own_parts if name not in found]
    if same and whole and not missing:
        by = "" if made["code"] == now["code"] else ", by other code (delete the file to repeat it)"
        print(f"views and robustness: loaded from evaluation.json, {extent(made, total)}{by}")
        return
    lacks = " and ".join(missing) if same and whole else "views and robustness"
    if not wanted:
        left_out(found, same_weights=made.get("weights_sha256") == now["weights_sha256"])
        write_json(path, found)
        what = "the rest is" if "computed" in found and not whole else "are"
        print(
            f"{lacks} of {run.name} would take long on this CPU and {what} left out: "
            f"use a GPU, or say how many test images (images={FEWEST})"
        )
        return
    if not same or (made["code"] != now["code"] and not whole):
        made = now
        found |= {"views": {}, "robustness": {}, "computed": made}
        for name in subject.own_parts:
            found.pop(name, None)
    subject.take(made["images"])
    print(f"{lacks}: computed, {extent(made, total)}")
    if not found.get("views"):
        found["views"] = subject.views()
        write_json(path, found)
    for name in CORRUPTIONS:
        if name not in found.setdefault("robustness", {}):
            found["robustness"][name] = subject.robustness(name)
            write_json(path, found)
    for name, compute in subject.own_parts.items():
        if name not in found:
            found[name] = compute()
            write_json(path, found)


def left_out(found: dict[str, Any], *, same_weights: bool) -> None:
    """Drop the parts that need the weights if they are empty or of other weights."""
    for key in COMPUTED:
        if not (same_weights and found.get(key)):
            found.pop(key, None)
    if not set(COMPUTED) & set(found):
        found.pop("computed", None)


def extent(computed: dict[str, Any], total: int) -> str:
    return f"on {computed['mark'] or f'all {total:,} test images'}, {computed['device']}"


@continued()
def main(arguments: list[str] | None = None) -> None:
    """Run the command line; after a user's error, end with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.in_depth", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--data-dir", help="folder or file of the data; default: as cached")
    parser.add_argument("--images", type=int, help="test images for views and robustness")
    args = parser.parse_args(arguments)
    try:
        require_images(args.images)
        runs = given_runs(args.runs)
        for run in runs:  # before the first is evaluated, which may take hours
            run.require_finished()
        for run in runs:
            name = run.config["data"]["dataset"]
            faces = load_faces(name, args.data_dir, expected=run.fingerprint)
            found = evaluate_in_depth(run, faces, images=args.images)
            before, after = (found["calibration"][when]["ece"] for when in ("before", "after"))
            print(f"{run.folder / 'evaluation.json'}: accuracy {found['full']['accuracy']:.2%}, "
                  f"ECE {before:.3f}, scaled {after:.3f} {found['mark']}".rstrip())  # fmt: skip
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
