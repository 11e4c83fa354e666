"""Voters from Hugging Face: votes, refused checkpoints, cached answers, resuming.

The checkpoints are written here, tiny and with random weights: nothing is downloaded.
"""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fer_lib.data.sample import make_sample
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, EMOTIONS_8
from fer_lib.refine import hub, rules
from fer_lib.refine.hub import HUB_VOTERS, hub_votes, load_processor

ORDERS = {
    "alphabetical": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "capitals": ("Sad", "Disgust", "Angry", "Neutral", "Fear", "Surprise", "Happy"),
    "contempt": ("afraid", "contempt", "joy", "sad", "neutral", "angry", "surprised", "disgusted"),
    "no-disgust": ("surprise", "neutral", "sad", "happy", "fear", "angry"),
}
FAVOURS = dict(zip(ORDERS, ("sadness", "Happy", "contempt", "fear"), strict=True))
SPREAD = 2.0  # logit of the favourite class; the second has half of it, the others 0


@pytest.fixture(scope="module")
def faces():
    return make_sample(100)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def write(folder, labels, favours=None, *, second=None, seed=0, side=32):
    """Write a checkpoint that always favours a class, or whose vote depends on the image."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(seed)
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny |= {"intermediate_size": 8, "image_size": side, "patch_size": 16}
    model = ViTForImageClassification(ViTConfig(id2label=dict(enumerate(labels)), **tiny))
    if favours is None:
        nn.init.normal_(model.vit.embeddings.patch_embeddings.projection.weight)
        nn.init.normal_(model.classifier.weight, std=2)
    else:
        nn.init.zeros_(model.classifier.weight)
        with torch.no_grad():
            model.classifier.bias[:] = 0
            model.classifier.bias[labels.index(favours)] = SPREAD
            if second:
                model.classifier.bias[labels.index(second)] = SPREAD / 2
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


def edit(folder, file, **values):
    path = f"{folder}/{file}"
    with open(path) as old:
        settings = json.load(old) | values
    with open(path, "w") as new:
        json.dump({key: value for key, value in settings.items() if value is not None}, new)


@pytest.fixture
def voters(tmp_path):
    """The folders of four voters."""
    return [write(tmp_path / key, order, FAVOURS[key]) for key, order in ORDERS.items()]


@pytest.fixture
def counted(monkeypatch):
    """The sizes of the batches that models are given, without the single image of a check."""
    from transformers import ViTForImageClassification

    forward, seen = ViTForImageClassification.forward, SimpleNamespace(sizes=[], kill_at=None)

    def count(self, pixel_values, **options):
        if len(pixel_values) > 1:
            seen.sizes.append(len(pixel_values))
            if len(seen.sizes) == seen.kill_at:
                raise KeyboardInterrupt
        return forward(self, pixel_values=pixel_values, **options)

    monkeypatch.setattr(ViTForImageClassification, "forward", count)
    return seen


def refused(fer_home, faces, names, **options):
    """Return the error message, after checking that no voter was asked."""
    with pytest.raises(InputError) as caught:
        hub_votes(faces, faces.where("train"), names, **options)
    assert not list(fer_home.rglob("voter_*"))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_voters_with_different_label_orders_vote_by_name(faces, voters):
    rows = faces.where("train")[::-1]
    ballots = hub_votes(faces, rows, voters)
    assert ballots.voters == tuple(voters)
    assert ballots.probabilities.shape == (4, len(rows), 7)
    assert ballots.probabilities.dtype == np.float32
    sad, happy, contempt, fear = ballots.votes()
    assert (sad == EMOTIONS.index("sad")).all()
    assert (happy == EMOTIONS.index("happy")).all()
    assert (contempt == -1).all()
    disgusted = faces.labels[rows] == EMOTIONS.index("disgust")
    assert (disgusted != disgusted[::-1]).any()
    assert (fear == np.where(disgusted, -1, EMOTIONS.index("fear"))).all()
    for voter, others in ((0, 6), (1, 6), (3, 5)):
        shares = ballots.probabilities[voter, ~disgusted].max(1)
        np.testing.assert_allclose(shares, np.exp(SPREAD) / (np.exp(SPREAD) + others), rtol=1e-5)


def test_contempt_as_second_choice_is_left_out_of_seven_classes(faces, tmp_path):
    name = write(tmp_path / "v", ORDERS["contempt"], "surprised", second="contempt")
    vote = hub_votes(faces, faces.where("test"), [name]).probabilities[0]
    expected = np.ones(7)
    expected[EMOTIONS.index("surprise")] = np.exp(SPREAD)
    np.testing.assert_allclose(vote, np.tile(expected / expected.sum(), (len(vote), 1)), rtol=1e-5)


def test_with_eight_classes_a_voter_without_contempt_abstains_on_it(faces, voters):
    labels = faces.labels.copy()
    labels[::2] = EMOTIONS_8.index("contempt")
    eight = replace(faces, labels=labels, classes=EMOTIONS_8, manifest={})
    votes = hub_votes(eight, np.arange(20), voters).votes()
    assert (votes[2] == EMOTIONS_8.index("contempt")).all()
    assert (votes[0, ::2] == -1).all()
    assert (votes[0, 1::2] == EMOTIONS_8.index("sad")).all()


def test_the_order_of_the_classes_in_a_head_does_not_matter(faces, tmp_path):
    from transformers import AutoModelForImageClassification

    labels = ORDERS["alphabetical"]
    names = [write(tmp_path / "a", labels), str(tmp_path / "b")]
    shutil.copytree(*names)
    order = [3, 0, 6, 2, 5, 1, 4]
    model = AutoModelForImageClassification.from_pretrained(names[0])
    for tensor in (model.classifier.weight, model.classifier.bias):
        tensor.data = tensor.data[order]
    model.config.id2label = {i: labels[old] for i, old in enumerate(order)}
    model.save_pretrained(names[1])
    one, other = hub_votes(faces, np.arange(40), names).probabilities
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert len(np.unique(one.argmax(1))) > 1


def per_image(name, images):
    """Return a voter's probabilities (N, M), by its own pipeline on one PIL image at a time."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(name).eval()
    answers = []
    for image in images:
        picture = Image.fromarray(image.transpose(1, 2, 0).squeeze()).convert("RGB")
        with torch.no_grad():
            logits = model(**processor(picture, return_tensors="pt")).logits
        answers.append(logits.softmax(1)[0].numpy())
    return np.stack(answers)


