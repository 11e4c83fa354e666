"""Recipes and their contradictions."""

import json

import pytest

from fer_lib.augment import Augmentation
from fer_lib.files import InputError
from fer_lib.models import MODULES
from fer_lib.recipes import PRESETS, RECIPES, TrainConfig, recipe


@pytest.mark.parametrize("model", MODULES)
@pytest.mark.parametrize("name", ["published", "ours"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_model_has_both_recipes_in_every_preset(model, name, preset):
    config = recipe(model, name, preset)
    assert (config.model, config.recipe, config.preset) == (model, name, preset)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    if preset != "full":
        assert config.epochs < recipe(model, name).epochs


def test_the_published_recipe_is_the_published_one():
    config = recipe("attention_cnn", "published")
    assert (config.batch_size, config.epochs, config.lr, config.weight_decay) == (
        64,
        50,
        1e-3,
        1e-4,
    )
    assert (config.schedule, config.plateau_factor, config.plateau_patience) == ("plateau", 0.5, 5)
    assert (config.patience, config.clip_grad, config.class_weights) == (10, 1.0, True)
    assert config.options == {"attention": "published"}
    drawn = config.augmentation
    assert (drawn.affine, drawn.rotate, drawn.translate, drawn.scale) == (
        0.7,
        15,
        0.1,
        (0.85, 1.15),
    )
    assert (drawn.flip, drawn.dropout, drawn.photometric, drawn.noise) == (0.5, 0.3, 0.5, 0.2)


def test_overrides_win_and_keep_the_rest():
    config = recipe("attention_cnn", "ours", "sample", epochs=2, options={"width": 8})
    assert (config.epochs, config.options) == (2, {"width": 8})
    assert config.warmup_epochs < 2
    assert config.augmentation == RECIPES["attention_cnn", "ours"]["augmentation"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "linear"}, "schedule"),
        ({"batch_size": 64, "accumulate": 3}, "accumulate"),
        ({"epochs": 2, "warmup_epochs": 2}, "warm-up"),
        ({"class_weights": True, "logit_adjustment": 1.0}, "rare classes"),
        ({"unfreeze": [[3, "stages.0"]]}, "unfreeze"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"augmentation": {"blur": 1}}, "augmentation"),
        ({"labels": "refined"}, "labels"),
        ({"epochs": "abc"}, "epochs"),
        ({"class_weights": "False"}, "class_weights"),
        ({"patience": "None"}, "patience"),
    ],
)
def test_contradictions_and_unknown_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_dict({"model": "baseline_cnn", **values})


def test_unknown_recipe_names_what_there_is():
    with pytest.raises(InputError, match="attention_cnn, baseline_cnn"):
        recipe("vgg")


def test_frozen_parts_thaw_at_their_epoch():
    config = TrainConfig("m", frozen=("a", "b"), unfreeze=((2, "a"),))
    assert config.frozen_at(1) == ("a", "b")
    assert config.frozen_at(2) == ("b",)


def test_augmentation_default_draws_nothing():
    assert Augmentation() == TrainConfig("baseline_cnn").augmentation
