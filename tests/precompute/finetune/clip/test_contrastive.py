"""``finetune contrastive`` over tiny towers: what is locked, what is learned, what is written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.errors import SourceError
from core.models.clip.encoder import ClipEncoder
from core.models.clip.towers import (
    CONFIG_NAME,
    LOCAL_WEIGHTS_NAME,
    find_clip_files,
    load_text_tower,
)
from core.models.spec import ModelSpec
from precompute.evaluate.metrics.retrieval_metrics import recall
from precompute.finetune.clip.preparation import Inputs
from precompute.finetune.clip.recipe import ALL, ContrastiveRecipe
from precompute.finetune.clip.run import evaluate, train
from precompute.sources.pairs import load_pairs
from tests.tiny_clip import TINY_DIM, TINY_MINILM_CFG, build_tiny_clip

ROOT = Path(__file__).resolve().parents[4]
COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 30),
    "blue": (20, 30, 220),
    "yellow": (230, 220, 20),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
    "cyan": (20, 220, 220),
    "pink": (240, 120, 190),
    "orange": (250, 130, 10),
    "purple": (100, 20, 160),
    "grey": (120, 120, 120),
    "brown": (110, 60, 20),
}
HEADS = ContrastiveRecipe(epochs=16, batch_size=6, learning_rate=3e-3, dropout=0.1, seed=3)
TOWERS = dataclasses.replace(HEADS, unlock_image=ALL, unlock_text=ALL, tower_learning_rate=2e-3)


def imagefolder(folder, captions=None):
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, rgb) in enumerate(COLOURS.items()):
        file_name = f"{number:02d}-{name}.png"
        Image.new("RGB", (48 + number, 40), rgb).save(folder / file_name)
        texts = [f"a {name} wall", f"something painted {name}"][: 1 + number % 2]
        lines.append({"file_name": file_name, "captions": captions or texts})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return imagefolder(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def pairs(photos):
    return load_pairs(photos)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    spec = build_tiny_clip(tmp_path_factory.mktemp("minilm"), model_cfg=TINY_MINILM_CFG)
    return find_clip_files(spec)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return find_clip_files(build_tiny_clip(tmp_path_factory.mktemp("plain"), seed=1))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Train once for each different set of inputs, and return the folder."""
    done = {}

    def tune(start, pairs, recipe, **others):
        key = (start.weights, recipe, repr(sorted(others.items())))
        if key not in done:
            out = done[key] = tmp_path_factory.mktemp("run") / "clip"
            options = {"half": others.pop("half", False)}
            inputs = Inputs(start, pairs, measured=others.pop("measured", [pairs]), **others)
            train(inputs, out, recipe, "cpu", **options)
        return done[key]

    return tune


def encoder(folder):
    return ClipEncoder(ModelSpec("run", f"path:{folder}", licence="", dim=TINY_DIM), device="cpu")


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def tensors(folder):
    return load_file(folder / LOCAL_WEIGHTS_NAME)


def changed(start, folder):
    before, after = load_file(start.weights), tensors(folder)
    return {name for name in after if name in before and not torch.equal(before[name], after[name])}


def test_recall_counts_ranks_and_gives_no_credit_for_ties():
    images = np.eye(12, dtype=np.float32)
    texts = np.stack([images[3] + 0.5 * images[4], images[5] + 2 * images[6], np.ones(12)])
    found = recall("planted", images, texts, [3, 5, 0])
    assert (found.at_1, found.at_5, found.at_10) == (33.33, 66.67, 66.67)
    assert (found.images, found.queries) == (12, 3)


@pytest.mark.parametrize("towers", ["minilm", "plain"])
def test_heads_learn_and_the_report_is_what_a_search_sees(towers, request, pairs, tuned):
    start = request.getfixturevalue(towers)
    out = tuned(start, pairs, HEADS)
    report = metrics(out)
    assert report["data"] == {
        "name": pairs.name, "images": 12, "captions": 18
    }  # fmt: skip
    assert [line["epoch"] for line in report["history"]] == list(range(1, 17))
    assert report["history"][-1]["loss"] < report["history"][0]["loss"]
    assert report["recall"] == [evaluate(encoder(out), pairs).as_json()]
    best = max(report["history"], key=lambda line: (line["recall"]["at_5"], line["recall"]["at_1"]))
    # Features are cached in half precision, so a near tie may fall otherwise.
    assert report["recall"][0]["at_5"] == pytest.approx(best["recall"]["at_5"], abs=6)


