"""Self-critical training: rewards are the published ones, worths are fair, and it works."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import SourceError
from precompute.evaluate.metrics import cider
from precompute.finetune.captions import command
from precompute.finetune.captions.batches import cached_features, epoch_batches
from precompute.finetune.captions.job import train
from precompute.finetune.captions.recipe import Instruction, RewardRecipe
from precompute.finetune.captions.rewards import CiderReference, RetrievalReference
from precompute.finetune.captions.self_critical import SelfCritic
from precompute.finetune.captions.training import CaptionTraining
from precompute.finetune.shared.embeddings import Meanings, embed_texts, sentence_encoder
from tests.precompute.finetune.captions.tiny_captioner import (
    COLOURS,
    PROMPTS,
    coloured_pairs,
    prepared_in,
    tiny_model,
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
    score = CiderReference(REFERENCES)
    mean = np.mean([score(text, image) for image, text in enumerate(SAID)])
    assert mean == pytest.approx(cider(SAID, REFERENCES), abs=1e-9)
    assert score("a zebra", 0) == 0
    own = [score(SAID[0], 0, [number]) for number in range(3)]
    assert score(SAID[0], 0) == pytest.approx(np.mean(own))
    assert score(SAID[0], 0, [2, 1]) == pytest.approx((own[1] + own[2]) / 2)
    assert len(set(own)) == 3


def test_an_unfinished_caption_is_worth_less_only_if_the_end_counts():
    whole, broken = "a man climbs a rock", "a man climbs a rock on a"
    marked = CiderReference(REFERENCES, mark_end=True)
    assert marked(whole, 2) > marked(broken, 2)
    assert marked(whole, 2, [0]) == pytest.approx(10)


def test_the_retrieval_reward_is_minus_the_logarithm_of_the_own_images_rank():
    """A dog before climbers; the rank of an image among four, and a tie that counts against it."""
    references = [*REFERENCES, REFERENCES[2]]
    meanings = Meanings.read(references)
    encoder = sentence_encoder()
    images = np.array([0, 0, 2, 3, 1])
    texts = [
        "a dog on a beach",
        "a man on a rock",
        "a man on a rock",
        "a man on a rock",
        "football",
    ]
    found = RetrievalReference(meanings, encoder)(texts, images)
    scores = meanings.centred(embed_texts(encoder, texts)).astype(np.float64) @ meanings.rows.T
    ranks = [sum(row >= row[image] - 1e-6) for row, image in zip(scores, images, strict=True)]
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
    return SelfCritic(
        training.objective,
        RewardRecipe(**{"samples": 4, **rewards}),
        pairs.captions,
        Meanings.read(pairs.captions),
    )


def test_a_batch_gets_the_models_own_captions_each_against_the_others(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path)
    tokens = tokens_of(training, pairs)
    critic = critic_of(training, pairs, cider=1.0, retrieval=0.5)
    (batch, *_) = epoch_batches(features, tokens, training.recipe, unknown=2, seed=0)
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
    rewards = critic.rewards(texts, images, training.recipe.instructions[batch.instruction])
    for image in range(6):
        own = np.flatnonzero(drawn.image_of_caption.numpy() == image)
        for row in own:
            others = rewards[own[own != row]]
            assert drawn.worth[row].item() == pytest.approx(rewards[row] - others.mean(), abs=1e-4)


def test_what_is_worth_more_becomes_likelier(pairs, tmp_path):
    """After some learning from people, by CIDEr alone."""
    spoken, features = training_of(pairs, tmp_path, epochs=14, batch_size=2, average_decay=0.9)
    tokens = tokens_of(spoken, pairs)
    for _ in range(9):
        spoken.run_epoch(features, tokens)
    objective = spoken.objective
    objective.recipe = replace(
        objective.recipe, epochs=20, learning_rate=3e-3, word_dropout=0.0, instructions=PROMPTS[:1]
    )
    training = CaptionTraining(objective)
    critic = critic_of(training, pairs, cider=1.0)
    rewards = []

    def asked(batch):
        drawn = critic(batch)
        rewards.append(critic.mean_reward)
        return drawn

    for _ in range(20):
        training.run_epoch(features, tokens, critic=asked)
    means = np.mean(np.reshape(rewards, (20, 9)), axis=1)
    assert means[-2:].mean() > 1.3 * means[:2].mean(), means


def test_the_best_reward_on_validation_is_kept_and_reported(pairs, tmp_path):
    reward = RewardRecipe(cider=1.0, retrieval=0.2, samples=3)
    prepared = prepared_in(pairs, tmp_path / "out", epochs=3, reward=reward)
    report = train(prepared, pairs, pairs)
    assert report["images"] == 18
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["recipe"]["reward"] == {"cider": 1.0, "retrieval": 0.2, "samples": 3}
    history = written["history"]
    best = [entry["reward"] for entry in history if entry["best"]]
    assert len(history) == 3
    assert best[-1] == max(entry["reward"] for entry in history)


def test_views_are_of_the_mirrored_and_cropped_images(pairs, tmp_path):
    model, processor = tiny_model(pairs)
    options = {"frozen_layers": 1, "folder": tmp_path}
    seen = cached_features(model, processor, pairs, **options, views=3)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    plain = cached_features(model, processor, pairs, **options)
    np.testing.assert_array_equal(seen[:], plain[:])
    assert len(plain.views) == 1

    some = np.arange(18)
    drawn = seen.drawn(some, np.random.default_rng(0))
    expected = np.random.default_rng(0).integers(3, size=18)
    for row, view in enumerate(expected):
        np.testing.assert_array_equal(drawn[row], seen.views[view][row].astype(np.float32))
    assert set(expected) == {0, 1, 2}
    part = cached_features(model, processor, pairs.about(["red"]), **options, views=3)
    np.testing.assert_array_equal(part[:], seen[np.flatnonzero(some % 6 == COLOURS.index("red"))])


def test_a_reward_needs_a_captioner_that_speaks(tmp_path):
    with pytest.raises(SourceError, match="can speak"):
        command.run(
            data="x", out=tmp_path / "out", init_vision=tmp_path, reward_cider=1.0, **_defaults()
        )


def _defaults():
    import inspect

    given = {"data", "out", "init_vision", "reward_cider"}
    parameters = inspect.signature(command.run).parameters.items()
    return {name: each.default for name, each in parameters if name not in given}
