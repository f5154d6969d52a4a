"""``rerank`` on a tiny real model: what it fits, and what it writes beside the captioner."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import decoding_of
from core.models.captioner.rerank import read_probe
from core.models.choose import captioner_spec
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from precompute.__main__ import app
from tests.tiny_models import save_tiny_instructblip

SENTENCE = PROFILES["mini"].sentence


def test_the_command_fits_a_probe_by_which_images_find_their_captions(tmp_path):
    checkpoint = save_tiny_instructblip(tmp_path / "tiny")
    (checkpoint / "twolens.json").write_text(
        json.dumps({"decoding": {"num_beams": 2, "min_new_tokens": 3, "max_new_tokens": 6}})
    )
    random = np.random.default_rng(1)
    pixels = [random.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(4)]
    images = [Image.fromarray(one) for one in pixels]
    photos = tmp_path / "photos"
    photos.mkdir()
    captions = ["a dog in the snow", "two boats", "a man on a horse", "a red bird"]
    lines = []
    for row, (image, text) in enumerate(zip(images, captions, strict=True)):
        image.save(photos / f"{row}.png")
        lines.append(json.dumps({"file_name": f"{row}.png", "captions": [text]}))
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    result = CliRunner().invoke(
        app,
        ["rerank", str(checkpoint), "--data", str(photos), "--validation", str(photos)]
        + ["--candidates", "5", "--weight", "2", "--device", "cpu"],
    )
    assert result.exit_code == 0, result.output
    assert "R@1 100.0" in result.output
    spec = captioner_spec(str(checkpoint))
    decoding = decoding_of(spec)
    assert (decoding.num_beams, decoding.candidates, decoding.rerank_weight) == (2, 5, 2.0)
    assert decoding.max_new_tokens == 6
    probe = read_probe(spec, SENTENCE)
    assert probe is not None
    seen = probe(InstructBlipCaptioner(spec, device="cpu").class_tokens(images))
    nearest = (seen @ MiniLmEncoder(SENTENCE, device="cpu").encode_text(captions).T).argmax(axis=1)
    assert nearest.tolist() == [0, 1, 2, 3]


def test_one_photo_and_a_model_of_the_hub_are_refused_in_a_sentence(tmp_path):
    checkpoint = save_tiny_instructblip(tmp_path / "tiny")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "0.png")
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "captions": ["a"]}))
    result = CliRunner().invoke(app, ["rerank", str(checkpoint), "--data", str(photos)])
    assert result.exit_code == 2
    assert "two images with captions or more" in result.output
    assert not (checkpoint / "rerank_probe.safetensors").exists()
