"""A checkpoint in 8 bits, and a CLIP model that uses a captioner's image tower."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, InstructBlipForConditionalGeneration

from core.errors import ModelNotFoundError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import read_instructblip
from core.models.choose import clip_spec
from core.models.clip.encoder import ClipEncoder
from core.models.clip.shared_tower import VISION_PREFIX, as_open_clip
from core.models.locate import revision_of
from core.models.spec import ModelSpec
from core.models.tensors import read_tensors
from tests.tiny_clip import TINY_DIM, build_tiny_clip
from tests.tiny_models import IMAGE_SIZE, save_tiny_instructblip

_CLIP = {
    "embed_dim": TINY_DIM,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 14,
        "width": 32,
        "head_width": 16,
        "layers": 2,
        "mlp_ratio": 2.0,
        "no_ln_pre": True,
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def in_floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny captioner."""
    return save_tiny_instructblip(tmp_path_factory.mktemp("captioner") / "floats")


@pytest.fixture(scope="module")
def in_8_bits(in_floats: Path) -> Path:
    """The same one as bitsandbytes writes it."""
    folder = in_floats.parent / "8-bits"
    shutil.copytree(in_floats, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    InstructBlipForConditionalGeneration.from_pretrained(
        in_floats,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        device_map={"": "cpu"},
        dtype=torch.float16,
    ).save_pretrained(folder, max_shard_size="60KB")
    return folder


def _images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (50, 60, 3), np.uint8)) for _ in range(3)]


def _spec(folder: Path) -> ModelSpec:
    return ModelSpec("tiny", f"path:{folder}", licence="")


def test_eight_bits_are_multiplied_out_to_within_their_rounding(
    in_floats: Path, in_8_bits: Path
) -> None:
    assert len(list(in_8_bits.glob("*.safetensors"))) > 1
    whole = load_file(in_floats / "model.safetensors")
    read = read_tensors(in_8_bits)
    name = "vision_model.encoder.layers.1.mlp.fc2.weight"
    with safe_open(_holder(in_8_bits, name), "pt") as file:
        assert file.get_tensor(name).dtype == torch.int8
    largest = whole[name].abs().amax(dim=1, keepdim=True)
    assert bool(((read[name] - whole[name]).abs() <= largest / 127 * 0.51 + 1e-2).all())
    assert not any(key.endswith(("SCB", "weight_format")) for key in read)


def test_a_prefix_reads_one_part_alone(in_8_bits: Path) -> None:
    vision = read_tensors(in_8_bits, VISION_PREFIX)
    assert "embeddings.class_embedding" in vision
    assert not any(name.startswith(("language_model", "qformer")) for name in vision)


def test_a_captioner_in_8_bits_runs_in_floats_on_a_cpu(in_8_bits: Path) -> None:
    model, _ = read_instructblip(_spec(in_8_bits), "cpu", "fp32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    captions = InstructBlipCaptioner(_spec(in_8_bits), device="cpu").caption(_images())
    assert len({caption.text for caption in captions}) == 3


def test_the_shared_tower_says_what_the_captioner_sees(in_8_bits: Path, tmp_path: Path) -> None:
    spec = clip_with_shared_tower(tmp_path, in_8_bits)
    encoder = ClipEncoder(spec, device="cpu")
    found = encoder.encode_image(_images())
    model, _ = read_instructblip(_spec(in_8_bits), "cpu", "fp32")
    tower = encoder.image_tower
    pixels = torch.stack([tower.preprocess(image) for image in _images()])
    with torch.inference_mode():
        seen = model.vision_model(pixels).last_hidden_state[:, 0] @ tower.module.proj
    expected = torch.nn.functional.normalize(seen).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.loaded_towers == ("image",)


def test_patch_bias_goes_into_the_positions(in_floats: Path) -> None:
    state = read_tensors(in_floats, VISION_PREFIX)
    plain = as_open_clip(state)
    bias = torch.arange(32.0)
    moved = as_open_clip({**state, "embeddings.patch_embedding.bias": bias})
    change = moved["positional_embedding"] - plain["positional_embedding"]
    expected = bias - state["embeddings.patch_embedding.bias"]
    assert bool(change[0].eq(0).all())
    torch.testing.assert_close(change[1:], expected.expand(len(change) - 1, -1))


def test_another_tower_is_another_revision(in_floats: Path, tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    shutil.copytree(in_floats, owner)
    spec = clip_with_shared_tower(tmp_path, owner)
    before = revision_of(spec)
    (owner / "twolens.json").write_text("{}")
    revision_of.cache_clear()
    assert revision_of(spec) == before  # how it captions is nothing to CLIP
    save_file(
        {n: t + 1 for n, t in load_file(owner / "model.safetensors").items()},
        owner / "model.safetensors",
    )
    revision_of.cache_clear()
    assert revision_of(spec) != before


def test_a_owner_that_is_gone_is_named(in_floats: Path, tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    shutil.copytree(in_floats, owner)
    spec = clip_with_shared_tower(tmp_path, owner)
    (owner / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"image tower of owner cannot be read\.$"):
        ClipEncoder(spec, device="cpu").encode_image(_images())


def clip_with_shared_tower(folder: Path, owner: Path) -> ModelSpec:
    """A CLIP model whose file holds only the image tower's last projection and the text tower."""
    clip = folder / "clip"
    build_tiny_clip(clip, model_cfg=_CLIP)
    config = json.loads((clip / "open_clip_config.json").read_text())
    config["image_tower"] = f"path:{owner}"
    (clip / "open_clip_config.json").write_text(json.dumps(config))
    state = load_file(clip / "model.safetensors")
    kept = {n: t for n, t in state.items() if not n.startswith("visual.") or n == "visual.proj"}
    save_file(kept, clip / "model.safetensors")
    return clip_spec(str(clip))


def _holder(folder: Path, name: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][name]
