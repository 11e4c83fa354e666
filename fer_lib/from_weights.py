"""A finished model and some test images, and what is computed from its weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_lib.augment import Prepare
from fer_lib.batches import exact_convolutions, placed, probabilities
from fer_lib.data import FaceSet
from fer_lib.device import keep_memory, processes
from fer_lib.evaluate import aligned, load_predictions
from fer_lib.evaluate.calibration import accuracy
from fer_lib.evaluate.corruptions import CORRUPTIONS, undamaged
from fer_lib.evaluate.robustness import compare_views, damage_passes, damaged, view_passes
from fer_lib.explain import expert_table, first_part, half_covered, routing, spatial_gates
from fer_lib.files import InputError, sha256
from fer_lib.models.cnn import SpatialAttention
from fer_lib.models.moe import SparseExperts
from fer_lib.provenance import code_digest, processor
from fer_lib.runs import Run

SEED = 0
CPU_WORK = 2e13
"""Floating-point operations that a CPU may spend on views and robustness: a few minutes."""

FEWEST = 200
"""Fewest test images from which a curve tells enough to be drawn."""

CODE = ("augment", "batches", "evaluate/corruptions", "evaluate/robustness")
"""Modules on which views and robustness depend."""


class Subject:
    """A model on its device, with some of the test images."""

    def __init__(self, run: Run, faces: FaceSet):
        keep_memory()
        self.run, self.faces, self.device = run, faces, processes().device
        self.model = run.load_model().to(self.device).requires_grad_(False)
        self.prepare = Prepare(self.model.pretrained_cfg, self.device)
        self.flip = run.train_config.flip_tta
        self.gated = first_part(self.model, SpatialAttention) is not None
        self.routed = first_part(self.model, SparseExperts) is not None

    @property
    def own_parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """The functions that compute what only such a model has, by the name of the part."""
        parts = {"gates": (self.gated, self.gates), "experts": (self.routed, self.experts)}
        return {name: compute for name, (has, compute) in parts.items() if has}

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
        own = 5 * self.gated + self.routed
        passes = 1 + self.flip + view_passes() + damage_passes(self.flip) + own
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
        """Compare predictions from one view and from several, on the images of `take`."""
        return compare_views(self.model, self.images, self.labels, self.prepare)

    def robustness(self, name: str) -> list[dict[str, Any]]:
        """Score the images of `take` under a corruption, undamaged first."""
        severity = undamaged(name, self.images)
        clean = {"severity": severity, "unit": CORRUPTIONS[name].unit, **self.clean}
        worse = damaged(
            self.model, self.images, self.labels, self.prepare, name, flip=self.flip, seed=SEED
        )
        return [clean, *worse]

    def gates(self) -> dict[str, Any]:
        """Describe the spatial gates of an attention CNN, on the images of `take`."""
        with exact_convolutions():
            parts = [spatial_gates(self.model, self.prepare(x)) for x in self.images.split(256)]
        means = [torch.cat(stage).mean(0) for stage in zip(*parts, strict=True)]
        maps = [[[round(gate, 4) for gate in row] for row in mean.tolist()] for mean in means]
        answers = {name: self.answers(some) for name, some in half_covered(self.images).items()}
        covered = {name: accuracy(some == self.labels) for name, some in answers.items()}
        last = [part for part in self.model.modules() if isinstance(part, SpatialAttention)][-1]
        with last.conv.register_forward_hook(lambda _, __, logits: logits.flip(-1)):
            turned = self.answers(self.images)
        changed = float((turned != answers["none"]).mean())
        mirrored = accuracy(turned == self.labels) | {"changed": changed}
        return {"maps": maps, "covered": covered, "mirrored": mirrored}

    def experts(self) -> dict[str, list[float]]:
        """Return, by class, the share of its routes to each expert, on the images of `take`."""
        with exact_convolutions():
            gates = [routing(self.model, self.prepare(x)) for x in self.images.split(256)]
        table = expert_table(torch.cat(gates), self.labels, self.faces.classes)
        return table.dropna().T.to_dict("list")

    def answers(self, images: torch.Tensor) -> np.ndarray:
        """Return the most probable class of images (B, C, H, W) uint8: (B,) int64."""
        return probabilities(self.model, images, self.prepare).argmax(1).cpu().numpy()
