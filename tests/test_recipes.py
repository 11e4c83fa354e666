"""Test recipes, changes to them, and settings that are refused."""

import argparse
import json
from dataclasses import replace

import pytest

from fer_lib.arguments import (
    add_arguments,
    own_changes,
    parse_setting,
    parse_settings,
    several,
    side_by_side,
)
from fer_lib.augment import Augmentation
from fer_lib.changed import changed_settings
from fer_lib.config import PRESETS, TrainConfig
from fer_lib.files import InputError
from fer_lib.models import MODULES
from fer_lib.recipes import RECIPES, recipe


@pytest.mark.parametrize("model", MODULES)
@pytest.mark.parametrize("name", ["published", "ours"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_model_has_both_recipes_in_every_preset(model, name, preset):
    config = recipe(model, name, preset)
    assert (config.model, config.recipe, config.preset) == (model, name, preset)
    values = config.to_dict()
    assert TrainConfig.from_dict(values) == config
    assert json.loads(json.dumps(values)) == values
    assert not (preset == "sample" and config.pretrained)  # this preset needs no download
    if preset == "quick":
        full = recipe(model, name)
        assert config.epochs * config.limit < full.epochs * 28_709 / 5


PLAIN = {
    **{"labels": "original", "pretrained": False, "options": {}, "limit": None},
    **{"batch_size": 64, "accumulate": 1, "optimizer": "adamw", "head_lr_scale": 1},
    **{"layer_decay": 1, "frozen_layers": 0, "unfreeze_every": None},
    **{"schedule": "cosine", "warmup_epochs": 0, "patience": None, "clip_grad": None},
    **{"class_weights": False, "label_smoothing": 0},
    **{"mixup": 0, "cutmix": 0, "ema_decay": 0, "flip_tta": False},
}
"""Settings that published recipes have unless they name others."""

STILL = {
    **{"affine": 0, "rotate": 0, "translate": 0, "scale": [1, 1], "crop": [1, 1], "photometric": 0},
    **{"brightness": 0, "contrast": 0, "noise": 0, "dropout": 0, "erase": 0},
}
"""Settings that published augmentations have unless they name others. All of them flip."""

CNN = {
    **{"epochs": 50, "lr": 1e-3, "weight_decay": 1e-4, "clip_grad": 1, "class_weights": True},
    **{"schedule": "plateau", "plateau_metric": "valid_accuracy"},
    **{"plateau_factor": 0.5, "plateau_patience": 5, "patience": 10},
    "augmentation": STILL
    | {"flip": 0.5, "affine": 0.7, "rotate": 15, "translate": 0.1, "scale": [0.85, 1.15]}
    | {"photometric": 0.5, "brightness": 0.2, "contrast": 0.2, "noise": 0.2, "dropout": 0.3},
}
SCRATCH = {
    **{"epochs": 100, "lr": 5e-4, "weight_decay": 0.01, "warmup_epochs": 5},
    **{"label_smoothing": 0.05, "options": {"dropout": 0.15}},
    "augmentation": STILL
    | {"flip": 0.5, "affine": 0.7, "rotate": 10, "translate": 0.05, "scale": [0.9, 1.1]}
    | {"crop": [0.85, 1], "photometric": 0.5, "brightness": 0.2, "contrast": 0.2, "erase": 0.25},
}
GREFEL = {
    **{"pretrained": True, "epochs": 150, "lr": 5e-5, "weight_decay": 0.005, "warmup_epochs": 5},
    **{"label_smoothing": 0.11, "mixup": 0.2, "cutmix": 1, "ema_decay": 0.9999},
    "ema_warmup": False,
    "options": {"dropout": 0.15},
    "augmentation": STILL  # the publication does not describe these
    | {"flip": 0.5, "affine": 0.5, "rotate": 10, "translate": 0.05, "erase": 0.25},
}
PUBLISHED = {
    ("baseline_cnn", "published"): CNN,
    ("attention_cnn", "published"): CNN | {"options": {"attention": "published"}},
    ("vit_tiny", "published"): CNN
    | {"pretrained": True, "lr": 5e-5, "patience": 20, "warmup_epochs": 5},
    ("vit_patch", "published"): SCRATCH,
    ("vit_cnn", "published"): SCRATCH,
    ("vit_mae", "published"): {
        **{"pretrained": True, "epochs": 80, "lr": 3e-5, "head_lr_scale": 5, "weight_decay": 0.05},
        **{"warmup_epochs": 5, "frozen_layers": 5, "mixup": 0.2, "ema_decay": 0.999},
        "ema_warmup": False,
        **{"flip_tta": True, "augmentation": STILL | {"flip": 0.5, "crop": [0.8, 1]}},
    },
    ("vit_moe", "published"): {
        **{"pretrained": True, "epochs": 5, "batch_size": 32, "lr": 1e-5, "weight_decay": 0.01},
        **{"schedule": "plateau", "plateau_metric": "valid_loss"},
        **{"plateau_factor": 0.2, "plateau_patience": 2, "options": {"balance": 0, "z": 0}},
        "augmentation": STILL
        | {"flip": 0.5, "affine": 1, "rotate": 10, "translate": 0.1, "scale": [0.9, 1.1]}
        | {"photometric": 1, "brightness": 0.2, "contrast": 0.2},
    },
    ("grefel", "published"): GREFEL,
    ("grefel", "finetune"): GREFEL
    | {"epochs": 50, "lr": 2e-5, "weight_decay": 0.007, "warmup_epochs": 2}
    | {"options": {"dropout": 0.18}},
}


@pytest.mark.parametrize(("model", "name"), PUBLISHED)
def test_a_published_recipe_has_the_published_settings(model, name):
    expected = PLAIN | PUBLISHED[model, name]
    values = recipe(model, name, "full").to_dict()
    drawn = values["augmentation"]
    values["augmentation"] = {key: drawn[key] for key in expected["augmentation"]}
    assert {key: values[key] for key in expected} == expected


def test_every_recipe_that_is_not_ours_is_in_the_table():
    assert PUBLISHED.keys() == {key for key in RECIPES if key[1] != "ours"}


def test_overrides_take_precedence_and_keep_the_rest():
    config = recipe("attention_cnn", "ours", "sample", epochs=2, options={"width": 8})
    assert (config.epochs, config.options) == (2, {"width": 8})
    assert config.warmup_epochs < 2
    assert config.augmentation == RECIPES["attention_cnn", "ours"]["augmentation"]


def test_an_augmentation_given_as_a_dict_changes_only_what_it_names():
    ours = recipe("attention_cnn").augmentation
    config = recipe("attention_cnn", augmentation={"erase": 0.25, "scale": [0.9, 1.1]})
    assert config.augmentation == replace(ours, erase=0.25, scale=(0.9, 1.1))
    other = recipe("attention_cnn", augmentation=Augmentation(erase=0.25))
    assert other.augmentation == Augmentation(erase=0.25)


def test_zeros_turn_an_augmentation_off():
    none = json.loads('{"flip": 0, "affine": 0, "crop": [1, 1], "photometric": 0, "erase": 0}')
    for model in ("vit_patch", "vit_cnn"):
        for preset in PRESETS:
            left = recipe(model, preset=preset, augmentation=none).augmentation
            draws = [left.flip, left.affine, left.photometric, left.noise, left.dropout, left.erase]
            assert (draws, left.crop) == ([0] * 6, (1, 1))


def test_backbone_options_change_only_what_they_name():
    inner = lambda preset, **options: recipe("vit_mae", preset=preset, options=options).options[
        "backbone_options"
    ]
    assert inner("full", backbone_options={"depth": 6}) == {"drop_path_rate": 0.1, "depth": 6}
    small = {"patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3}
    assert inner("sample", backbone_options={"depth": 2}) == small
    sizes = {"backbone": "vit_tiny_patch16_224", "backbone_options": {"depth": 6}}
    assert inner("full", **sizes) == {"drop_path_rate": 0.1, "depth": 6}
    assert inner("sample", **sizes) == {"depth": 6}  # without the sizes of the preset's backbone
    alone = recipe("vit_tiny", "ours", "sample", options={"backbone": "vit_small_patch14_dinov2"})
    assert alone.options.keys() == {"backbone", "in_chans"}  # its image size is dropped too
    assert changed_settings(alone) == ["backbone=vit_small_patch14_dinov2"]


def test_changes_in_a_notebook_must_not_name_its_other_parameters():
    changes = {"epochs": 5, "options": {"width": 8}}
    assert own_changes(changes, "seed") == changes
    for wrong in ({"seed": 1}, {"options": {"seed": 1}}):
        with pytest.raises(InputError, match="seed in changes has a parameter of its own"):
            own_changes(wrong, "seed")
    with pytest.raises(InputError, match="recipe in changes has a parameter of its own"):
        own_changes({"recipe": "published"})
    for wrong, such in (("epochs=5", '{"epochs": 5}'), ({"options": "{}"}, '{"width": 32}')):
        with pytest.raises(InputError, match=f"is not a dict such as {such} .in papermill, pass "):
            own_changes(wrong)
    with pytest.raises(InputError, match="preset in pretrain_changes has"):
        own_changes({"preset": "full"}, parameter="pretrain_changes")


def test_a_notebook_takes_one_name_or_several_of_those_it_is_made_for():
    assert several("a name") == ["a name"]
    assert several(("one", "two"), ["one", "two", "three"]) == ["one", "two"]
    with pytest.raises(InputError, match="is not made for four: give some of one, two"):
        several(["one", "four"], ["one", "two"])
    with pytest.raises(InputError, match="is not made for an empty list: give some of one, two"):
        several([], ["one", "two"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "linear"}, "schedule"),
        ({"batch_size": 64, "accumulate": 3}, "accumulate"),
        ({"compile": "fast"}, "compile"),
        ({"epochs": 2, "warmup_epochs": 2}, "warm-up"),
        ({"unfreeze_every": 3}, "needs frozen_layers"),
        ({"unfreeze_every": 0, "frozen_layers": 2}, "1 or more"),
        ({"frozen_layers": -1}, "frozen_layers"),
        ({"plateau_metric": "loss"}, "plateau_metric"),
        ({"plateau_factor": 1}, "above 0, below 1"),
        ({"pretrained": 1}, "pretrained"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"augmentation": {"blur": 1}}, "augmentation"),
        ({"labels": "refined"}, "labels"),
        ({"epochs": "abc"}, "epochs"),
        ({"class_weights": "False"}, "class_weights"),
        ({"patience": "None"}, "patience"),
        ({"patience": -1}, "1 or more, or null"),
        ({"clip_grad": -1.0}, "above 0, or null"),
        ({"seed": -1}, "below 2.*32, not -1"),
        ({"seed": 2**32}, "below 2"),
        ({"ema_decay": 1.5}, "below 1"),
        ({"layer_decay": -1.0}, "above 0, at most 1"),
        ({"mixup": -1.0}, "0 or more"),
        ({"logit_adjustment": 0.5}, "a setting of earlier versions; .* with 0.0: leave it out"),
        ({"augmentation": {"holes": 8}}, "holes=8 was a setting of earlier versions"),
        ({"augmentation": {"scale": 0.9}}, "augmentation"),
    ],
)
def test_contradictions_and_unknown_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_dict({"model": "baseline_cnn", **values})


