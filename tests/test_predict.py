"""Predictor: kinds of pictures, crops and preparation as in training, and named predictions."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fer_lib.augment import Prepare
from fer_lib.batches import probabilities
from fer_lib.checkpoints import save_weights
from fer_lib.data.drawing import draw
from fer_lib.data.pictures import read_pictures
from fer_lib.evaluate.calibration import scaled
from fer_lib.files import InputError, write_json
from fer_lib.labels import EMOJI, EMOTIONS, EMOTIONS_8
from fer_lib.models import create_model
from fer_lib.models.weights import read_weights, write_weights
from fer_lib.predict import Predictor
from fer_lib.predict.at_hand import model_at_hand, models_at_hand
from fer_lib.predict.description import Description, describe
from fer_lib.predict.faces import Box, Found
from fer_lib.predict.predictor import DEFAULT
from fer_lib.recipes import recipe


class Fixed:
    """Stand-in for a detector: finds the same boxes in every picture, but none in a dark one."""

    name, scale = "stand-in", 1.0

    def __init__(self, *boxes):
        self.boxes, self.seen = boxes, []

    def __call__(self, picture):
        self.seen.append(picture)
        return [Found(Box(*box), 0.9) for box in self.boxes] if picture.max() > 9 else []


class Brightness:
    """Stand-in for a network: the brightness of an image is the probability of the first class."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(images)
        share = images.float().mean((1, 2, 3)) / 255
        rest = (1 - share)[:, None] / 6
        return torch.cat([share[:, None], rest.expand(-1, 6)], 1)


@pytest.fixture
def predictor():
    about = Description("stand-in", EMOTIONS, threshold=0.7)
    return Predictor(Brightness(), about, detector=Fixed((10, 20, 40, 40)))


@pytest.fixture
def square():
    """Picture (100, 120, 3) uint8, black except for the square where `predictor` finds a face."""
    picture = np.zeros((100, 120, 3), np.uint8)
    picture[20:60, 10:50] = 200
    return picture


def test_a_face_has_box_probabilities_by_class_expression_and_emoji(predictor, square):
    (face,) = predictor(square)
    assert face.box == (10, 20, 40, 40)
    assert (face.box.x, face.box.height) == (10, 40)
    assert tuple(face.probabilities) == EMOTIONS
    assert face.probabilities["angry"] == pytest.approx(200 / 255)
    assert sum(face.probabilities.values()) == pytest.approx(1)
    assert face.expression == "angry"
    assert face.emoji == EMOJI["angry"]
    assert face.probability == face.probabilities["angry"]
    assert face.sure
    assert face.confidence == 0.9
    assert face.crop.shape == (1, 48, 48)
    assert set(np.unique(face.crop)) == {200}


def test_a_prediction_below_the_threshold_is_not_sure(predictor, square):
    square[20:60, 10:50] = 178  # 0.698
    assert not predictor(square)[0].sure
    square[20:60, 10:50] = 179  # 0.702
    assert predictor(square)[0].sure
    predictor.threshold = 1.0
    assert not predictor(square)[0].sure
    square[20:60, 10:50] = 255
    assert predictor(square)[0].sure  # the threshold is reached


def test_a_crop_is_as_much_larger_than_the_box_as_the_detector_says(predictor, square):
    predictor.detector.scale = 2.0
    (face,) = predictor(square)
    assert face.box == (10, 20, 40, 40)
    assert (face.crop > 100).mean() == 0.25


def test_every_class_has_its_own_emoji():
    assert tuple(EMOJI) == EMOTIONS_8
    assert len(set(EMOJI.values())) == len(EMOTIONS_8)


