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
- `computed`: how these parts were computed: `images` (number of test images), `mark` ("" or
  "1,000 of 3,589 test images"), `weights_sha256`, `code` (of views and robustness), `seed`,
  `device`, `threads`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.augment import Prepare
from fer_lib.batches import exact_convolutions, placed, probabilities
from fer_lib.data import FaceSet, load_faces
from fer_lib.device import keep_memory, processes
from fer_lib.evaluate import aligned, evaluate, load_predictions
from fer_lib.evaluate.abstention import abstention, confidence_of, coverage
from fer_lib.evaluate.answers import answers, by_agreement
from fer_lib.evaluate.calibration import accuracy, calibration
from fer_lib.evaluate.corruptions import CORRUPTIONS, undamaged
from fer_lib.evaluate.robustness import compare_views, damage_passes, damaged, view_passes
from fer_lib.explain import first_part, spatial_gates
from fer_lib.files import InputError, read_json, sha256, write_json
from fer_lib.models.cnn import SpatialAttention
from fer_lib.provenance import code_digest, processor
from fer_lib.runs import Run

SEED = 0
CPU_WORK = 2e13
"""Floating-point operations that a CPU may spend on views and robustness: a few minutes."""

FEWEST = 200
"""Fewest test images from which a curve tells enough to be drawn."""

FROM_WEIGHTS = ("views", "robustness", "gates", "computed")

CODE = ("augment", "batches", "evaluate/corruptions", "evaluate/robustness")
"""Modules on which views and robustness depend."""


