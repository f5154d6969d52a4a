"""``mini words``: a T5 that learns words from texts without photos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import read_instructblip
from core.models.spec import ModelSpec
from precompute.__main__ import app
from precompute.finetune.captions.batches import CaptionBatch
from precompute.mini.pretraining import ridge_regression
from precompute.mini.words import TextsAsTokens
from tests.tiny_models import save_tiny_instructblip


def test_a_text_is_read_as_the_qformer_would_say_it_and_a_photo_as_it_does():
    random = np.random.default_rng(0)
    said = TextsAsTokens(
        photos=random.normal(size=(2, 2, 3)).astype(np.float16),
        errors=np.full((3, 6), 0.5, dtype=np.float16),
        regression=ridge_regression(*(random.normal(size=(9, width)) for width in (4, 6))),
        texts=random.normal(size=(5, 4)).astype(np.float16),
        first=np.array([0, 2]),
    )
    batch = CaptionBatch(
        instruction=0,
        rows=torch.tensor([3, 1]),
        features=torch.zeros(2, 1, 1),
        image_of_caption=torch.tensor([0, 1]),
        numbers=torch.tensor([1, 0]),
        labels=torch.zeros(2, 3),
    )
    # Row 3 is the second text of photos 0 and 1: its second caption is the fourth text.
    read = said(batch).image_tokens
    expected = said.regression.predict(said.texts[3:4].astype(np.float32))[0] + 0.5
    np.testing.assert_allclose(read[0].flatten(), expected, atol=1e-3)
    np.testing.assert_allclose(read[1].flatten(), said.photos[1].flatten(), atol=1e-3)


def test_the_command_adds_words_and_writes_a_captioner(tmp_path):
    pytest.importorskip("bitsandbytes")
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    random = np.random.default_rng(0)
    with (photos / "metadata.jsonl").open("w") as file:
        for number in range(3):
            name = f"{number}.png"
            Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(photos / name)
            file.write(json.dumps({"file_name": name, "captions": ["a red bird"]}) + "\n")
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"captions": ["a zeppelin", "a zeppelin and a quokka"]}\n' * 4)
    base = save_tiny_instructblip(tmp_path / "tiny")
    arguments = ["mini", "words", "--data", str(photos), "--texts", str(texts), "--out", str(out)]
    arguments += ["--model", str(base), "--min-count", "5", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "8 texts; 1 words more" in result.output
    spec = ModelSpec("out", f"path:{out}", licence="")
    model, processor = read_instructblip(spec, "cpu", "fp32")
    before, old = read_instructblip(ModelSpec("tiny", f"path:{base}", licence=""), "cpu", "fp32")
    assert processor.tokenizer("zeppelin")["input_ids"][0] == len(old.tokenizer)
    assert "quokka" not in processor.tokenizer.get_vocab()
    rows = model.language_model.get_input_embeddings().weight
    assert len(rows) == model.language_model.get_output_embeddings().weight.shape[0]
    assert len(rows) == len(before.language_model.get_input_embeddings().weight) + 1
    assert InstructBlipCaptioner(spec, device="cpu").caption([Image.new("RGB", (40, 40))])[0].text
