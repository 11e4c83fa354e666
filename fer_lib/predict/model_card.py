"""The model card of kept weights: every number in it is read from the run or from the file."""

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from fer_lib import __version__
from fer_lib.batches import training_rows
from fer_lib.data import FaceSet
from fer_lib.evaluate import Predictions, aligned
from fer_lib.evaluate.calibration import accuracy, scaled, scores
from fer_lib.files import sha256
from fer_lib.markdown import markdown
from fer_lib.models.weights import read_weights
from fer_lib.provenance import short, training_command
from fer_lib.runs import Run

TEMPLATE = """# Model card: {name}

{mark}The weights that `Predictor.default()` loads: `{model}`, {parameters:,} parameters,
{precision}, {size:,} bytes, SHA-256 `{sha256}`.
`python -m fer_lib.predict.keep` (fer_lib {version}) wrote them and this card from the run
`{run}`.

## What it does

{purpose}

## Data and training

{training}

    {command}

## Accuracy

{scores}

{reading}

{per_class}

## Confidence

{confidence}

## Limits

- It names the word that the labels of {dataset} would give a small picture of a face. It does not
  know what a person feels: a face does not show that reliably, and people read it differently.
- The labels of {dataset} are noisy: many do not name what most people see. Nobody recorded who is
  shown: how accuracy differs by age, gender, skin or culture is not known.
- The accuracies above are of faces cut as those of {dataset}. Of other pictures, faces that the
  detector misses are not read at all, and those cut otherwise are read less well.
- Its test images were collected as its training images were. Other pictures (profiles, covered
  faces, strong light, children) are probably read worse than these numbers say; this was not
  measured.
- Not for decisions about people: hiring, education, policing, health, or the like.

## Licence

The weights are under the project's MIT licence. The images that they were learned from are not part
of the project, and FER2013 was published for research: check whether that permits your use.
"""


def model_card(
    run: Run, faces: FaceSet, predictions: Predictions, use: dict[str, Any], path: Path, name: str
) -> str:
    """Return the model card of the kept weights, in Markdown.

    Args:
        use: as `abstention.operating_point` returns it.
        path: the weights file, which may still have a temporary name.
        name: the name that the file will have.
    """
    results = run.results
    state, _ = read_weights(path)
    kinds = {str(t.dtype).split(".")[1] for t in state.values() if t.is_floating_point()}
    doubt = ": the numbers say nothing about people" if "sample data" in faces.mark else ""
    mark = f"**{results['mark']}{doubt}.** " if results["mark"] else ""
    return TEMPLATE.format(
        name=name,
        mark=mark,
        model=results["model"],
        parameters=results["parameters"],
        precision=" and ".join(sorted(kinds)),
        size=path.stat().st_size,
        sha256=sha256(path),
        version=__version__,
        run=run.name,
        purpose=purpose(faces),
        training=training(run, faces),
        command=training_command(run.train_config, results["dataset"]),
        scores=scores_table(results),
        reading=reading(results),
        per_class=class_table(results["test"]["full"]["per_class"]),
        confidence=confidence(faces, predictions, use),
        dataset=faces.name,
    )


def paragraph(text: str) -> str:
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def purpose(faces: FaceSet) -> str:
    channels, height, width = faces.images.shape[1:]
    return paragraph(
        f"It takes a face of {height}×{width} {'grey' if channels == 1 else 'RGB'} pixels and "
        f"gives a probability to each of {len(faces.classes)} words: {', '.join(faces.classes)}. "
        "`Predictor` finds the faces in a picture and crops them."
    )


