"""Image-text matching: the scores of both kinds of checkpoint are those of their own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2ForImageTextRetrieval, BlipForImageTextRetrieval

from core.errors import ModelError
from core.models.captioner.loading import read_matcher
from core.models.choose import with_matcher
from core.models.matcher import ImageTextMatcher
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from tests.tiny_matchers import save_tiny_matcher
from tests.tiny_models import save_tiny_instructblip

KINDS = {"blip": BlipForImageTextRetrieval, "blip-2": Blip2ForImageTextRetrieval}


def noise(count: int) -> list[Image.Image]:
    pixels = np.random.default_rng(3).integers(0, 255, (count, 30, 40, 3), np.uint8)
    return [Image.fromarray(each) for each in pixels]


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(folder.name, f"path:{folder}", licence="none")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_models_own_class(kind, tmp_path):
    matcher = ImageTextMatcher(spec(save_tiny_matcher(tmp_path / kind, kind)), device="cpu")
    images, texts = noise(10), ["two dogs on sand", "a ball"]
    found = np.stack([matcher.match(images, text) for text in texts])
    own = KINDS[kind].from_pretrained(tmp_path / kind).eval()
    _, loaded = read_matcher(matcher.spec, torch.float32)
    expected = []
    for text in texts:
        inputs = loaded.tokenizer([text] * len(images), return_tensors="pt")
        pixels = loaded.image_processor(images, return_tensors="pt").pixel_values
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        flag = "use_itm_head" if kind == "blip" else "use_image_text_matching_head"
        with torch.inference_mode():
            out = own(pixel_values=pixels, **inputs, **{flag: True})
        logits = out.itm_score if kind == "blip" else out.logits_per_image
        expected.append((logits[:, 1] - logits[:, 0]).numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-4)
    assert found.std() > 0.1  # else any two pictures would do
    # Padded beside a longer query, and through one pass of the tower, a score stays what it was.
    np.testing.assert_allclose(matcher.match_texts(images[4], texts), found[:, 4], atol=1e-4)


def test_a_checkpoint_of_another_kind_or_not_in_safetensors_is_refused_in_a_sentence(tmp_path):
    captioner = save_tiny_instructblip(tmp_path / "captioner")
    with pytest.raises(ModelError, match=r"captioner is a instructblip model: .* BLIP-2"):
        ImageTextMatcher(spec(captioner), device="cpu").load()
    pickled = save_tiny_matcher(tmp_path / "pickled", "blip")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no weights in safetensors.*TWOLENS_RERANKER"):
        ImageTextMatcher(spec(pickled), device="cpu").load()
    assert with_matcher(PROFILES["mini"], None).matcher is None
    assert with_matcher(PROFILES["mini"], str(pickled)).matcher.source == f"path:{pickled}"
