"""Self-critical training: rewards are the published ones, worths are fair, and it works."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from precompute.evaluate.metrics.caption_metrics import cider
from precompute.finetune.captions.batches import epoch_batches
from precompute.finetune.captions.job import Job
from precompute.finetune.captions.recipe import Instruction, RewardRecipe
from precompute.finetune.captions.self_critical import (
    CiderReference,
    RetrievalReference,
    SelfCritic,
)
from precompute.finetune.captions.training import CaptionTraining
from tests.precompute.finetune.captions.tiny_captioner import (
    PROMPTS,
    coloured_pairs,
    prepared_in,
    tokens_of,
    training_of,
)

REFERENCES = [
    ["a dog runs on the beach", "a brown dog is running", "dog by the sea"],
    ["two children play football", "kids with a ball on the grass", "a game of football"],
    ["a man climbs a rock", "someone climbing", "a climber on a steep rock face"],
]
SAID = ["a dog is running on the grass", "two two kids play", "someone on a rock face , outside"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return coloured_pairs(tmp_path_factory.mktemp("plain"))


def test_cider_is_the_librarys():
    reference = CiderReference(REFERENCES)
    every = range(3)

    def score(text, image, answers=every):
        return reference([text], [image], [answers])[0]

    scores = reference(SAID, [0, 1, 2], [every] * 3)
    assert scores.mean() == pytest.approx(cider(SAID, REFERENCES), abs=1e-9)
    assert score("a zebra", 0) == 0
    own = [score(SAID[0], 0, [number]) for number in every]
    assert score(SAID[0], 0) == pytest.approx(np.mean(own))
    assert score(SAID[0], 0, [2, 1]) == pytest.approx((own[1] + own[2]) / 2)
    assert len(set(own)) == 3


def test_an_unfinished_caption_is_worth_less_only_if_the_end_counts():
    marked = CiderReference(REFERENCES, mark_end=True)
    texts = ["a man climbs a rock", "a man climbs a rock on a"]
    whole, broken = marked(texts, [2, 2], [range(3)] * 2)
    assert whole > broken
    assert marked(texts[:1], [2], [[0]])[0] == pytest.approx(10)


def test_the_retrieval_reward_is_minus_the_logarithm_of_the_own_images_rank():
    """A dog before climbers; the rank of an image among four, and a tie that counts against it."""
    references = [*REFERENCES, REFERENCES[2]]
    encoder = MiniLmEncoder(PROFILES["mini"].sentence)
    images = np.array([0, 0, 2, 3, 1])
    texts = [
        "a dog on a beach",
        "a man on a rock",
        "a man on a rock",
        "a man on a rock",
        "football",
    ]
    found = RetrievalReference(references, encoder)(texts, images)
    means = np.stack(
        [encoder.encode_text(own).astype(np.float64).mean(axis=0) for own in references]
    )
    rows, queries = means - means.mean(axis=0), encoder.encode_text(texts) - means.mean(axis=0)
    scores = queries @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    ranks = [sum(row >= row[image] - 1e-5) for row, image in zip(scores, images, strict=True)]
    np.testing.assert_allclose(found, -np.log(ranks), atol=1e-6)
    assert ranks[0] == ranks[4] == 1
    assert ranks[1] >= 3
    assert ranks[2] == ranks[3] == 2


@pytest.mark.parametrize(("learns", "numbers"), [("all", 3), ("shortest", 1), ("longest", 1)])
def test_a_caption_is_held_against_the_references_that_answer_its_prompt(learns, numbers):
    instruction = Instruction("Go on.", learns)
    chosen = instruction.chosen([text.split() for text in REFERENCES[0]])
    assert len(chosen) == numbers
    if learns == "shortest":
        assert chosen == [2]


def critic_of(training, pairs, **rewards):
    recipe = RewardRecipe(**{"samples": 4, **rewards})
    return SelfCritic(training.objective, recipe, pairs.captions)


def test_a_batch_gets_the_models_own_captions_each_against_the_others(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path)
    tokens = tokens_of(training.objective, pairs)
    critic = critic_of(training, pairs, cider=1.0, retrieval=0.5)
    (batch, *_) = epoch_batches(features, tokens, training.objective.recipe, unknown=2, seed=0)
    torch.manual_seed(3)
    drawn = critic(batch)
    torch.manual_seed(3)
    assert torch.equal(critic(batch).labels, drawn.labels)
    assert torch.equal(drawn.rows, batch.rows)
    assert torch.bincount(drawn.image_of_caption).tolist() == [4] * 6
    lengths = (drawn.labels != -100).sum(dim=1)
    assert lengths.tolist() == sorted(lengths.tolist())

    tokenizer = training.objective.processor.tokenizer
    texts = [
        tokenizer.decode(line[line != -100], skip_special_tokens=True) for line in drawn.labels
    ]
    images = drawn.rows[drawn.image_of_caption].numpy()
    rewards = critic.rewards(
        texts, images, training.objective.recipe.instructions[batch.instruction]
    )
    for image in range(6):
        own = np.flatnonzero(drawn.image_of_caption.numpy() == image)
        for row in own:
            others = rewards[own[own != row]]
            assert drawn.worth[row].item() == pytest.approx(rewards[row] - others.mean(), abs=1e-4)


def test_what_is_worth_more_becomes_likelier(pairs, tmp_path):
    """After some learning from people, by CIDEr alone."""
    spoken, features = training_of(
        pairs, tmp_path / "spoken", epochs=9, batch_size=2, average_decay=0.9
    )
    objective = spoken.objective
    tokens = tokens_of(objective, pairs)
    spoken.fit(features, tokens)
    objective.recipe = replace(
        objective.recipe, epochs=20, learning_rate=1e-3, word_dropout=0.0, instructions=PROMPTS[:1]
    )
    training = CaptionTraining(objective, len(pairs))
    critic = critic_of(training, pairs, cider=1.0)
    rewards = []

    def asked(batch):
        drawn = critic(batch)
        rewards.append(critic.mean_reward)
        return drawn

    training.fit(features, tokens, transform=asked)
    means = np.mean(np.reshape(rewards, (20, 9)), axis=1)
    assert means[-2:].mean() > 1.3 * means[:2].mean(), means


def test_the_best_reward_on_validation_is_kept_and_reported(pairs, tmp_path):
    reward = RewardRecipe(cider=1.0, retrieval=0.2, samples=3)
    prepared = prepared_in(pairs, tmp_path / "out", epochs=3, reward=reward)
    report = Job(prepared, pairs, pairs).run()
    assert report["images"] == 18
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["recipe"]["reward"] == {"cider": 1.0, "retrieval": 0.2, "samples": 3}
    history = written["history"]
    best = [entry["reward"] for entry in history if entry["best"]]
    assert len(history) == 3
    assert best[-1] == max(entry["reward"] for entry in history)