def test_settings_of_earlier_versions_are_read_at_the_value_that_runs_had():
    config = recipe("vit_tiny")
    values = config.to_dict()
    values["augmentation"] |= {"holes": 4, "hole": 0.125}
    assert TrainConfig.from_dict(values | {"logit_adjustment": 0.0}) == config
    with pytest.raises(InputError, match="unknown training setting: logit_adjustment"):
        recipe("vit_tiny", logit_adjustment=0.0)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("vgg", {}, "ours attention_cnn"),  # the known recipes
        ("baseline_cnn", {"recipe": "published"}, "recipe is not a setting to change"),
        ("baseline_cnn", {"epochs": "ten"}, "epochs"),
        ("baseline_cnn", {"options": 5}, "options"),
        ("vit_patch", {"augmentation": {}}, "changes nothing: name what to change"),
    ],
)
def test_unknown_recipes_and_wrong_changes_are_refused(model, changes, message):
    with pytest.raises(InputError, match=message):
        recipe(model, **changes)


@pytest.mark.parametrize("name", ["model", "name", "recipe", "preset"])
def test_names_that_choose_the_recipe_cannot_be_set(name):
    with pytest.raises(InputError, match=f"{name} cannot be changed by --set"):
        parse_settings(["epochs=1", f"{name}=full"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("x=False", False), ("x=false", False), ("x=None", None), ("x=1e-3", 1e-3), ("x=ab", "ab"),
     ("x={[1]: 2}", "{[1]: 2}")],
)  # fmt: skip
def test_values_on_the_command_line_are_parsed(text, value):
    assert parse_setting(text) == ("x", value)