KINDS = {
    "grey": lambda a: a[..., 0],
    "grey with an axis": lambda a: a[..., :1],
    "RGBA": lambda a: np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]),
    "16 bits": lambda a: a[..., 0].astype(np.uint16) * 257,
    "16 bits, RGB": lambda a: a.astype(np.uint16) * 257,
    "PIL": Image.fromarray,
    "PIL, grey": lambda a: Image.fromarray(a[..., 0]),
    "PIL, palette": lambda a: Image.fromarray(a).quantize(),
    "PIL, 16 bits": lambda a: Image.fromarray(a[..., 0].astype(np.uint16) * 257),
    "tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "grey tensor": lambda a: torch.from_numpy(a[..., 0].copy()),
    "tensor with a channel": lambda a: torch.from_numpy(a[..., 0].copy())[None],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_same_prediction(predictor, square, kind):
    (face,) = predictor(KINDS[kind](square))
    assert face.box == (10, 20, 40, 40)
    assert face.probabilities == predictor(square)[0].probabilities
    assert predictor.detector.seen[0].shape == (100, 120, 3)  # always RGB


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_a_picture_is_read_from_a_path(predictor, square, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(square).save(path, lossless=True)
    for given in (path, str(path)):
        assert predictor(given)[0].probability == pytest.approx(200 / 255)


def test_a_photo_is_rotated_according_to_its_exif_data(predictor, square, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # viewers rotate it clockwise by 90 degrees
    lying = Image.fromarray(square).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "a.png", exif=exif)
    assert predictor(tmp_path / "a.png")[0].crop.min() == 200
    assert predictor.detector.seen[0].shape == (100, 120, 3)


def test_several_pictures_are_classified_in_one_batch_and_keep_their_order(square):
    detector = Fixed((10, 20, 40, 40), (60, 10, 20, 20))
    network = Brightness()
    predictor = Predictor(network, Description("x", EMOTIONS, threshold=0.5), detector=detector)
    dark = np.zeros((80, 80), np.uint8)
    found = predictor([square, dark, Image.fromarray(square[..., 0])])
    assert [len(faces) for faces in found] == [2, 0, 2]
    assert [images.shape for images in network.calls] == [(4, 1, 48, 48)]
    assert [round(face.probabilities["angry"], 3) for face in found[2]] == [0.784, 0.0]
    assert predictor([]) == []
    assert predictor(dark) == []


def test_a_stacked_array_is_read_as_several_pictures(predictor, square):
    assert len(predictor(np.stack([square] * 3))) == 3
    assert len(predictor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))) == 2


def test_whole_pictures_are_read_as_by_the_dataset_reader(predictor, tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"a.png": (48, 48), "b.png": (90, 60, 3)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
    read, _ = read_pictures([tmp_path / "a.png"])
    (face,) = predictor(tmp_path / "a.png", faces="whole")
    np.testing.assert_array_equal(face.crop, read[0])
    assert face.box == (0, 0, 48, 48)
    assert face.confidence is None
    (face,) = predictor(tmp_path / "b.png", faces="whole")
    assert face.crop.shape == (1, 48, 48)
    assert predictor.detector.seen == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((8, 8)), "float64"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        (np.zeros(8, np.uint8), "no picture"),
        (np.zeros((0, 0, 3), np.uint8), r"\(0, 0, 3\) is no picture"),
        (torch.zeros(3, 8, 8), "float32"),
        ("missing.png", "missing.png"),
        (["missing.png"], "missing.png"),
        (None, "no picture"),
    ],
)
def test_invalid_pictures_are_refused(predictor, bad, message):
    with pytest.raises(InputError, match=message):
        predictor(bad)


def test_an_unreadable_pil_picture_is_named_in_the_error(predictor, square, tmp_path):
    Image.fromarray(square[..., 0]).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png cannot be read as a picture"):
        predictor(Image.open(tmp_path / "a.png"))
    with pytest.raises(InputError, match=r"mode=F .* pixels are fractions"):
        predictor(Image.new("F", (8, 8)))