def training(run: Run, faces: FaceSet) -> str:
    results, environment, config = run.results, run.config["environment"], run.train_config
    train = len(training_rows(faces, config.limit, config.seed, config.labels))
    valid, test = (len(faces.where(split)) for split in ("valid", "test"))
    return paragraph(
        f"{faces.name}: {train:,} training images, {valid:,} for validation, {test:,} for test "
        f'(fingerprint `{faces.fingerprint[:16]}`). Recipe "{results["recipe"]}", preset '
        f"{results['preset']}, seed {results['seed']}, {results['labels']} labels, "
        f"{results['epochs']} epochs, of which the one with the best validation accuracy is kept "
        f"(number {results['best_epoch']}); {results['train_seconds'] / 60:.0f} minutes on "
        f"{environment['processor']} with torch {environment['torch']}, at commit "
        f"{short(environment['commit']) or 'unknown'}. The same training again:"
    )


def scores_table(results: dict[str, Any]) -> str:
    """Return a table of accuracy, macro-F1 and balanced accuracy on each set that was scored."""
    parts = {
        "test": results["test"]["full"],
        "clean test": results["test"].get("clean"),
        "test, FERPlus majority labels": results["test"].get("ferplus_majority"),
        "validation (used to choose the epoch)": results["valid"]["full"],
    }
    rows = []
    for title, part in parts.items():
        if part:
            low, high = part["interval"]["accuracy"]
            share = f"{part['accuracy']:.2%} ({low:.1%} to {high:.1%})"
            rows.append(
                {
                    "images": title,
                    "number": f"{part['n']:,}",
                    "accuracy": share,
                    "macro-F1": f"{part['macro_f1']:.3f}",
                    "balanced accuracy": f"{part['balanced_accuracy']:.1%}",
                }
            )
    return markdown(pd.DataFrame(rows).set_index("images"))


def reading(results: dict[str, Any]) -> str:
    """Say how the table of scores is to be read."""
    text = (
        "In brackets: 95 % bootstrap intervals. Clean test images are those without a copy among "
        "training and validation images, each counted once. "
    )
    if "one_view" in results:
        text += (
            "Each answer is the mean over a face and its mirror image, as `Predictor` computes it "
            f"too; from the face alone, test accuracy is {results['one_view']['test']:.2%}. "
        )
    return paragraph(
        f"{text}Validation images chose the epoch and the recipe, and test scores of earlier runs "
        "may have been known when this one was planned (for the model of the package they were: "
        "report, chapter 13): accuracies may be too high by an unknown amount."
    )


def class_table(per_class: dict[str, dict[str, float]]) -> str:
    table = pd.DataFrame.from_dict(per_class, orient="index").rename_axis("test")
    scores = table[["precision", "recall", "f1"]].map("{:.2f}".format)
    return markdown(scores.rename(columns={"f1": "F1"}).assign(images=table["support"].map(str)))


def confidence(faces: FaceSet, predictions: Predictions, use: dict[str, Any]) -> str:
    """Say what temperature and threshold, chosen on validation images, do on the test images."""
    p, labels = aligned(faces, predictions, "test"), faces.labels[faces.where("test")]
    after = scaled(p, use["temperature"])
    text = (
        f"Probabilities are calibrated by the temperature {use['temperature']:.3f}, fitted on "
        f"validation images: the expected calibration error on test images is "
        f"{scores(p, labels)['ece']:.3f} without and {scores(after, labels)['ece']:.3f} with it. "
    )
    if use["threshold"] is None:
        return paragraph(
            f"{text}No threshold makes {use['target']:.0%} of the answers right on validation "
            "images, so none counts as sure."
        )
    kept = after.max(1) >= use["threshold"]
    correct = np.asarray(after.argmax(1) == labels)
    text += (
        f"An answer counts as sure from a probability of {use['threshold']:.3f} on, the least from "
        f"which {use['target']:.0%} of them are right on validation images"
    )
    if kept.any():
        found = accuracy(correct[kept])
        text += (
            f"; on test images {kept.mean():.1%} of the answers are sure, and of those "
            f"{found['accuracy']:.1%} are right ({found['low']:.1%} to {found['high']:.1%}, "
            "Wilson's 95 % interval)"
        )
    return paragraph(f"{text}.")