@pytest.mark.parametrize("channels", [1, 3])
def test_answers_in_batches_equal_answers_image_by_image(channels, faces, tmp_path, monkeypatch):
    images = faces.images.repeat(channels, 1)
    images[:, -1] = 255 - images[:, -1]
    data = replace(faces, images=images, manifest={})
    rows = np.array([70, 3, 41, 3, 18, 99, 0])
    name = write(tmp_path / "v", EMOTIONS)
    monkeypatch.setattr(hub, "BATCH", 4)
    ballots = hub_votes(data, rows, [name])
    expected = per_image(name, images[rows])
    np.testing.assert_allclose(ballots.probabilities[0], expected, atol=0.002)
    assert np.ptp(expected, axis=0).max() > 0.05


@pytest.mark.parametrize("side", [32, 112])
def test_preprocessing_of_a_batch_equals_that_of_pil_up_to_rounding(side, faces, tmp_path):
    from transformers import AutoImageProcessor

    name = write(tmp_path / "v", EMOTIONS, side=side)
    images = torch.from_numpy(faces.images[:6]).expand(-1, 3, -1, -1)
    processor = load_processor(name)
    assert processor.backend == "torchvision"
    batch = processor(images, return_tensors="pt")["pixel_values"]
    pictures = [Image.fromarray(image[0]).convert("RGB") for image in faces.images[:6]]
    pil = AutoImageProcessor.from_pretrained(name, backend="pil")
    single = pil(pictures, return_tensors="pt")["pixel_values"]
    assert batch.shape == single.shape == (6, 3, side, side)
    grey_level = 1 / 255 / 0.5
    assert (batch - single).abs().max() < 1.01 * grey_level


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": None},
        {"image_processor_type": "ViTImageProcessorFast"},
        {"image_processor_type": "ViTFeatureExtractor"},
        {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor", "size": 32},
    ],
)
def test_old_names_of_a_preprocessor_are_understood(settings, faces, tmp_path):
    name = write(tmp_path / "v", EMOTIONS)
    images = torch.from_numpy(faces.images[:4]).expand(-1, 3, -1, -1)
    expected = load_processor(name)(images, return_tensors="pt")["pixel_values"]
    edit(name, "preprocessor_config.json", **settings)
    old = load_processor(name)(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(old, expected)


def test_missing_voters_are_refused_or_left_out_and_named(
    fer_home, faces, voters, tmp_path, capsys
):
    missing = [str(tmp_path / "none"), "nobody/nothing", "nobody/nothing@v1"]
    message = refused(fer_home, faces, [*voters, *missing])
    assert "3 of 7 voters are neither folders nor available from the Hugging Face hub" in message
    assert all(f"{name} (" in message for name in missing)  # with the reason
    assert "allow_missing=True" in message
    rows = np.arange(8)
    names = [voters[0], *missing, voters[1]]
    ballots = hub_votes(faces, rows, names, allow_missing=True)
    assert ballots.voters == (voters[0], voters[1])
    assert ballots.missing == tuple(missing)
    majority = rules.majority(ballots, faces.labels[rows], faces.classes)
    assert majority.settings == {"votes": 3}  # more than half of the five named voters
    assert ballots.votes()[:, 0].tolist() == [EMOTIONS.index("sad"), EMOTIONS.index("happy")]
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(missing, lines[:3], strict=True):
        assert line.startswith(f"voter {name} is left out")
    assert len(lines) == 5


def test_a_voter_in_the_folder_of_an_unknown_user_is_refused(fer_home, faces):
    with pytest.raises(InputError, match="~nobody-here"):
        hub_votes(faces, np.arange(8), ["~nobody-here/model"])


def test_ballots_are_empty_if_all_voters_are_missing_and_this_is_allowed(fer_home, faces, capsys):
    ballots = hub_votes(faces, np.arange(8), HUB_VOTERS, allow_missing=True)
    lines = capsys.readouterr().out.splitlines()
    assert ballots.votes().shape == (0, 8)
    assert all(name in line for name, line in zip(HUB_VOTERS, lines, strict=True))
    assert "4 of 4 voters" in refused(fer_home, faces, HUB_VOTERS)
    with pytest.raises(InputError, match="there is no voter"):
        rules.apply_rules(ballots, faces.labels[:8], faces.classes, None)


def no_head(folder):
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(folder)
    labels = model.config.id2label
    model.vit.save_pretrained(folder)
    edit(folder, "config.json", id2label=labels)


def not_finite(folder):
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(folder)
    model.classifier.bias.data[0] = torch.nan
    model.save_pretrained(folder)


def damaged_weights(folder):
    with open(f"{folder}/model.safetensors", "r+b") as file:
        file.write(b"\xff" * 16)


def labelled(labels, **others):
    """Return a function that gives a checkpoint these labels by number; None: no names."""
    return partial(edit, file="config.json", id2label=labels, label2id=None, **others)


UNUSABLE = "cannot be used as an image classifier"
GAP = dict(zip((0, 1, 2, 3, 4, 5, 7), EMOTIONS, strict=True))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_head, "would start at random"),
        (labelled(dict(enumerate(EMOTIONS[:5]))), "5 labels (classifier.bias would start at"),
        (labelled(GAP), "trained for its 7 labels (labels [0, 1, 2, 3, 4, 5, 7], but 7 outputs)"),
        (not_finite, "(its outputs are not finite)"),
        (labelled(None, num_labels=7), "LABEL_0"),
        (labelled(dict(enumerate((*EMOTIONS[:6], "confused")))), "'confused'"),
        (labelled(dict(enumerate((*EMOTIONS[:6], "anger")))), "'anger'"),  # the second of its kind
        (damaged_weights, UNUSABLE),
        (lambda folder: os.remove(f"{folder}/model.safetensors"), UNUSABLE),
        (lambda folder: os.remove(f"{folder}/preprocessor_config.json"), UNUSABLE),
        (partial(edit, file="preprocessor_config.json", size=48), UNUSABLE),
    ],
)
def test_a_voter_that_cannot_vote_is_refused(spoil, reason, fer_home, faces, voters, tmp_path):
    bad = write(tmp_path / "bad", EMOTIONS)
    spoil(bad)
    message = refused(fer_home, faces, [*voters, bad], allow_missing=True)
    assert f"voter {bad} " in message
    assert reason in message