def test_an_unknown_value_of_faces_is_refused(predictor, square):
    with pytest.raises(InputError, match="detect, whole"):
        predictor(square, faces="none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, fitted):
    """A weights file of a small network, and the network."""
    config = recipe("baseline_cnn", "ours", "sample", flip_tta=True)
    model = fitted(create_model(config.model, **config.options))
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(path, model.state_dict(), config, EMOTIONS)
    return path, model


@pytest.fixture(scope="module")
def faces():
    return draw(np.arange(21) % 7, 0)


def test_a_file_predicts_as_evaluation_does_with_mirror_images(weights, faces):
    path, model = weights
    predictor = Predictor.from_file(path, device="cpu")
    images = torch.from_numpy(faces)
    expected = probabilities(model, images, Prepare(model.pretrained_cfg), flip=True)
    assert expected.std(0).max() > 0.05  # otherwise agreement would mean nothing
    np.testing.assert_allclose(predictor.probabilities(faces), expected, atol=1e-6)
    whole = predictor(list(faces[:, 0]), faces="whole")
    found = [list(face.probabilities.values()) for (face,) in whole]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert predictor.probabilities(faces[:0]).shape == (0, 7)
    with pytest.raises(InputError, match="uint8 from 0 to 255, not float32"):
        predictor.probabilities(faces.astype(np.float32) / 255)
    with pytest.raises(InputError, match=r"\(N, C, H, W\), not of shape \(21, 48, 48\)"):
        predictor.probabilities(faces[:, 0])


def test_a_file_that_asks_for_no_mirror_images_predicts_without_them(weights, faces):
    path, model = weights
    predictor = Predictor.from_file(path, device="cpu")
    both = predictor.probabilities(faces)
    predictor.network.about = replace(predictor.about, flip=False)
    found = predictor.probabilities(faces)
    expected = probabilities(model, torch.from_numpy(faces), Prepare(model.pretrained_cfg))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - both).max() > 1e-3


