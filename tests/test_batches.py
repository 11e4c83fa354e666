"""Batches on the device, targets and losses."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fer_lib.augment import Prepare
from fer_lib.batches import (
    Batches,
    largest_batch,
    placed,
    probabilities,
    training_rows,
    training_targets,
)
from fer_lib.files import InputError
from fer_lib.losses import SoftCrossEntropy, inverse_frequency


def numbered(n=103, **options):
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
    return Batches(images, torch.eye(7)[torch.arange(n) % 7], batch_size=16, **options)


def seen(batches, epoch):
    return [images.flatten().tolist() for images, _ in batches.epoch(epoch)]


def test_an_epoch_has_each_image_at_most_once_and_only_full_batches():
    batches = numbered()
    epoch = seen(batches, 0)
    assert len(epoch) == len(batches) == 6
    assert {len(batch) for batch in epoch} == {16}
    flat = [number for batch in epoch for number in batch]
    assert len(set(flat)) == len(flat) == 96
    assert flat != sorted(flat)


def test_order_depends_on_seed_and_epoch():
    assert seen(numbered(seed=1), 3) == seen(numbered(seed=1), 3)
    assert seen(numbered(seed=1), 3) != seen(numbered(seed=1), 4)
    assert seen(numbered(seed=1), 3) != seen(numbered(seed=2), 3)
    assert seen(numbered(seed=1), 3) != seen(numbered(seed=2), 2)


def test_targets_stay_with_their_images():
    for images, soft in numbered().epoch(5):
        assert soft.argmax(1).tolist() == (images.flatten() % 7).tolist()


def test_processes_share_every_batch():
    whole = seen(numbered(), 2)
    halves = [seen(numbered(rank=rank, processes=2), 2) for rank in (0, 1)]
    for batch, a, b in zip(whole, *halves, strict=True):
        assert sorted(a + b) == sorted(batch)
        assert len(a) == len(b) == 8


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(InputError, match="multiple of 3"):
        numbered(processes=3)
    with pytest.raises(InputError, match="1 training images are too few for 2 processes"):
        Batches(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2), batch_size=4, processes=2)
    few = Batches(torch.zeros(5, 1, 4, 4), torch.zeros(5, 2), batch_size=16, processes=2)
    assert few.batch_size == 4


def test_targets_from_labels_and_votes(faces):
    rows = faces.where("train")
    assert (training_targets(faces, rows).argmax(1) == faces.labels[rows]).all()
    voted = rows[faces.votes[rows][:, :7].sum(1) > 0]
    soft = training_targets(faces, voted, "votes")
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    assert ((soft > 0) & (soft < 1)).any()


def test_targets_from_votes_need_votes(faces):
    faces = copy.deepcopy(faces)
    faces.votes = None
    with pytest.raises(InputError, match=r"fer2013new\.csv"):
        training_targets(faces, faces.where("train"), "votes")


def test_class_weights_are_inverse_to_the_frequency():
    soft = F.one_hot(torch.tensor([0, 0, 0, 1]), 3).float()
    assert inverse_frequency(soft).tolist() == pytest.approx([4 / 9, 4 / 3, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weighted_loss_has_its_minimum_at_the_target_with_even_smoothing(smoothing):
    counts = torch.tensor([3995, 436, 4097, 7215, 4830, 3171, 0])  # the last has no image
    known = torch.eye(7).repeat_interleave(counts, 0)
    criterion = SoftCrossEntropy(known, smoothing=smoothing, weighted=True)
    logits = torch.zeros(6, 7, requires_grad=True)  # one image of each class that has images
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        # Neither the frequency of a class nor its weight changes the minimum for a single image.
        loss = 6 * criterion(logits, torch.eye(7)[:6])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.argmax(1).tolist() == list(range(6))
    if smoothing:
        target = 0.9 * torch.eye(7)[:6] + 0.1 / 7
        torch.testing.assert_close(logits.softmax(1), target, atol=1e-3, rtol=0)


def test_each_part_of_the_loss_alone_equals_that_of_torch():
    known = torch.eye(7).repeat_interleave(torch.arange(1, 8), 0)
    logits, soft = torch.randn(9, 7), torch.rand(9, 7).softmax(1)
    weight = inverse_frequency(known)
    for given, expected in (
        ({"smoothing": 0.1}, F.cross_entropy(logits, soft, label_smoothing=0.1)),
        ({"weighted": True}, F.cross_entropy(logits, soft, weight)),
        ({}, F.cross_entropy(logits, soft)),
    ):
        torch.testing.assert_close(SoftCrossEntropy(known, **given)(logits, soft), expected)


def test_training_on_votes_leaves_out_faces_without_votes(faces):
    faces = copy.deepcopy(faces)
    rows = faces.where("train")
    faces.votes[rows[:3], :8] = 0
    used = training_rows(faces, None, 0, "votes")
    assert not set(rows[:3]) & set(used)
    assert np.isfinite(training_targets(faces, used, "votes")).all()
    assert list(training_rows(faces, None, 0)) == list(rows)
    assert len(training_rows(faces, 20, 0, "votes")) == 20
    drawn = [training_rows(faces, 20, seed).tolist() for seed in (0, 1, 1)]
    assert drawn[0] != drawn[1] == drawn[2] == sorted(drawn[1])
    assert rows[:20].tolist() not in drawn


def test_images_on_the_host_are_copied_batch_by_batch(monkeypatch):
    """The meta device stands in for a GPU that is too small for the images."""
    locked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: locked.append(len(x)) or x)
    images = torch.arange(103, dtype=torch.uint8).view(103, 1, 1, 1)
    batches = Batches(images, torch.zeros(103, 7, device="meta"), batch_size=16)
    for some, soft in batches.epoch(0):
        assert some.device.type == soft.device.type == "meta"
        assert some.shape == (16, 1, 1, 1)
    assert locked == [16] * 6


def test_images_stay_on_the_host_if_the_gpu_has_too_little_memory(monkeypatch):
    images, gpu = torch.zeros(10, 1, 48, 48, dtype=torch.uint8), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes, 10**9))
    for name, used in (("memory_reserved", 100), ("memory_allocated", 90)):
        monkeypatch.setattr(torch.cuda, name, lambda device, used=used: used)
    assert placed(images, gpu) is images
    assert placed(images, torch.device("meta")).device.type == "meta"


def test_probabilities_are_computed_without_tf32(monkeypatch):
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return x.mean((2, 3))

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    cfg = {"input_size": (3, 4, 4), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    faces = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    probabilities(Watched(), faces, Prepare(cfg))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("side", "largest"), [(48, 512), (224, 512), (518, 95), (9000, 1)])
def test_large_inputs_are_predicted_in_smaller_batches(side, largest):
    cfg = {"input_size": (1, side, side), "mean": (0.5,), "std": (0.5,)}
    assert largest_batch(Prepare(cfg)) == largest


def test_predictions_are_those_of_evaluation_mode():
    cfg = {"input_size": (3, 4, 4), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9)).train()
    images = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    wanted = Prepare(cfg)(images).flatten(1).softmax(1)
    torch.testing.assert_close(probabilities(model, images, Prepare(cfg)), wanted)


def test_predictions_take_the_largest_batch(monkeypatch):
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.mean((2, 3))

    monkeypatch.setattr("fer_lib.batches.largest_batch", lambda prepare: 3)
    cfg = {"input_size": (3, 4, 4), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    probabilities(Watched(), torch.zeros(7, 1, 4, 4, dtype=torch.uint8), Prepare(cfg))
    assert sizes == [3, 3, 1]
