"""Heads of towers, what is written of them, and a tower that is shared with a captioner."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file

from core.models.clip.towers import CONFIG_NAME, find_clip_files, load_image_tower, load_text_tower
from core.models.spec import ModelSpec
from precompute.finetune.clip.asset import (
    reset_head,
    start_of_logits,
    write_clip_asset,
)
from precompute.finetune.clip.towers import Tower, TunedClip
from tests.core.models.clip.test_shared_tower import clip_with_shared_tower
from tests.tiny_clip import TINY_MINILM_CFG, build_tiny_clip
from tests.tiny_models import IMAGE_SIZE, save_tiny_instructblip


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    return find_clip_files(build_tiny_clip(folder, model_cfg=TINY_MINILM_CFG))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return find_clip_files(build_tiny_clip(tmp_path_factory.mktemp("plain"), seed=1))


def test_features_through_the_head_are_what_the_whole_tower_gives(minilm, plain):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(5, 3, 32, 32, generator=draw)
    for start in (minilm, plain):
        image = Tower(load_image_tower(start).module).eval()
        loaded = load_text_tower(start)
        text = Tower(loaded.module).eval()
        ids = loaded.tokenize(["a red wall", "two dogs in the snow"])
        with torch.inference_mode():
            for tower, batch in ((image, pixels), (text, ids)):
                torch.testing.assert_close(
                    tower(tower.features(batch)), tower.module(batch), rtol=1e-4, atol=1e-5
                )


def test_a_matrix_heads_bias_is_in_the_layer_norm_of_what_is_written(plain):
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tower = Tower(load_image_tower(plain).module).eval()
    with torch.no_grad():
        features = tower.features(pixels)
        before = tower(features)
        tower.head.bias += 0.3
        after = tower(features)
        torch.testing.assert_close(tower.module(pixels), after, rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 0.01


def test_new_heads_follow_their_seed(minilm):
    first, again, other = (load_image_tower(minilm).module.head for _ in range(3))
    before = first.mlp.fc1.weight.detach().clone()
    reset_head(first, 1)
    reset_head(again, 1)
    reset_head(other, 2)
    assert torch.equal(first.mlp.fc1.weight, again.mlp.fc1.weight)
    assert not torch.equal(first.mlp.fc1.weight, other.mlp.fc1.weight)
    assert not torch.equal(first.mlp.fc1.weight, before)


def test_logits_start_as_the_model_had_them_or_as_the_loss_asks(plain):
    scale, bias = start_of_logits(plain, scale=None, siglip=False)
    assert bias is None
    assert scale == load_file(plain.weights)["logit_scale"]
    assert float(start_of_logits(plain, scale=20.0, siglip=False)[0].exp()) == pytest.approx(20)
    scale, bias = start_of_logits(plain, scale=None, siglip=True)
    assert (round(float(scale.exp()), 3), float(bias)) == (10, -10)


def test_a_shared_tower_is_left_out_until_it_is_trained(tmp_path):
    owner = save_tiny_instructblip(tmp_path / "owner")
    start = find_clip_files(clip_with_shared_tower(tmp_path, owner))
    seen = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))

    def written(model, folder):
        folder.mkdir()
        write_clip_asset(folder, start, model)
        again = find_clip_files(ModelSpec("again", f"path:{folder}", licence=""))
        names = {n for n in load_file(folder / "model.safetensors") if n.startswith("visual.")}
        with torch.inference_mode():
            stored = deepcopy(model.image.module)
            for name, tensor in stored.state_dict().items():
                if f"visual.{name}" in names:  # in half precision
                    tensor.copy_(tensor.half())
            expected = stored(seen)
            found = load_image_tower(again).module(seen)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        config = json.loads((folder / CONFIG_NAME).read_text())
        return names, "image_tower" in config

    image, text = Tower(load_image_tower(start).module), Tower(load_text_tower(start).module)
    model = TunedClip(image, text, torch.zeros(()))
    with torch.no_grad():
        image.head.weight += 0.1
        image.head.bias += 0.2
    assert written(model, tmp_path / "heads") == ({"visual.proj", "visual.ln_post.bias"}, True)
    with torch.no_grad():
        for parameter in image.module.parameters():
            parameter += 0.1
    names, shared = written(model, tmp_path / "whole")
    assert not shared
    assert {"visual.conv1.weight", "visual.class_embedding", "visual.ln_post.weight"} <= names


def test_a_wide_projection_is_made_written_and_read(tmp_path):
    text_cfg = {**TINY_MINILM_CFG["text_cfg"], "hf_proj_width": 40}
    spec = build_tiny_clip(tmp_path, model_cfg={**TINY_MINILM_CFG, "text_cfg": text_cfg})
    tower = load_text_tower(find_clip_files(spec))
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["text.proj.0.weight"].shape == (40, 384)
    assert torch.equal(tower.module.proj[3].bias, stored["text.proj.3.bias"].float())
    ids = tower.tokenize(["a dog"])
    with torch.inference_mode():
        assert torch.equal(tower.module(ids), tower.module(ids))
