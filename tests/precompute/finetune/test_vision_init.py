"""A DINOv2-type ViT in an ONNX file becomes InstructBLIP's image tower, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, InstructBlipVisionModel

from core.errors import SourceError
from precompute.finetune.vision_init import load_vision_tower

onnx = pytest.importorskip("onnx")

NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""The library's names today, and when such files were exported."""

SIZE = 42
"""Pixels a side: 3 x 3 patches of 14."""


@pytest.fixture(scope="module")
def vit() -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=1,
        mlp_ratio=2,
        image_size=SIZE,
        patch_size=14,
        initializer_range=0.2,
        layerscale_value=0.5,
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def exported(vit, tmp_path_factory) -> Path:
    """The file as an exporter writes it: matrices transposed, nameless, before a named bias."""
    from onnx import helper, numpy_helper

    tensors, nodes = [], []
    for name, parameter in vit.state_dict().items():
        value = parameter.numpy()
        for today, then in NAMES.items():
            name = name.replace(today, then)
        if name.endswith(("position_embeddings", "mask_token")):
            continue
        if value.ndim == 2:
            number = f"onnx::MatMul_{len(tensors)}"
            tensors.append(numpy_helper.from_array(np.ascontiguousarray(value.T), number))
            bias = "backbone." + name.removesuffix("weight") + "bias"
            nodes.append(helper.make_node("MatMul", [f"x{number}", number], [f"y{number}"]))
            nodes.append(helper.make_node("Add", [bias, f"y{number}"], [f"z{number}"]))
        else:
            tensors.append(numpy_helper.from_array(value, "backbone." + name))
    positions = vit.state_dict()["embeddings.position_embeddings"].numpy()
    tensors.append(numpy_helper.from_array(positions[:, :1].copy(), "onnx::Concat_1"))
    tensors.append(numpy_helper.from_array(positions[:, 1:].copy(), "onnx::Reshape_2"))
    path = tmp_path_factory.mktemp("onnx") / "vit.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "vit", [], [], tensors)), str(path))
    return path


def tower_of(path: Path, layers: int, size: int = SIZE) -> InstructBlipVisionModel:
    config, state = load_vision_tower(path, layers=layers, image_size=size)
    tower = InstructBlipVisionModel(config).eval()
    tower.load_state_dict(state)
    return tower


def test_the_whole_tower_computes_the_same(vit, exported):
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = vit(pixels).last_hidden_state
        found = tower_of(exported, 3)(pixels).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_shorter_tower_ends_in_a_plain_layer_norm(vit, exported):
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        hidden = vit(pixels, output_hidden_states=True).hidden_states[2]
        expected = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)
        found = tower_of(exported, 2)(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_positions_are_resized_for_another_image_size(exported):
    config, state = load_vision_tower(exported, layers=1, image_size=70)
    assert config.image_size == 70
    assert state["embeddings.position_embedding"].shape == (1, 26, 64)
    _, same = load_vision_tower(exported, layers=1, image_size=SIZE)
    torch.testing.assert_close(
        state["embeddings.position_embedding"][:, 0], same["embeddings.position_embedding"][:, 0]
    )


def test_more_blocks_than_there_are(exported):
    with pytest.raises(SourceError, match="4 or more blocks"):
        load_vision_tower(exported, layers=4, image_size=SIZE)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="not a file"):
        load_vision_tower(tmp_path / "none.onnx", layers=1, image_size=SIZE)
