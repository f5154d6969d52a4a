"""Training a captioner: the loss is the model's own, a run resumes exactly, and it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from core.captioners import InstructBlipCaptioner
from core.decoding import Decoding
from core.errors import SourceError
from core.models import ModelSpec
from precompute.finetune.caption_batches import (
    cached_features,
    epoch_batches,
    tokenise_captions,
)
from precompute.finetune.caption_model import SmallSizes, new_model, new_tokenizer
from precompute.finetune.caption_recipe import CaptionRecipe
from precompute.finetune.caption_training import CaptionTraining, Split
from precompute.finetune.captions import centred_means, train
from precompute.finetune.data import Pairs, load_pairs

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
SIZES = SmallSizes(
    width=32,
    feed_forward=64,
    heads=2,
    queries=4,
    qformer_layers=1,
    encoder_layers=1,
    decoder_layers=1,
    dropout=0.0,
)
GREEDY = Decoding(num_beams=1, min_new_tokens=3, max_new_tokens=10, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    """Eighteen plain pictures whose captions tell their colour."""
    folder = tmp_path_factory.mktemp("plain")
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(18):
            colour = COLOURS[number % 6]
            name = f"{number:02}.png"
            Image.new("RGB", (30 + number, 40), colour).save(folder / name)
            captions = [f"A {colour} wall is painted {colour} .", f"The whole wall is {colour}"]
            file.write(json.dumps({"file_name": name, "captions": captions}) + "\n")
    return load_pairs(str(folder))


def tiny_model(pairs: Pairs):
    torch.manual_seed(1)
    tokenizer = new_tokenizer(
        (text for captions in pairs.captions for text in captions), min_count=2
    )
    config = InstructBlipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        initializer_range=0.2,
    )
    state = InstructBlipVisionModel(config).state_dict()
    return new_model(tokenizer, config, state, SIZES)


def recipe_of(**changes) -> CaptionRecipe:
    values = {"epochs": 3, "batch_size": 6, "frozen_layers": 1, "learning_rate": 5e-3}
    return CaptionRecipe(**{**values, **changes})


def training_of(pairs: Pairs, folder: Path, **changes) -> tuple[CaptionTraining, Split]:
    model, processor = tiny_model(pairs)
    recipe = recipe_of(**changes)
    features = cached_features(
        model, processor, pairs, frozen_layers=recipe.frozen_layers, folder=folder / "features"
    )
    prompts = (GREEDY.prompt, GREEDY.retry_prompt)
    return CaptionTraining(model, processor, recipe, prompts, GREEDY), Split(
        features, pairs.captions
    )


def test_the_tokenizer_knows_frequent_words_and_the_prompts(pairs):
    tokenizer = new_tokenizer(["a Red dog, a red cat!", "one red dog"], min_count=2)
    words = tokenizer.convert_ids_to_tokens(tokenizer("The red dog's RED t-shirt.")["input_ids"])
    assert words == ["the", "red", "<unk>", "red", "<unk>", "</s>"]
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<image>"]) == [0, 1, 2, 3]
    prompt = tokenizer(GREEDY.prompt)["input_ids"] + tokenizer(GREEDY.retry_prompt)["input_ids"]
    assert tokenizer.unk_token_id not in prompt


def test_the_loss_is_that_of_the_models_own_forward(pairs, tmp_path):
    training, split = training_of(pairs, tmp_path, label_smoothing=0.0, word_dropout=0.0)
    model, processor = training.model.eval(), training.processor
    tokens = tokenise_captions(processor.tokenizer, split.captions, 20)
    batch = next(epoch_batches(split.features, tokens, batch_size=18, unknown=2, seed=3))
    order = np.random.default_rng(3).permutation(18)
    with torch.inference_mode():
        ours = training.loss(batch, 0)
        images = [pairs.image(int(order[owner])) for owner in batch.image_of_caption]
        inputs = processor(images=images, text=[GREEDY.prompt] * len(images), return_tensors="pt")
        theirs = model(**inputs, labels=batch.labels).loss
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


def test_features_are_kept_and_never_those_of_another_tower(pairs, tmp_path):
    model, processor = tiny_model(pairs)
    first = cached_features(model, processor, pairs, frozen_layers=1, folder=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    stamp = path.stat().st_mtime_ns
    again = cached_features(model, processor, pairs, frozen_layers=1, folder=tmp_path)
    assert path.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first, again)
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(2)
    other = cached_features(model, processor, pairs, frozen_layers=1, folder=tmp_path)
    assert np.abs(other.astype(np.float32) - first).max() > 0.01


def test_batches_hold_every_caption_beside_its_image(pairs):
    features = np.arange(18, dtype=np.float16).reshape(18, 1, 1)
    tokens = [[[100 + row, 1], [200 + row, 7, 2, 1]] for row in range(18)]
    seen = []
    for batch in epoch_batches(features, tokens, batch_size=5, unknown=2, seed=0):
        assert (batch.labels[:, 1:] != 2).all()
        owners = batch.features[batch.image_of_caption, 0, 0].int()
        seen += list(zip(owners.tolist(), (batch.labels[:, 0] % 100).tolist(), strict=True))
    assert sorted(seen) == sorted([(row, row) for row in range(18)] * 2)


def test_long_captions_keep_their_end_token(pairs):
    tokenizer = new_tokenizer(["red " * 3], min_count=1)
    (((*body, end),),) = tokenise_captions(tokenizer, [["red " * 40]], 6)
    assert (len(body), end) == (5, tokenizer.eos_token_id)


def test_a_resumed_training_takes_the_same_course(pairs, tmp_path):
    straight, split = training_of(pairs, tmp_path)
    tokens = tokenise_captions(straight.processor.tokenizer, split.captions, 20)
    for _ in range(3):
        straight.run_epoch(split, tokens)
    stopped, _ = training_of(pairs, tmp_path)
    stopped.run_epoch(split, tokens)
    stopped.save(tmp_path / "checkpoint", "data", [{"epoch": 1}])
    resumed, _ = training_of(pairs, tmp_path)
    assert resumed.resume(tmp_path / "checkpoint", "data") == [{"epoch": 1}]
    for _ in range(2):
        resumed.run_epoch(split, tokens)
    for name, weights in straight.trained.items():
        torch.testing.assert_close(resumed.trained[name], weights, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(resumed.average[name], straight.average[name])


def test_another_recipe_is_no_continuation(pairs, tmp_path):
    training, _ = training_of(pairs, tmp_path)
    training.save(tmp_path / "checkpoint", "data", [])
    other, _ = training_of(pairs, tmp_path, seed=7)
    with pytest.raises(SourceError, match="another recipe"):
        other.resume(tmp_path / "checkpoint", "data")
    with pytest.raises(SourceError, match="another recipe"):
        training.resume(tmp_path / "checkpoint", "other data")


def test_meanings_are_centred_means_of_each_images_captions():
    rows = np.array([[1, 0], [0, 1], [3, 0], [0, 0], [0, 0], [0, -3]], dtype=np.float32)
    means = centred_means(rows, [2, 1, 3])
    averages = np.array([[0.5, 0.5], [3, 0], [0, -1]])
    expected = averages - averages.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(means, expected, atol=1e-6)
    assert means.dtype == np.float32


def test_grounding_teaches_the_qformer_which_image_it_sees(pairs, tmp_path):
    """Without the cross entropy's help: the fresh queries alone must tell colours apart."""
    training, split = training_of(pairs, tmp_path, grounding=5.0, epochs=18)
    random = np.random.default_rng(0).normal(size=(6, 384)).astype(np.float32)
    meanings = np.tile(random / np.linalg.norm(random, axis=1, keepdims=True), (3, 1))
    grounded = Split(split.features, split.captions, meanings)
    tokens = tokenise_captions(training.processor.tokenizer, split.captions, 20)

    def right() -> int:
        with torch.inference_mode():
            _, seen = training.encode(torch.tensor(split.features).float(), 0)
            found = training.grounding(seen.mean(dim=1)) @ torch.from_numpy(meanings[:6]).T
        return int((found.argmax(dim=1) == torch.arange(18) % 6).sum())

    before = right()
    for _ in range(18):
        training.run_epoch(grounded, tokens)
    assert before <= 9
    assert right() >= 15