def test_the_option_set_may_be_given_more_than_once():
    parser = argparse.ArgumentParser()
    add_arguments(parser, "TrainConfig")
    args = parser.parse_args(["--set", "epochs=1", "lr=0.1", "--set", "mixup=0.2"])
    assert parse_settings(args.set) == {"epochs": 1, "lr": 0.1, "mixup": 0.2}
    assert parser.parse_args([]).set == []


def test_frozen_layers_are_unfrozen_one_by_one():
    config = TrainConfig("m", frozen_layers=3, unfreeze_every=2)
    assert [config.frozen_at(epoch) for epoch in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert TrainConfig("m", frozen_layers=3).frozen_at(99) == 3


def test_side_by_side_returns_the_settings_in_which_trainings_differ():
    plain = recipe("vit_cnn", "ours", "sample", seed=3)
    milder = replace(plain.augmentation, rotate=3)
    other = replace(plain, lr=0.5, recipe="published", augmentation=milder)
    table = side_by_side({"one": plain, "other": other})
    assert sorted(table.index) == ["lr", "rotate"]
    assert table["other"].to_dict() == {"lr": "0.5", "rotate": "3"}
    assert side_by_side({"one": plain, "again": plain}).empty
    assert side_by_side({("a", "b"): plain, ("a", "c"): other}).columns.nlevels == 2