def test_locked_towers_stay_bit_by_bit_as_they_were(minilm, plain, pairs, tuned):
    heads = {"visual.head.mlp.fc1", "visual.head.mlp.fc2", "text.proj.0", "text.proj.2"}
    for name in changed(minilm, tuned(minilm, pairs, HEADS)):
        assert name == "logit_scale" or name.rpartition(".")[0] in heads
    # A transformer's own projection has no bias: what it learned is in the layer norm before.
    allowed = {"visual.proj", "visual.ln_post.bias", "text_projection", "ln_final.bias"}
    assert changed(plain, tuned(plain, pairs, HEADS)) == {*allowed, "logit_scale"}
    assert set(tensors(tuned(plain, pairs, HEADS))) == set(load_file(plain.weights))


def test_a_packaged_transformer_is_left_out_unless_it_was_trained(minilm, pairs, tuned):
    names = set(tensors(tuned(minilm, pairs, HEADS)))
    assert {"visual.trunk.conv_stem.weight", "text.proj.0.weight", "logit_scale"} <= names
    assert not any(name.startswith("text.transformer.") for name in names)
    one = dataclasses.replace(HEADS, epochs=1, unlock_text=1, lock_text_head=True)
    out = tuned(minilm, pairs, one)
    found = tensors(out)
    own = load_text_tower(minilm).module.state_dict()
    moved = {
        name.partition("layer.")[2].partition(".")[0]
        for name, tensor in own.items()
        if not torch.equal(found[f"text.{name}"], tensor.to(found[f"text.{name}"].dtype))
    }
    assert moved == {"5"}  # the last of six layers
    spoken = encoder(out).encode_text(["a red wall"])
    assert not np.allclose(spoken, ClipEncoder(minilm.spec).encode_text(["a red wall"]), atol=1e-4)


def test_unlocked_towers_learn_what_heads_alone_cannot(plain, pairs, tuned):
    locked, unlocked = (metrics(tuned(plain, pairs, recipe)) for recipe in (HEADS, TOWERS))
    assert unlocked["history"][-1]["loss"] < locked["history"][-1]["loss"] / 2
    assert unlocked["recall"][0]["at_1"] > locked["recall"][0]["at_1"] + 20


def test_the_last_groups_of_a_tower_are_unlocked_alone(plain, minilm, pairs, tuned):
    recipe = dataclasses.replace(
        HEADS, epochs=1, unlock_image=1, lock_text_head=True, tower_learning_rate=1e-3
    )
    moved = changed(plain, tuned(plain, pairs, recipe)) - {"logit_scale"}
    assert {"visual.proj", "visual.ln_post.weight"} <= moved
    assert {n for n in moved if "resblocks" in n} and all(
        n.startswith(("visual.transformer.resblocks.1.", "visual.ln_post", "visual.proj"))
        for n in moved
    )
    # Batch norm in the locked groups must not go on learning its statistics.
    moved = changed(minilm, tuned(minilm, pairs, recipe)) - {"logit_scale"}
    trunk = {n.split(".")[2] for n in moved if n.startswith("visual.trunk.")}
    assert trunk and not trunk & {"conv_stem", "bn1"}
    assert not any(name.startswith("text.") for name in moved)


def test_open_clip_loads_what_is_written(plain, pairs, tuned):
    out = tuned(plain, pairs, TOWERS)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["a red wall"])
    with torch.inference_mode():
        model.eval()
        text = model.encode_text(tokens, normalize=True).numpy()
        image = model.encode_image(preprocess(pairs.image(3))[None], normalize=True).numpy()
    np.testing.assert_allclose(encoder(out).encode_text(["a red wall"]), text, atol=1e-5)
    np.testing.assert_allclose(encoder(out).encode_image([pairs.image(3)]), image, atol=1e-5)


def test_siglip_learns_too_and_brings_its_bias(plain, pairs, tuned):
    recipe = dataclasses.replace(TOWERS, loss="siglip")
    out = tuned(plain, pairs, recipe)
    history = metrics(out)["history"]
    assert history[-1]["loss"] < history[0]["loss"] / 3
    assert metrics(out)["recall"][0]["at_1"] > history[0]["recall"]["at_1"] + 20
    assert float(tensors(out)["logit_bias"]) != -10.0
    assert open_clip.create_model(f"local-dir:{out}").logit_bias is not None
    assert json.loads((out / CONFIG_NAME).read_text())["model_cfg"]["init_logit_bias"] == -10.0
    again = find_clip_files(encoder(out).spec)
    one = dataclasses.replace(TOWERS, epochs=1, tower_learning_rate=0, learning_rate=0)
    # InfoNCE leaves a bias alone: it has no influence on the loss.
    assert changed(again, tuned(again, pairs, one)) == set()


