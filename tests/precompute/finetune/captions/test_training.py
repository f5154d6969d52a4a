"""Training a captioner: the loss is the model's own, a run resumes exactly, and it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import SourceError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.spec import ModelSpec
from precompute.finetune.captions.batches import (
    encoded_images,
    epoch_batches,
    tokenise_captions,
)
from precompute.finetune.captions.job import Job
from precompute.finetune.shared import loop
from precompute.mini.captioner_model import new_tokenizer
from precompute.sources.pairs import Pairs
from tests.precompute.finetune.captions.tiny_captioner import (
    COLOURS,
    GREEDY,
    PROMPTS,
    coloured_pairs,
    prepared_in,
    recipe_of,
    tiny_model,
    tokens_of,
    training_of,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return coloured_pairs(tmp_path_factory.mktemp("plain"))


def test_the_tokenizer_knows_frequent_words_and_the_prompts(pairs):
    tokenizer = new_tokenizer(["a Red dog, a red cat!", "one red dog"], min_count=2)
    words = tokenizer.convert_ids_to_tokens(tokenizer("The red dog's RED t-shirt.")["input_ids"])
    assert words == ["the", "red", "<unk>", "red", "<unk>", "</s>"]
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<image>"]) == [0, 1, 2, 3]
    prompt = tokenizer(GREEDY.prompt)["input_ids"] + tokenizer(GREEDY.retry_prompt)["input_ids"]
    assert tokenizer.unk_token_id not in prompt


def test_features_are_dropped_in_training_alone(pairs, tmp_path):
    options = {"word_dropout": 0.0, "batch_size": 18}
    losses = {}
    for share in (0.0, 0.5):
        training, features = training_of(
            pairs, tmp_path / str(share), feature_dropout=share, **options
        )
        tokens = tokens_of(training.objective, pairs)
        batch = next(epoch_batches(features, tokens, training.objective.recipe, unknown=2, seed=3))
        objective = training.objective.train()
        with torch.no_grad():
            losses[share] = [objective(batch).item() for _ in range(2)]
            said = objective.captions(features, PROMPTS[0], GREEDY)
            assert objective.captions(features, PROMPTS[0], GREEDY) == said
            objective.eval()
            losses[f"{share} later"] = [objective(batch).item()]
    assert losses[0.0][0] == losses[0.0][1] == losses["0.0 later"][0] == losses["0.5 later"][0]
    assert len({*losses[0.5], losses[0.0][0]}) == 3


def test_features_are_kept_and_never_those_of_another_tower(pairs, tmp_path):
    model, processor = tiny_model(pairs)
    first = encoded_images(model, processor, pairs, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    stamp = path.stat().st_mtime_ns
    again = encoded_images(model, processor, pairs, tmp_path)
    assert path.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first, again)
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(2)
    other = encoded_images(model, processor, pairs, tmp_path)
    assert np.abs(other - first).max() > 0.01


def batches(features, tokens, **changes):
    recipe = recipe_of(batch_size=5, **changes)
    return epoch_batches(features, tokens, recipe, unknown=2, seed=0)


ROWS = np.arange(18, dtype=np.float16).reshape(18, 1, 1)
TOKENS = [[[100 + row, 1], [200 + row, 7, 2, 1]] for row in range(18)]


def test_batches_hold_every_caption_beside_its_image():
    seen = []
    for batch in batches(ROWS, TOKENS, instructions=PROMPTS[:1]):
        assert (batch.labels[:, 1:] != 2).all()
        owners = batch.features[batch.image_of_caption, 0, 0].int()
        seen += list(zip(owners.tolist(), (batch.labels[:, 0] % 100).tolist(), strict=True))
    assert sorted(seen) == sorted([(row, row) for row in range(18)] * 2)


def test_each_prompt_learns_from_its_own_captions():
    first = {"shortest": 1, "longest": 2}
    drawn = [0, 0, 0]
    for seed in range(20):
        recipe = recipe_of(batch_size=5)
        for batch in epoch_batches(ROWS, TOKENS, recipe, unknown=2, seed=seed):
            drawn[batch.instruction] += 1
            kinds = set((batch.labels[:, 0] // 100).tolist())
            learns = PROMPTS[batch.instruction].learns
            assert kinds == ({1, 2} if learns == "all" else {first[learns]})
    assert 28 <= drawn[0] <= 52
    assert min(drawn) >= 10


def test_two_processes_share_an_epoch_evenly():
    recipe = recipe_of(batch_size=4, instructions=PROMPTS[:1])
    shares = [
        [
            batch.rows.tolist()
            for batch in epoch_batches(ROWS, TOKENS, recipe, unknown=2, seed=0, rank=rank, world=2)
        ]
        for rank in range(2)
    ]
    assert [len(rows) for rows in shares[0]] == [len(rows) for rows in shares[1]] == [4, 4, 4]
    assert {row for share in shares for rows in share for row in rows} == set(range(18))


def test_long_captions_keep_their_end_token(pairs):
    tokenizer = new_tokenizer(["red " * 3], min_count=1)
    (((*body, end),),) = tokenise_captions(tokenizer, [["red " * 40]], 6)
    assert (len(body), end) == (5, tokenizer.eos_token_id)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_training_takes_the_same_course(pairs, tmp_path, monkeypatch, accumulation):
    """Stopped after an epoch, and again between two steps of the next."""
    options = {"batch_size": 3, "accumulation": accumulation}
    straight, features = training_of(pairs, tmp_path / "straight", **options)
    tokens = tokens_of(straight.objective, pairs)
    whole = straight.learn(features, tokens)
    assert [line["epoch"] for line in whole] == [1, 2, 3]

    class StoppedError(Exception):
        pass

    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    stopped, _ = training_of(pairs, tmp_path / "stopped", **options)
    save = stopped.save

    def save_and_stop() -> None:
        save()
        if (stopped.progress.epoch, stopped.progress.step) == (1, 2):
            raise StoppedError

    stopped.save = save_and_stop
    with pytest.raises(StoppedError):
        stopped.learn(features, tokens)
    resumed, _ = training_of(pairs, tmp_path / "stopped", **options)
    assert (resumed.progress.epoch, resumed.progress.step) == (1, 2)
    again = resumed.learn(features, tokens)
    assert [line["loss"] for line in again] == pytest.approx([line["loss"] for line in whole])
    for name, weights in straight.trained.items():
        torch.testing.assert_close(resumed.trained[name], weights, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(resumed.average[name], straight.average[name])


def test_an_epoch_that_was_saved_but_not_measured_is_measured_after_a_kill(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path, epochs=1)
    tokens = tokens_of(training.objective, pairs)

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.learn(features, tokens, measure=killed)
    resumed, _ = training_of(pairs, tmp_path, epochs=1)
    kept = []
    (line,) = resumed.learn(
        features, tokens, measure=lambda: ({"cider": 2.0}, [2.0]), keep=lambda: kept.append(1)
    )
    assert (line["cider"], line["best"], kept) == (2.0, True, [1])


def test_the_outcome_is_the_average_and_a_share_of_the_start(pairs, tmp_path):
    training, features = training_of(pairs, tmp_path / "share", start_share=0.25, epochs=1)
    started = {name: weights.detach().clone() for name, weights in training.trained.items()}
    training.learn(features, tokens_of(training.objective, pairs))
    trained = {name: weights.detach().clone() for name, weights in training.trained.items()}
    with training.outcome():
        for name, weights in training.trained.items():
            mean = 0.75 * training.average[name] + 0.25 * started[name]
            torch.testing.assert_close(weights.detach(), mean)
            assert weights.ndim < 2 or not torch.equal(mean, started[name])
    for name, weights in training.trained.items():
        assert torch.equal(weights, trained[name])
    whole, _ = training_of(pairs, tmp_path / "whole", epochs=1)
    whole.learn(features, tokens_of(whole.objective, pairs))
    with whole.outcome():
        for name, weights in whole.trained.items():
            assert torch.equal(weights, whole.average[name])
            torch.testing.assert_close(weights.detach(), training.average[name])


def test_accumulated_batches_make_the_step_of_one_large_batch(pairs, tmp_path):
    plain = {"label_smoothing": 0.0, "word_dropout": 0.0, "epochs": 1}
    plain["instructions"] = PROMPTS[:1]
    weights = []
    for size, accumulation in ((18, 1), (6, 3)):
        training, features = training_of(
            pairs, tmp_path / str(size), batch_size=size, accumulation=accumulation, **plain
        )
        tokens = [[[9, 8, 7, 1], [9, 8, 6, 1]]] * 18
        training.learn(features, tokens)
        assert training.taken == 1
        weights.append(training.optimizer.state_dict()["state"])
    for one, several in zip(weights[0].values(), weights[1].values(), strict=True):
        torch.testing.assert_close(one["exp_avg"], several["exp_avg"], atol=1e-6, rtol=1e-3)


def test_another_identity_is_no_continuation(pairs, tmp_path):
    def of(identity):
        return Job(prepared_in(pairs, tmp_path), pairs, None, identity=identity)

    of({"data": "some"}).save()
    assert of({"data": "some"}).taken == 0
    with pytest.raises(SourceError, match="another recipe"):
        of({"data": "other"})


@pytest.mark.parametrize(
    ("trains", "moving", "still"),
    [
        (("language", "qformer", "projection"), "query_tokens", "vision_model.encoder"),
        (("projection",), "language_projection.weight", "language_model"),
        (("qformer",), "qformer.encoder.layer.0", "language_projection"),
    ],
)
def test_what_is_named_moves_and_the_rest_stays(pairs, tmp_path, trains, moving, still):
    training, features = training_of(pairs, tmp_path, trains=trains, epochs=1)
    model = training.objective.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training.learn(features, tokens_of(training.objective, pairs))
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert not any(name.startswith(still) for name in moved)
    assert any(name.startswith(moving) for name in moved)


def test_it_learns_to_name_colours_and_writes_what_the_captioner_loads(pairs, tmp_path):
    out = tmp_path / "trained"
    prepared = prepared_in(pairs, out, epochs=20, batch_size=2, average_decay=0.9)
    report = Job(prepared, pairs, pairs).run()
    assert report["bleu4"] > 90
    assert report["cider"] > 5
    assert report["distinct_captions"] >= 6
    assert (report["images"], report["references"]) == (18, 36)
    words = report["mean_words"]
    assert words[PROMPTS[1].text] < words[PROMPTS[2].text]
    assert not [path for path in out.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]

    captioner = InstructBlipCaptioner(ModelSpec("trained", f"path:{out}", licence=""), device="cpu")
    said = captioner.caption([Image.new("RGB", (60, 60), colour) for colour in COLOURS])
    named = [colour in caption.text for colour, caption in zip(COLOURS, said, strict=True)]
    assert sum(named) >= 5
    written = json.loads((out / "metrics.json").read_text())
    assert written["validation"]["bleu4"] == report["bleu4"]
    assert written["history"][0]["loss"] > written["history"][-1]["loss"]
    assert list((out / "log").iterdir())


def test_it_ends_when_nothing_gets_better_and_keeps_the_best(pairs, tmp_path):
    """At this rate nothing is learned, so no epoch is better than the first."""
    prepared = prepared_in(pairs, tmp_path / "out", epochs=30, learning_rate=2.0, patience=2)
    Job(prepared, pairs, pairs).run()
    history = json.loads((tmp_path / "out" / "metrics.json").read_text())["history"]
    best = [entry["epoch"] for entry in history if entry["best"]]
    assert len(history) == best[-1] + 2 < 30
    assert history[best[-1] - 1]["cider"] == max(entry["cider"] for entry in history)


@pytest.mark.parametrize(("dropout", "same"), [(None, True), (0.5, False)])
def test_dropout_is_of_the_language_model_and_in_training_only(pairs, tmp_path, dropout, same):
    training, features = training_of(pairs, tmp_path, dropout=dropout, word_dropout=0.0)
    tokens = tokens_of(training.objective, pairs)
    batch = next(epoch_batches(features, tokens, training.objective.recipe, unknown=2, seed=0))
    objective = training.objective.train()
    first, second = (objective(batch).item() for _ in range(2))
    assert (first == second) is same
    objective.eval()
    assert objective(batch).item() == objective(batch).item()