def evaluate_in_depth(
    run: Run,
    faces: FaceSet,
    *,
    images: int | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Evaluate a finished run, write its `evaluation.json`, and return the content of the file.

    Views and robustness are computed once: earlier results of the same weights are kept if they are
    of as many images or more, or if the CPU is too slow to compute any. If other code computed
    them, `say` is told. Each part is written as soon as it is done. Without the weights, these
    parts are left out, or kept as computed before.

    Args:
        images: number of test images for views, robustness and gates, drawn with a fixed seed.
            None: all on a GPU; on a CPU all if `CPU_WORK` allows, otherwise as many hundreds as it
            allows, or none if it allows fewer than `FEWEST`.
        say: is called with one line on what was kept, computed or left out.

    Raises:
        InputError: `images` is below 1, the run is unfinished or was trained on other data, or the
            weights are not those that made its predictions.
    """
    if images is not None and images < 1:
        raise InputError(f"images must be 1 or more, not {images}")
    run.require_data(faces)
    path, found = run.folder / "evaluation.json", from_predictions(run, faces)
    if run.has_weights:
        write_json(path, found)
        from_weights(run, faces, found, images, say)
        return found
    left_out(found, same_weights=True)  # drops parts that were begun and have no results
    write_json(path, found)
    what = "are those computed before" if "robustness" in found else "are left out"
    say(f"the weights of {run.name} have been deleted: views, robustness and maps {what}")
    return found


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


def from_weights(
    run: Run,
    faces: FaceSet,
    found: dict[str, Any],
    images: int | None,
    say: Callable[[str], object],
) -> None:
    """Add views, robustness and gates to `found`, and write the file after each part."""
    path, subject = run.folder / "evaluation.json", Subject(run, faces)
    total = len(faces.where("test"))
    wanted = subject.affordable() if images is None else min(images, total)
    made, now = found.get("computed", {}), subject.conditions(wanted)
    enough = made.get("images", -1) >= wanted
    same = enough and all(made[key] == now[key] for key in ("weights_sha256", "seed"))
    whole = found.get("views") and set(CORRUPTIONS) <= set(found.get("robustness", {}))
    if same and whole and ("gates" in found or not subject.gated):
        by = "" if made["code"] == now["code"] else ", by other code (delete the file to repeat it)"
        say(f"views and robustness: loaded from evaluation.json, {extent(made, total)}{by}")
        return
    if not wanted:
        left_out(found, same_weights=made.get("weights_sha256") == now["weights_sha256"])
        write_json(path, found)
        what = "the rest is" if "computed" in found else "are"
        say(f"views and robustness of {run.name} would take long on this CPU and {what} left out: "
            f"use a GPU, or say how many test images (images={FEWEST})")  # fmt: skip
        return
    if not same or (made["code"] != now["code"] and not whole):
        made = now
        found |= {"views": {}, "robustness": {}, "computed": made}
        found.pop("gates", None)
    subject.take(made["images"])
    what = "gates" if same and whole else "views and robustness"
    say(f"{what}: computed, {extent(made, total)}")
    if not found.get("views"):
        found["views"] = subject.views()
        write_json(path, found)
    for name in CORRUPTIONS:
        if name not in found.setdefault("robustness", {}):
            found["robustness"][name] = subject.robustness(name)
            write_json(path, found)
    if subject.gated and "gates" not in found:
        found["gates"] = subject.gates()
        write_json(path, found)


def left_out(found: dict[str, Any], *, same_weights: bool) -> None:
    """Drop views, robustness and gates if they are empty or of other weights."""
    for key in ("views", "robustness", "gates"):
        if not (same_weights and found.get(key)):
            found.pop(key, None)
    if not {"views", "robustness", "gates"} & set(found):
        found.pop("computed", None)


def extent(computed: dict[str, Any], total: int) -> str:
    return f"on {computed['mark'] or f'all {total:,} test images'}, {computed['device']}"


class Subject:
    """A model on its device, with some of the test images."""

    def __init__(self, run: Run, faces: FaceSet):
        keep_memory()
        self.run, self.faces, self.device = run, faces, processes().device
        self.model = run.load_model().to(self.device).requires_grad_(False)
        self.prepare = Prepare(self.model.pretrained_cfg, self.device)
        self.flip = run.train_config.flip_tta
        self.gated = first_part(self.model, SpatialAttention) is not None

    def conditions(self, images: int) -> dict[str, Any]:
        """Return the content of `computed` for what is computed now from a number of images."""
        total = len(self.faces.where("test"))
        return {
            "images": images,
            "mark": f"{images:,} of {total:,} test images" if images < total else "",
            "device": processor(),
            "threads": torch.get_num_threads(),
            "weights_sha256": sha256(self.run.weights),
            "code": code_digest(CODE),
            "seed": SEED,
        }

    def affordable(self) -> int:
        """Return how many test images to use: all, or what takes a CPU minutes; 0 for too few."""
        rows = self.faces.where("test")
        if self.device.type != "cpu":
            return len(rows)
        one = torch.from_numpy(self.faces.images[rows[:1]])
        with FlopCounterMode(display=False) as counter:
            probabilities(self.model, one, self.prepare)
        passes = 1 + view_passes() + damage_passes(self.flip) + 5 * self.gated
        number = int(CPU_WORK / (passes * max(1, counter.get_total_flops())))
        if number >= len(rows):
            return len(rows)
        return number // 100 * 100 if number >= FEWEST else 0

    def take(self, number: int) -> None:
        """Draw test images, and check that the model predicts them as in `predictions.npz`."""
        rows = self.faces.where("test")
        drawn = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:number])
        self.images = placed(torch.from_numpy(self.faces.images[rows[drawn]]), self.device)
        self.labels = self.faces.labels[rows[drawn]]
        predictions = load_predictions(self.run.folder / "predictions.npz")
        kept = aligned(self.faces, predictions, "test")[drawn].argmax(1)
        now = probabilities(self.model, self.images, self.prepare, flip=self.flip).argmax(1)
        if (now.cpu().numpy() == kept).mean() < 0.98:
            raise InputError(
                f"{self.run.weights} does not predict what predictions.npz beside it contains: "
                "delete the run folder and train again"
            )
        self.clean = accuracy(kept == self.labels)

    def views(self) -> dict[str, Any]:
        return compare_views(self.model, self.images, self.labels, self.prepare)

    def robustness(self, name: str) -> list[dict[str, Any]]:
        severity = undamaged(name, self.images)
        clean = {"severity": severity, "unit": CORRUPTIONS[name].unit, **self.clean}
        worse = damaged(
            self.model, self.images, self.labels, self.prepare, name, flip=self.flip, seed=SEED
        )
        return [clean, *worse]

    def gates(self) -> dict[str, Any]:
        with exact_convolutions():
            parts = [spatial_gates(self.model, self.prepare(x)) for x in self.images.split(256)]
        means = [torch.cat(stage).mean(0) for stage in zip(*parts, strict=True)]
        maps = [[[round(gate, 4) for gate in row] for row in mean.tolist()] for mean in means]
        middle, answers = self.images.shape[-1] // 2, {}
        halves = {"none": slice(0), "left": slice(middle), "right": slice(middle, None)}
        for name, half in halves.items():
            images = self.images.clone()
            images[..., half] = 128
            answers[name] = self.answers(images)
        covered = {name: accuracy(some == self.labels) for name, some in answers.items()}
        last = [part for part in self.model.modules() if isinstance(part, SpatialAttention)][-1]
        with last.conv.register_forward_hook(lambda _, __, logits: logits.flip(-1)):
            turned = self.answers(self.images)
        changed = float((turned != answers["none"]).mean())
        mirrored = accuracy(turned == self.labels) | {"changed": changed}
        return {"maps": maps, "covered": covered, "mirrored": mirrored}

    def answers(self, images: torch.Tensor) -> np.ndarray:
        return probabilities(self.model, images, self.prepare).argmax(1).cpu().numpy()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; after a user's error, end with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.in_depth", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--data-dir", help="folder or file of the data; default: as cached")
    parser.add_argument("--images", type=int, help="test images for views and robustness")
    args = parser.parse_args(arguments)
    try:
        for run in map(Run, args.runs):
            faces = load_faces(run.config["data"]["dataset"], args.data_dir)
            found = evaluate_in_depth(run, faces, images=args.images)
            before, after = (found["calibration"][when]["ece"] for when in ("before", "after"))
            print(f"{run.folder / 'evaluation.json'}: accuracy {found['full']['accuracy']:.2%}, "
                  f"ECE {before:.3f}, scaled {after:.3f} {found['mark']}".rstrip())  # fmt: skip
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