def test_a_full_gpu_is_reported_with_the_remedy(weights, faces, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    predictor = Predictor.from_file(weights[0], device="cpu")
    said = r"the GPU has too little free memory \(CUDA out of memory.\): .*--device cpu"
    monkeypatch.setattr("fer_lib.predict.predictor.probabilities", fail)
    with pytest.raises(InputError, match=said):
        predictor.probabilities(faces)
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    with pytest.raises(InputError, match=said):
        Predictor.from_file(weights[0], device="cpu")


def test_a_file_without_calibration_is_reported(weights):
    said = []
    predictor = Predictor.from_file(weights[0], say=said.append)
    assert predictor.threshold == 0.5
    assert len(said) == 1
    assert "not calibrated" in said[0]


def test_a_model_that_is_never_sure_says_so():
    said = []
    Predictor(None, Description("a model", EMOTIONS, threshold=math.inf), say=said.append)
    assert said == ["a model was too often wrong on validation: no answer of it counts as sure"]


def test_a_run_is_found_by_its_name(make_run, fer_home, weights, monkeypatch, tmp_path):
    folder = shutil.move(make_run().folder, fer_home / "runs" / "a_run")
    shutil.copy(weights[0], folder / "best.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in (folder.name, f"runs/{folder.name}", folder):
        assert folder.name in Predictor.of(name).name
    with pytest.raises(InputError, match=rf"no runs/other, here or in {fer_home / 'runs'}: give"):
        Predictor.of("runs/other")


def test_a_file_in_a_run_folder_uses_the_calibration_of_the_run(weights, tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(weights[0].read_bytes())
    write_json(tmp_path / "results.json", {"use": {"temperature": 2.0, "threshold": 0.6}})
    about = describe(path)
    assert (about.temperature, about.threshold, about.flip) == (2.0, 0.6, True)
    write_json(tmp_path / "results.json", {"use": {"temperature": 2.0, "threshold": None}})
    assert describe(path).threshold == math.inf
    write_json(tmp_path / "results.json", {})
    assert describe(path).threshold is None


def test_the_calibration_in_a_file_comes_before_that_of_a_run_beside_it(weights, tmp_path):
    state, metadata = read_weights(weights[0])
    own = json.dumps({"temperature": 3.0, "threshold": 0.8})
    write_weights(tmp_path / "a.safetensors", state, metadata | {"use": own})
    write_json(tmp_path / "results.json", {"use": {"temperature": 2.0, "threshold": 0.6}})
    about = describe(tmp_path / "a.safetensors")
    assert (about.temperature, about.threshold) == (3.0, 0.8)


def test_a_description_reads_no_tensor(weights, monkeypatch):
    monkeypatch.setattr("safetensors.safe_open.get_tensor", None)
    assert describe(weights[0]).classes == EMOTIONS


def test_temperature_scaling_is_that_of_calibration(weights, faces):
    predictor = Predictor.from_file(weights[0], device="cpu")
    p = predictor.probabilities(faces)
    predictor.network.about = replace(predictor.about, temperature=1.7)
    np.testing.assert_allclose(predictor.probabilities(faces), scaled(p, 1.7), atol=1e-5)


def test_the_image_shape_is_read_from_the_weights_file(tmp_path, square):
    config = recipe("baseline_cnn", "ours", "sample")
    model = create_model(config.model, num_classes=8, **config.options)
    save_weights(tmp_path / "a.safetensors", model.state_dict(), config, EMOTIONS_8, (3, 100, 100))
    predictor = Predictor.from_file(tmp_path / "a.safetensors", detector=Fixed((10, 20, 40, 40)))
    (face,) = predictor(square)
    assert face.crop.shape == (3, 100, 100)
    assert tuple(face.probabilities) == EMOTIONS_8


def test_missing_weights_and_unfinished_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.safetensors"):
        Predictor.from_file(tmp_path / "a.safetensors")
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        Predictor.of(tmp_path / "run")
    data = {"fingerprint": "of some faces"}
    config = {"train": recipe("baseline_cnn").to_dict(), "data": data, "environment": {}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="unfinished"):
        Predictor.of(tmp_path / "run")


def test_the_default_weights_recognise_happy_drawn_faces(capsys):
    predictor = Predictor.default()
    assert predictor.classes == EMOTIONS
    assert 0 < predictor.threshold < 1
    assert "not calibrated" not in capsys.readouterr().out
    happy = draw(np.full(20, 3), 0, rough=0.3)
    answers = predictor([face[0] for face in happy], faces="whole")
    assert sum(face.expression == "happy" for (face,) in answers) > 10


def test_models_at_hand_are_runs_with_weights_and_exported_files(make_run, fer_home, monkeypatch):
    for time, weights in (("20260101-000001", True), ("20260101-000002", False)):
        folder = make_run(time=time).folder
        config = json.loads((folder / "config.json").read_text())
        config["data"] |= {"dataset": "noise", "mark": "sample data"}
        write_json(folder / "config.json", config)
        if weights:
            (folder / "best.safetensors").touch()
        shutil.move(folder, fer_home / "runs" / folder.name)
    other = shutil.copytree(
        fer_home / "runs/20260101-000001_baseline_cnn_noise_s0",
        fer_home / "runs/20260101-000001_baseline_cnn_noise_s1",
    )
    (fer_home / "runs/small.onnx").touch()
    loaded, detector = [], Fixed()
    monkeypatch.setattr(Predictor, "from_file", lambda path, **given: loaded.append((path, given)))
    choices = models_at_hand(detector)
    assert list(choices) == [
        "the default model",
        f"{other.name}, sample data",
        "20260101-000001_baseline_cnn_noise_s0, sample data",
        "small.onnx",
    ]
    for load in choices.values():
        load()
    first = fer_home / "runs/20260101-000001_baseline_cnn_noise_s0"
    files = [DEFAULT, *(run / "best.safetensors" for run in (other, first))]
    files.append(fer_home / "runs/small.onnx")
    assert loaded == [(file, {"detector": detector}) for file in files]


def test_only_the_default_model_is_at_hand_without_runs():
    assert list(models_at_hand(detector=None)) == ["the default model"]
    with pytest.raises(InputError, match=r"the model small.onnx is no longer there: choose"):
        model_at_hand("small.onnx", None)
