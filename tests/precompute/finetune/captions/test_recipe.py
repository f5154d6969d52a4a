"""Recipes: by name, from a file, changed by options; and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import SourceError
from precompute.finetune.captions.recipe import (
    PARTS,
    RECIPES,
    CaptionRecipe,
    Instruction,
    LoraRecipe,
)
from precompute.finetune.shared.recipes import read_recipe


def recipe_file(folder: Path, **fields) -> str:
    """Write a recipe and return its path."""
    path = folder / "recipe.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_large_models_get_an_adapter_unless_all_weights_are_asked_for():
    recipe = RECIPES["default"]
    small = recipe.completed(large=False, gpu=True)
    assert (small.lora, small.trains, small.precision) == (None, PARTS, "fp32")
    large = recipe.completed(large=True, gpu=True)
    assert (large.lora, large.trains, large.precision) == (LoraRecipe(16), (), "int8")
    whole = CaptionRecipe(trains=("language",)).completed(large=True, gpu=True)
    assert (whole.lora, whole.precision) == (None, "fp32")
    with pytest.raises(SourceError, match="cannot be trained at once"):
        CaptionRecipe(trains=("language",), lora=LoraRecipe(4)).completed(large=False, gpu=False)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"recipe": "adapter", "dropuot": 0.1}',
            "dropuot, which no recipe knows; known are epochs",
        ),
        ('{"lora": {"rank": 0}}', "lora.rank is wrong: Input should be greater than or equal to 1"),
        ('{"lora": {"rank": 4, "alhpa": 1}}', "lora.alhpa is wrong"),
        ('{"trains": ["vision"]}', "trains.0 is wrong: Input should be 'language'"),
        ('{"precision": "fp16"}', "precision is wrong"),
        ('{"recipe": "fast"}', "changes the recipe fast; known are default, adapter"),
        ("[1]", "holds no JSON object"),
        ("{", "not a file of JSON"),
        (None, "neither a file nor one of the recipes default, adapter, small-gpu"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(tmp_path, content, sentence):
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError, match=sentence) as raised:
        read_recipe(str(path), RECIPES, "default", {})
    assert "\n" not in str(raised.value)


def test_options_change_a_recipe_and_a_recipe_changes_a_named_one(tmp_path):
    path = recipe_file(tmp_path, recipe="adapter", epochs=2, instructions=[{"text": "Say it."}])
    found = read_recipe(path, RECIPES, "default", {"epochs": 5, "seed": None})
    assert (found.epochs, found.lora, found.learning_rate) == (5, LoraRecipe(8), 2e-3)
    assert found.instructions == (Instruction("Say it."),)
    assert found.seed == 0
    assert read_recipe("small-gpu", RECIPES, "default", {}) is RECIPES["small-gpu"]
