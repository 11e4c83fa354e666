"""Test how the network of a training is compared with that of its recipe, and its label."""

import pytest

from fer_lib.changed import label, same_network, taken_out
from fer_lib.models import MODULES
from fer_lib.recipes import RECIPES, recipe

SMALL = {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
OWN = {"backbone_options": {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 6}}


@pytest.mark.parametrize("preset", ["sample", "quick", "full"])
def test_an_unchanged_recipe_has_its_own_network_and_the_name_of_its_model(preset):
    for model, name in RECIPES:
        plain = recipe(model, name, preset).to_dict()
        assert same_network(plain)
        assert label({"train": plain}) == model
        assert taken_out(plain) == []
    assert {model for model, _ in RECIPES} == set(MODULES)


@pytest.mark.parametrize(
    ("model", "options", "own", "called"),
    [
        ("vit_patch", SMALL, True, "on patches of 8"),  # the smaller published size
        ("vit_patch", SMALL | {"depth": 5}, False, "on patches of 8"),
        ("vit_cnn", {"drop_path": 0.3, "weight_init": "jax", "dropout": 0.5}, True, ""),
        ("vit_tiny", {"backbone_options": {"drop_path_rate": 0.4}}, True, ""),
        ("grefel", {"branch_weight": 0.0, "dropout": 0.1}, True, ""),
        ("grefel", {"anchors": 3}, False, ""),
        ("grefel", {"backbone": "vit_small_patch14_dinov2"}, False, "on ViT-S/14 (DINOv2)"),
        ("grefel", {"backbone": "vit_small_patch16_224"}, False, "on vit_small_patch16_224"),
        ("vit_tiny", OWN | {"img_size": 48}, False, "with 6 blocks"),
        ("attention_cnn", {"attention": "none"}, False, "without gates"),
        ("vit_moe", {"experts": 1, "top_k": 1}, False, "without experts"),
        ("vit_moe", {"attention": "mla"}, False, ""),
    ],
)
def test_sizes_change_the_network_but_options_of_learning_do_not(model, options, own, called):
    train = recipe(model, "ours", "full", options=options).to_dict()
    assert same_network(train) == own
    assert label({"train": train}) == f"{model} {called}".strip()
    assert bool(taken_out(train)) == ("without" in called)


def test_the_label_names_a_start_from_our_own_pretraining():
    train = recipe("vit_mae", pretrained="pretraining/1_mae_s0/encoder.safetensors").to_dict()
    assert label({"train": train}) == "vit_mae after own MAE"
    known = {"train": train, "pretraining": {"epochs": 80}}
    assert label(known) == "vit_mae after own MAE (80 epochs)"
