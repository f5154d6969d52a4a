"""How the small captioner learns: predicted embeddings, in the Q-Former's tokens, and read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import SourceError
from precompute.finetune.captions.batches import encoded_images, epoch_batches
from precompute.finetune.captions.job import Split
from precompute.mini.pretraining import (
    PretrainingRecipe,
    Targets,
    embedding_inputs,
    predict_out_of_fold,
    regress_captions,
    teach_qformer,
)
from tests.precompute.finetune.captions.tiny_captioner import (
    PROMPTS,
    coloured_pairs,
    objective_of,
    tokens_of,
)

RECIPE = PretrainingRecipe(epochs=60, batch_size=6, folds=3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return coloured_pairs(tmp_path_factory.mktemp("colours"))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def split_of(objective, pairs, folder) -> Split:
    return Split(
        encoded_images(objective.model, objective.processor, pairs, folder), pairs.captions
    )


def test_an_image_is_predicted_without_its_own_captions():
    """Twelve kinds of image; one image's captions have an embedding that none other has."""
    random = np.random.default_rng(0)
    kinds = unit(random.normal(size=(12, 24)))
    kind = np.arange(240) % 12
    features = random.normal(size=(12, 16))[kind] + 0.1 * random.normal(size=(240, 16))
    counts = [1 + row % 2 for row in range(240)]
    owners = np.repeat(np.arange(240), counts)
    odd = unit(random.normal(size=(1, 24)))
    captions = np.where((owners == 7)[:, None], odd, kinds[kind[owners]])
    predicted = predict_out_of_fold(features.astype("f4"), captions, counts, folds=4, seed=0)
    right = (predicted @ kinds.T).argmax(axis=1) == kind
    assert right.mean() > 0.9
    assert predicted[7] @ odd[0] < predicted[7] @ kinds[kind[7]]
    np.testing.assert_allclose(np.linalg.norm(predicted, axis=1), 1, atol=1e-5)


def test_what_a_caption_makes_one_predict_is_as_vague_as_predictions_are():
    random = np.random.default_rng(0)
    captions = unit(random.normal(size=(500, 8)))
    predicted = captions * np.array([1] * 4 + [0] * 4) + 0.05 * random.normal(size=(500, 8))
    found = regress_captions(captions, predicted.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :4], captions[:, :4], atol=0.1)
    assert np.abs(found[:, 4:]).max() < 0.05


def test_the_language_model_reads_each_caption_and_what_was_predicted(pairs, tmp_path):
    objective = objective_of(pairs)
    random = np.random.default_rng(0)
    targets = Targets(
        from_captions=unit(random.normal(size=(36, 5))),
        predicted=unit(random.normal(size=(18, 5))),
        projections=random.normal(size=(4, 5, 32)).astype(np.float32),
    )
    counts = [len(captions) for captions in pairs.captions]
    tokens = tokens_of(objective, pairs)
    features = split_of(objective, pairs, tmp_path).features
    batch = next(epoch_batches(features, tokens, objective.recipe, unknown=2, seed=0))
    rows = batch.rows[batch.image_of_caption].numpy()

    def read(least: float, most: float, noise: float = 0.0):
        recipe = PretrainingRecipe(least=least, most=most, noise=noise)
        return embedding_inputs(targets, counts, recipe)(batch)

    captions = read(0, 0)
    assert len(captions.image_tokens) == len(batch.labels)
    for line, encoded in enumerate(captions.image_tokens[captions.image_of_caption]):
        words = [int(token) for token in batch.labels[line] if token != -100]
        number = [[t for t in text if t != 2] for text in tokens[rows[line]]].index(words)
        own = 2 * rows[line] + number
        expected = torch.from_numpy(targets.from_captions[own : own + 1])
        torch.testing.assert_close(encoded, targets.tokens(expected)[0])
    images = read(1, 1).image_tokens
    torch.testing.assert_close(images, targets.tokens(torch.from_numpy(targets.predicted[rows])))
    some = read(0.2, 0.8).image_tokens
    assert not torch.allclose(some, images)
    assert not torch.allclose(some, captions.image_tokens)
    assert not torch.allclose(read(0, 0, noise=0.5).image_tokens, captions.image_tokens)


def test_the_qformer_learns_to_encode_what_captions_say(pairs, tmp_path):
    objective = objective_of(pairs, trains=("language",))
    split = split_of(objective, pairs, tmp_path / "features")

    def encoded(of) -> torch.Tensor:
        of.eval()
        with torch.inference_mode():
            return of.image_tokens(torch.from_numpy(np.float32(split.features)), PROMPTS[0])

    fresh = encoded(objective)
    targets = teach_qformer(objective, split, RECIPE)
    # Of the first six images.
    colours = targets.tokens(torch.from_numpy(targets.from_captions[:12:2]))
    learnt = encoded(objective)

    def right(tokens: torch.Tensor) -> int:
        likeness = tokens.flatten(1) @ colours.flatten(1).T
        return int((likeness.argmax(dim=1) == torch.arange(18) % 6).sum())

    assert right(fresh) <= 9
    assert right(learnt) >= 15
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained and all("language_model" in name for name in trained)

    targets.write(tmp_path / "checkpoint")
    read = Targets.read(tmp_path / "checkpoint", 36)
    for name in ("from_captions", "predicted", "projections"):
        np.testing.assert_array_equal(getattr(read, name), getattr(targets, name))


def test_few_images_are_enough_and_one_is_not(pairs, tmp_path):
    objective = objective_of(pairs, trains=("language",))
    split = split_of(objective, pairs, tmp_path / "features")
    assert np.isfinite(teach_qformer(objective, split.first(2), RECIPE).predicted).all()
    with pytest.raises(SourceError, match="two images"):
        teach_qformer(objective, split.first(1), RECIPE)


def test_two_processes_go_on_with_the_same_model(tmp_path):
    (tmp_path / "photos").mkdir()
    coloured_pairs(tmp_path / "photos")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            "tests.precompute.mini.several_processes",
            str(tmp_path),
        ],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank-{i}.txt").read_text() for i in range(2))
    assert first == second
    assert (tmp_path / "out" / "checkpoint" / "targets.safetensors").is_file()
