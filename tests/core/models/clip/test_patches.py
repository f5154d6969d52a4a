"""Where CLIP looks: the map is Grad-ECLIP's, it follows what is in the picture, in 8 bits too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import ModelError
from core.models.clip.encoder import ClipEncoder
from core.models.clip.patches import area_seen
from core.models.profiles import PROFILES
from tests.tiny_clip import TINY_MINILM_CFG, build_tiny_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return ClipEncoder(build_tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


def picture(seed: int = 0) -> Image.Image:
    dice = np.random.default_rng(seed)
    return Image.fromarray(dice.integers(0, 255, (32, 32, 3), np.uint8))


def test_the_map_is_the_gradient_of_the_whole_tower(tiny):
    """Against autograd through the real last block, its attention written out by open_clip."""
    texts = tiny.encode_text(["a dog", "the sea"])
    found = tiny.explain(picture(), texts)
    assert found.patches.shape == (2, 4, 4)
    assert (found.patches >= 0).all()
    tower = tiny.image_tower.module
    pixels = tiny.image_tower.preprocess(picture())[None]
    last, kept = tower.transformer.resblocks[-1], {}

    def keep(_module, given, _answer):
        kept["x"] = given[0].detach()

    hook = last.register_forward_hook(keep)
    tower(pixels)
    hook.remove()
    x = last.ln_1(kept["x"])
    attention = last.attn
    query, key, value = torch.nn.functional.linear(
        x, attention.in_proj_weight, attention.in_proj_bias
    )[0].chunk(3, dim=-1)
    width = query.shape[-1] // attention.num_heads
    read = torch.cat(
        [
            (query[:1, part] @ key[:, part].T / width**0.5).softmax(-1) @ value[:, part]
            for part in (
                slice(head * width, (head + 1) * width) for head in range(attention.num_heads)
            )
        ],
        dim=-1,
    ).detach()
    read.requires_grad_()
    token = kept["x"][0, :1] + attention.out_proj(read)
    token = token + last.mlp(last.ln_2(token))
    embedding = torch.nn.functional.normalize(tower.ln_post(token) @ tower.proj)[0]
    np.testing.assert_allclose(embedding.detach(), tiny.encode_image([picture()])[0], atol=1e-5)
    (gradient,) = torch.autograd.grad(embedding @ torch.from_numpy(texts[1]), read)
    alike = torch.nn.functional.cosine_similarity(key[1:], query[:1])
    alike = (alike - alike.min()) / (alike.max() - alike.min())
    expected = ((value[1:] * gradient).sum(-1) * alike).relu().view(4, 4)
    np.testing.assert_allclose(found.patches[1], expected.detach(), atol=1e-6)


def test_the_tower_in_8_bits_is_explained_like_the_one_in_float(shared_data):
    with Image.open(min((shared_data / "coco_cc").glob("*.jpg"))) as opened:
        photo = opened.convert("RGB")
    maps = []
    for precision in ("int8", "fp32"):
        spec = dataclasses.replace(PROFILES["mini"].clip, precision=precision)
        encoder = ClipEncoder(spec, device="cpu")
        maps.append(encoder.explain(photo, encoder.encode_text(["a man making pizza"])).patches)
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.9


def test_a_tower_without_a_class_token_is_refused_in_one_sentence(tmp_path: Path):
    encoder = ClipEncoder(build_tiny_clip(tmp_path, model_cfg=TINY_MINILM_CFG), device="cpu")
    with pytest.raises(ModelError, match="only vision transformers"):
        encoder.explain(picture(), encoder.encode_text(["a dog"]))


@pytest.mark.parametrize(
    ("mode", "area"),
    [
        ("squash", (0, 0, 1, 1)),
        (None, (0.25, 0, 0.5, 1)),
        ("shortest", (0.25, 0, 0.5, 1)),
        ("longest", (0, -0.5, 1, 2)),
    ],
)
def test_the_patches_cover_what_the_model_sees(mode, area):
    assert area_seen(mode, (640, 320)) == area