@pytest.mark.parametrize(("towers", "unlocked"), [("plain", ALL), ("minilm", 1)])
def test_saving_memory_does_not_change_what_is_learned(towers, unlocked, request, pairs, tuned):
    start = request.getfixturevalue(towers)
    recipe = TOWERS if unlocked == ALL else dataclasses.replace(HEADS, epochs=3, unlock_text=1)
    whole = metrics(tuned(start, pairs, recipe))["history"]
    less = dataclasses.replace(recipe, gradient_checkpointing=True)
    saving = metrics(tuned(start, pairs, less))["history"]
    for found, expected in zip(saving, whole, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
        assert found["logit_scale"] == pytest.approx(expected["logit_scale"], rel=1e-4)


def test_training_stops_when_nothing_gets_better_and_keeps_the_best(plain, pairs, tuned):
    still = dataclasses.replace(HEADS, learning_rate=0.0, patience=2)
    out = tuned(plain, pairs, still)
    assert [line["epoch"] for line in metrics(out)["history"]] == [1, 2, 3]
    for name, tensor in tensors(out).items():
        expected = load_file(plain.weights)[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-4, msg=name)


KILLED = """
import os, signal, sys
from precompute.finetune.shared import loop
loop.SAVE_EVERY_S = -1.0  # after every step
save, left = loop.Loop.save, [int(sys.argv.pop(1))]
def save_and_die(self):
    save(self)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
loop.Loop.save = save_and_die
from precompute.__main__ import app
app()
"""


def test_a_killed_run_goes_on_to_the_same_weights(photos, plain, pairs, tmp_path):
    recipe = dataclasses.replace(TOWERS, epochs=3)
    inputs = Inputs(plain, pairs, measured=[pairs])
    train(inputs, tmp_path / "whole", recipe, "cpu")
    command = ["finetune", "contrastive", "--data", photos, "--validation", photos]
    command += ["--model", str(plain.weights.parent), "--out", str(tmp_path / "killed")]
    command += ["--epochs", "3", "--batch-size", "6", "--learning-rate", "3e-3"]
    changes = {"recipe": "towers", "dropout": 0.1, "tower_learning_rate": 2e-3}
    (tmp_path / "recipe.json").write_text(json.dumps(changes))
    command += ["--recipe", str(tmp_path / "recipe.json"), "--seed", "3", "--device", "cpu"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "4", *command],  # in the second epoch, after its first step
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(inputs, tmp_path / "killed", recipe, "cpu")
    expected = tensors(tmp_path / "whole")
    for name, tensor in tensors(tmp_path / "killed").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_a_run_of_another_recipe_is_not_taken_up(plain, pairs, tuned):
    out = tuned(plain, pairs, HEADS)
    other = dataclasses.replace(HEADS, seed=4)
    with pytest.raises(SourceError, match="another recipe"):
        train(Inputs(plain, pairs, measured=[pairs]), out, other, "cpu")


@pytest.mark.parametrize(
    ("recipe", "others", "sentence"),
    [
        ({"batch_size": 13}, {}, "12 images, fewer than a batch of 13"),
        ({"patience": 2}, {"measured": []}, "Patience needs a --validation"),
        ({"lock_image_head": True, "lock_text_head": True}, {}, "nothing is left to train"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    recipe, others, sentence, plain, pairs, tmp_path
):
    inputs = Inputs(**{"start": plain, "pairs": pairs, "measured": [pairs], **others})
    with pytest.raises(SourceError, match=sentence):
        train(inputs, tmp_path / "out", dataclasses.replace(HEADS, **recipe), "cpu")
    assert not (tmp_path / "out").exists()


def test_half_precision_halves_the_file(plain, pairs, tuned):
    short = dataclasses.replace(HEADS, epochs=1)
    whole, half = (tuned(plain, pairs, short, half=half) for half in (False, True))
    assert {t.dtype for t in tensors(whole).values()} == {torch.float32}
    assert {t.dtype for t in tensors(half).values()} == {torch.float16}


def test_several_processes_are_refused(plain, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # what torchrun and accelerate launch set
    with pytest.raises(SourceError, match="2 processes were started, but a CLIP model is trained"):
        train(Inputs(plain, pairs, measured=[pairs]), tmp_path / "out", HEADS, "cpu")
    assert not (tmp_path / "out").exists()