def test_a_voter_named_twice_is_refused(fer_home, faces, voters):
    assert "twice" in refused(fer_home, faces, [*voters, voters[0]])
    assert "twice" in refused(fer_home, faces, [*voters, voters[0] + "/"])


def test_interrupted_voting_resumes_after_the_last_batch(
    counted, faces, tmp_path, fer_home, monkeypatch, capsys
):
    names = [write(tmp_path / "first", EMOTIONS), write(tmp_path / "second", EMOTIONS, seed=1)]
    rows = faces.where("train")[:40]
    monkeypatch.setattr(hub, "BATCH", 16)
    counted.kill_at = 2
    with pytest.raises(KeyboardInterrupt):
        hub_votes(faces, rows, names)
    counted.sizes, counted.kill_at = [], None
    capsys.readouterr()
    resumed = hub_votes(faces, rows, names)
    lines = capsys.readouterr().out.splitlines()
    assert counted.sizes == [16, 8, 16, 16, 8]
    said = [line.removeprefix(f"voter {name}: ") for line, name in zip(lines, names, strict=True)]
    assert said == ["16 images cached, 24 computed", "0 images cached, 40 computed"]
    shutil.rmtree(fer_home / "data")
    afresh = hub_votes(faces, rows, names)
    np.testing.assert_allclose(resumed.probabilities, afresh.probabilities, atol=1e-6)


