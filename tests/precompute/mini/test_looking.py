"""The first lesson of a fresh captioner: meanings foretold, said by the Q-Former, and read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import SourceError
from precompute.finetune.captions.batches import epoch_batches
from precompute.finetune.captions.recipe import LookingRecipe
from precompute.mini.foretelling import expected, foretell
from precompute.mini.looking import MeaningReader, Sights, learn_to_look
from tests.precompute.finetune.captions.tiny_captioner import (
    PROMPTS,
    coloured_pairs,
    tokens_of,
    training_of,
)

LOOKING = LookingRecipe(epochs=60, batch_size=6, folds=3)
LANGUAGE = {"looking": LOOKING, "trains": ("language",), "frozen_layers": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return coloured_pairs(tmp_path_factory.mktemp("colours"))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_an_image_is_foretold_without_its_own_captions():
    """Twelve kinds of image; one image's captions are of a meaning that none other has."""
    random = np.random.default_rng(0)
    kinds = unit(random.normal(size=(12, 24)))
    kind = np.arange(240) % 12
    seen = (random.normal(size=(12, 16))[kind] + 0.1 * random.normal(size=(240, 16))).astype("f4")
    counts = [1 + row % 2 for row in range(240)]
    owners = np.repeat(np.arange(240), counts)
    odd = unit(random.normal(size=(1, 24)))
    known = np.where((owners == 7)[:, None], odd, kinds[kind[owners]])
    teller = foretell(seen, known, counts, folds=4, seed=0)
    told = teller(seen)
    right = (told @ kinds.T).argmax(axis=1) == kind
    assert right.mean() > 0.9
    assert told[7] @ odd[0] < told[7] @ kinds[kind[7]]
    np.testing.assert_allclose(np.linalg.norm(told, axis=1), 1, atol=1e-5)
    # In another view the same network answers, which never met the image.
    again = teller(seen + 0.01 * random.normal(size=seen.shape).astype("f4"))
    assert (told * again).sum(axis=1).min() > 0.95
    assert again[7] @ odd[0] < again[7] @ kinds[kind[7]]


def test_what_a_caption_makes_one_expect_is_as_vague_as_what_is_foretold():
    random = np.random.default_rng(0)
    own = unit(random.normal(size=(500, 8)))
    foretold = own * np.array([1, 1, 1, 1, 0, 0, 0, 0]) + 0.05 * random.normal(size=(500, 8))
    said = expected(own, foretold.astype(np.float32))
    assert said.dtype == np.float32
    np.testing.assert_allclose(said[:, :4], own[:, :4], atol=0.1)
    assert np.abs(said[:, 4:]).max() < 0.05


def test_the_language_model_reads_each_caption_and_what_was_foretold(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path)
    random = np.random.default_rng(0)
    sights = Sights(
        expected=unit(random.normal(size=(36, 5))),
        foretold=unit(random.normal(size=(18, 5))),
        letters=random.normal(size=(4, 5, 32)).astype(np.float32),
    )
    counts = [len(captions) for captions in pairs.captions]
    tokens = tokens_of(training, pairs)
    batch = next(epoch_batches(features, tokens, training.recipe, unknown=2, seed=0))
    rows = batch.rows[batch.image_of_caption].numpy()

    def read(least: float, most: float, blur: float = 0.0):
        recipe = LookingRecipe(least=least, most=most, blur=blur)
        return MeaningReader(sights, counts, recipe)(batch)

    captions = read(0, 0)
    assert len(captions.image_tokens) == len(batch.labels)
    for line, said in enumerate(captions.image_tokens[captions.image_of_caption]):
        words = [int(token) for token in batch.labels[line] if token != -100]
        number = [[t for t in text if t != 2] for text in tokens[rows[line]]].index(words)
        own = 2 * rows[line] + number
        meant = torch.from_numpy(sights.expected[own : own + 1])
        torch.testing.assert_close(said, sights.tokens(meant)[0])
    images = read(1, 1).image_tokens
    torch.testing.assert_close(images, sights.tokens(torch.from_numpy(sights.foretold[rows])))
    some = read(0.2, 0.8).image_tokens
    assert not torch.allclose(some, images)
    assert not torch.allclose(some, captions.image_tokens)
    assert not torch.allclose(read(0, 0, blur=0.5).image_tokens, captions.image_tokens)


def test_the_qformer_learns_to_say_what_captions_would_mean(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path, **LANGUAGE)
    objective = training.objective

    def said() -> torch.Tensor:
        objective.eval()
        with torch.inference_mode():
            return objective.look(torch.from_numpy(features[:]), PROMPTS[0])

    fresh = said()
    kept = tmp_path / "checkpoint" / "looking.safetensors"
    sights = learn_to_look(objective, features, pairs.captions, kept)
    colours = sights.tokens(torch.from_numpy(sights.expected[:12:2]))  # of the first six images
    learnt = said()

    def right(tokens: torch.Tensor) -> int:
        likeness = tokens.flatten(1) @ colours.flatten(1).T
        return int((likeness.argmax(dim=1) == torch.arange(18) % 6).sum())

    assert right(fresh) <= 9
    assert right(learnt) >= 15
    assert all("language_model" in name for name in training.trained)
    assert all(parameter.requires_grad for parameter in training.trained.values())

    again, _ = training_of(pairs, tmp_path, **LANGUAGE)
    taken_up = learn_to_look(again.objective, features, pairs.captions, kept)
    for name in ("expected", "foretold", "letters"):
        np.testing.assert_array_equal(getattr(taken_up, name), getattr(sights, name))
    objective = again.objective
    torch.testing.assert_close(said(), learnt)


def test_few_images_are_enough_and_one_is_not(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path, **LANGUAGE)
    kept = tmp_path / "looking.safetensors"
    sights = learn_to_look(training.objective, features.first(2), pairs.captions[:2], kept)
    assert np.isfinite(sights.foretold).all()
    with pytest.raises(SourceError, match="two images"):
        learn_to_look(training.objective, features.first(1), pairs.captions[:1], kept)