def test_frozen_blocks_stay_and_the_others_move(pairs, tmp_path):
    training, split = training_of(pairs, tmp_path)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    tokens = tokenise_captions(training.processor.tokenizer, split.captions, 20)
    training.run_epoch(split, tokens)
    moved = {n for n, t in training.model.state_dict().items() if not torch.equal(t, before[n])}
    assert not any(name.startswith("vision_model.embeddings") for name in moved)
    assert not any(name.startswith("vision_model.encoder.layers.0") for name in moved)
    assert "vision_model.encoder.layers.1.mlp.fc1.weight" in moved
    assert "query_tokens" in moved


def test_it_learns_to_name_colours_and_writes_what_the_captioner_loads(pairs, tmp_path):
    model, processor = tiny_model(pairs)
    out = tmp_path / "trained"
    recipe = recipe_of(epochs=14, batch_size=2, average_decay=0.9, grounding=0.0)
    report = train(model, processor, pairs, pairs, out, recipe, GREEDY)
    assert report["bleu4"] > 90
    assert report["distinct_captions"] >= 6
    assert (report["images"], report["references"]) == (18, 36)
    assert not [path for path in out.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]

    captioner = InstructBlipCaptioner(ModelSpec("trained", f"path:{out}", licence=""), device="cpu")
    said = captioner.caption([Image.new("RGB", (60, 60), colour) for colour in COLOURS])
    named = [colour in caption.text for colour, caption in zip(COLOURS, said, strict=True)]
    assert sum(named) >= 5
    written = json.loads((out / "metrics.json").read_text())
    assert written["validation"]["bleu4"] == report["bleu4"]
    assert written["history"][0]["loss"] > written["history"][-1]["loss"]