def test_answers_that_are_not_finite_are_refused(faces, tmp_path, monkeypatch, fer_home):
    from transformers import ViTForImageClassification

    forward = ViTForImageClassification.forward

    def overflow(self, pixel_values, **options):
        answer = forward(self, pixel_values=pixel_values, **options)
        answer.logits *= torch.inf if len(pixel_values) > 1 else 1
        return answer

    monkeypatch.setattr(ViTForImageClassification, "forward", overflow)
    name = write(tmp_path / "voter", EMOTIONS)
    with pytest.raises(
        InputError, match=r"answers of voter_.* are not finite in precision no: it is damaged"
    ):
        hub_votes(faces, faces.where("train")[:40], [name])
    assert not list(fer_home.rglob("voter_*.npz"))


def test_cached_answers_need_no_weights_and_only_new_rows_are_computed(
    counted, faces, voters, monkeypatch
):
    import transformers

    first = hub_votes(faces, np.arange(10), voters)
    with monkeypatch.context() as patch:
        for kind in ("AutoModelForImageClassification", "AutoConfig", "AutoImageProcessor"):
            patch.setattr(getattr(transformers, kind), "from_pretrained", None)
        again = hub_votes(faces, np.arange(10), voters)
        part = hub_votes(faces, np.array([7, 2]), voters)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    np.testing.assert_array_equal(first.probabilities[:, [7, 2]], part.probabilities)
    counted.sizes = []
    hub_votes(faces, np.arange(15), voters[:1])
    assert counted.sizes == [5]


def test_another_checkpoint_of_the_same_name_does_not_get_cached_answers(faces, tmp_path):
    """It has other weights, label names or preprocessing. Other data are tested as well."""
    name, rows = str(tmp_path / "v"), np.arange(5)

    def vote():
        return EMOTIONS[np.unique(hub_votes(faces, rows, [name]).votes()).item()]

    write(name, EMOTIONS, "sad")
    assert vote() == "sad"
    write(name, EMOTIONS, "fear")
    assert vote() == "fear"
    edit(name, "config.json", id2label=dict(enumerate(EMOTIONS[::-1])), label2id=None)
    assert vote() == "sad"
    write(name, EMOTIONS)
    before = hub_votes(faces, rows, [name]).probabilities
    edit(name, "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    changed = hub_votes(faces, rows, [name]).probabilities
    assert not np.allclose(before, changed)
    other = replace(faces, images=255 - faces.images, manifest={})
    assert not np.allclose(changed, hub_votes(other, rows, [name]).probabilities)
    other_folder = write(tmp_path / "elsewhere" / "v", EMOTIONS, seed=1)
    assert not np.allclose(before, hub_votes(faces, rows, [other_folder]).probabilities)


def test_a_damaged_file_of_answers_is_named(faces, voters, fer_home):
    hub_votes(faces, np.arange(5), voters)
    path = sorted(fer_home.rglob("voter_no-disgust*.npz"))[0]
    assert path.parent == fer_home / "data" / "sample"
    with np.load(path) as file:
        assert file["probabilities"].shape == (100, 6)
        assert np.isnan(file["probabilities"]).all(1).sum() == 95
        short = {"classes": file["classes"], "probabilities": file["probabilities"][:50]}
    cut = path.read_bytes()[:-50]
    for damage in (lambda: np.savez(path, **short), lambda: path.write_bytes(cut)):
        damage()
        with pytest.raises(InputError, match=f"{path.name} are damaged: delete it"):
            hub_votes(faces, np.arange(5), voters)


def test_a_name_on_the_hub_with_a_revision_is_read_and_then_cached(faces, tmp_path):
    name = HUB_VOTERS[0]
    commits = {"main": "a" * 40, "v1": "b" * 40}
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    for (revision, commit), favourite in zip(commits.items(), ("sad", "fear"), strict=True):
        write(repository / "snapshots" / commit, EMOTIONS, favourite)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    for _ in range(2):
        votes = hub_votes(faces, np.arange(6), [name, f"{name}@v1"]).votes()
        assert (votes[0] == EMOTIONS.index("sad")).all()
        assert (votes[1] == EMOTIONS.index("fear")).all()
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
