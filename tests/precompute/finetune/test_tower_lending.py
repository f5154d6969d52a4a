"""A CLIP model's image tower as low-rank differences from a captioner's in 4 bits."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from core.captioner_reading import read_instructblip
from core.captioners import InstructBlipCaptioner
from core.clip_towers import CONFIG_NAME, find_clip_files, load_image_tower, load_text_tower
from core.encoders import ClipEncoder
from core.errors import ModelNotFoundError, SourceError
from core.instructblip_tower import VISION_PREFIX, as_open_clip, with_low_rank
from core.models import ModelSpec
from core.tensors import multiplied_out, read_tensors
from precompute.__main__ import app
from precompute.finetune.caption_files import CaptionerFiles
from precompute.finetune.caption_vision import round_to_nf4
from precompute.finetune.clip_asset import write_clip_asset
from precompute.finetune.student import Student
from precompute.finetune.tower_lending import compact_form, lend_tower
from precompute.finetune.trained_towers import Tower
from tests.precompute.finetune.tiny_captioner import GREEDY
from tests.tiny_clip import TINY_DIM, build_tiny_clip
from tests.tiny_models import IMAGE_SIZE, save_tiny_instructblip

CLIP = {
    "embed_dim": TINY_DIM,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": IMAGE_SIZE * 2,
        "patch_size": 28,
        "width": 32,
        "head_width": 16,
        "layers": 1,
        "mlp_ratio": 2.0,
        "no_ln_pre": True,
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def lender(tmp_path_factory):
    """A tiny captioner whose image tower is in 4 bits."""
    folder = save_tiny_instructblip(tmp_path_factory.mktemp("captioner") / "nf4")
    CaptionerFiles(folder, GREEDY, store="nf4-tower").finish()
    return folder


def spec_of(folder, name="tiny"):
    return ModelSpec(name, f"path:{folder}", licence="")


def pictures(count=8):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (50, 60, 3), np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return find_clip_files(build_tiny_clip(tmp_path_factory.mktemp("clip"), model_cfg=CLIP))


@pytest.fixture(scope="module")
def tower(model, lender, tmp_path_factory):
    """The captioner's second block, changed in two directions, behind larger patches."""
    lent = as_open_clip(read_tensors(lender, VISION_PREFIX), [0])
    torch.manual_seed(5)
    state = {n: t.clone() for n, t in load_image_tower(model).module.state_dict().items()}
    for name, tensor in lent.items():
        if name.startswith("transformer."):
            state[name] = tensor.clone()
            if tensor.ndim == 2:
                state[name] += torch.randn(len(tensor), 2) @ torch.randn(2, tensor.shape[1]) * 0.3
    path = tmp_path_factory.mktemp("tower") / "image_tower.safetensors"
    save_file({n: t.contiguous() for n, t in state.items()}, path)
    return path


def test_four_bits_are_multiplied_out_as_the_library_does(lender, tmp_path):
    from bitsandbytes import functional

    torch.manual_seed(0)
    plain = save_tiny_instructblip(tmp_path / "plain")
    before = read_tensors(plain, VISION_PREFIX)
    after = read_tensors(lender, VISION_PREFIX)
    assert set(before) == set(after)
    name = "encoder.layers.1.mlp.fc1.weight"
    packed, state = functional.quantize_4bit(before[name].half(), blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state).float()
    # The scales of the blocks are in 8 bits in the file.
    assert (after[name] - theirs).abs().max() < 0.02 * theirs.abs().max()
    assert 0.001 < (after[name] - before[name]).abs().mean() < 0.2 * before[name].abs().mean()
    assert after["post_layernorm.weight"].dtype == torch.float16
    stored = load_file(lender / "model.safetensors")
    assert stored[f"{VISION_PREFIX}{name}"].dtype == torch.uint8
    assert stored["language_projection.weight"].dtype == torch.float16


def test_a_last_block_of_numbers_may_be_short_and_scales_may_be_plain():
    from bitsandbytes import functional

    matrix = torch.randn(7, 10)
    packed, state = functional.quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    stored = {"a.weight": packed}
    stored |= {f"a.weight.{n}": t for n, t in state.as_dict(packed=True).items()}
    (found,) = multiplied_out(stored).values()
    torch.testing.assert_close(found, functional.dequantize_4bit(packed, state))


def test_a_tower_rounded_before_training_is_what_is_read_later(tmp_path):
    plain = save_tiny_instructblip(tmp_path / "nf4")
    model, _ = read_instructblip(spec_of(plain), "cpu", "fp32")
    round_to_nf4(model.vision_model)
    rounded = {n: t.clone() for n, t in model.vision_model.state_dict().items()}
    CaptionerFiles(plain, GREEDY, store="nf4-tower").finish()
    read = read_tensors(plain, VISION_PREFIX)
    for name, tensor in rounded.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(read[name].float(), tensor, atol=0.02 * scale, rtol=0)


def test_a_captioner_with_a_tower_in_4_bits_runs_in_floats_on_a_cpu(lender):
    model, _ = read_instructblip(spec_of(lender), "cpu", "fp32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    captions = InstructBlipCaptioner(spec_of(lender), device="cpu").caption(pictures(3))
    assert len({caption.text for caption in captions}) == 3


def test_a_damaged_tower_in_4_bits_is_one_sentence(lender, model, tower, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(lender, broken)
    state = load_file(broken / "model.safetensors")
    gone = next(name for name in state if name.endswith(".quant_map"))
    del state[gone]
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFoundError, match="complete checkpoint"):
        read_instructblip(spec_of(broken), "cpu", "fp32")


def lent(model, tower, lender, out, rank=2, **changes):
    options = {"without": [0], "rank": rank, "images": pictures()}
    return lend_tower(model, tower, spec_of(lender), out, **{**options, **changes})


def test_the_differences_of_that_rank_give_the_tower_back(model, tower, lender, tmp_path):
    report = lent(model, tower, lender, tmp_path / "lent")
    assert report["fit"] > 0.99
    found = find_clip_files(spec_of(tmp_path / "lent"))
    assert found.config["image_tower_without"] == [0]
    state = load_image_tower(found).module.state_dict()
    for name, tensor in load_file(tower).items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(state[name], tensor, atol=0.02 * scale, rtol=0)
    stored = load_file(found.weights)
    matrix = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert matrix not in stored
    assert stored[f"{matrix}.lora_A.weight"].dtype == torch.int8
    assert stored[f"{matrix}.lora_A.weight"].shape == (2, 32)
    text = load_text_tower(found).module.state_dict()
    for name, tensor in load_text_tower(model).module.state_dict().items():
        assert torch.equal(text[name], tensor)
    assert ClipEncoder(spec_of(tmp_path / "lent"), device="cpu").encode_image(pictures(2)).shape


def test_more_directions_fit_better(model, tower, lender, tmp_path):
    fits = [lent(model, tower, lender, tmp_path / str(rank), rank)["fit"] for rank in (1, 2)]
    assert fits[0] < fits[1]


def test_what_matters_to_the_images_is_kept_first(tower, lender):
    from precompute.finetune.tower_lending import _factors

    torch.manual_seed(0)
    difference = torch.randn(16, 12)
    inputs = torch.randn(500, 12) * torch.linspace(0.01, 3, 12)
    scales = inputs.square().mean(dim=0).sqrt()

    def lost(weights):
        inner, outer = _factors(difference, weights, 4)
        return float((inputs @ (difference - outer @ inner).T).square().mean())

    assert lost(scales) < 0.8 * lost(torch.ones(12))


def test_a_locked_tower_stays_as_it_is_stored(model, tower, lender, tmp_path):
    lent(model, tower, lender, tmp_path / "lent")
    start = find_clip_files(spec_of(tmp_path / "lent"))
    image, text = load_image_tower(start).module, load_text_tower(start).module
    student = Student(Tower(image), Tower(text), torch.tensor(2.0))
    with torch.no_grad():
        image.proj.add_(1)
    write_clip_asset(tmp_path, start, student)
    written = load_file(tmp_path / "model.safetensors")
    before = load_file(start.weights)
    assert len(compact_form(start)) == 5
    for parts in compact_form(start).values():
        for name, tensor in parts.items():
            assert torch.equal(written[name], tensor)
    assert set(written) <= set(before)
    assert not torch.equal(written["visual.proj"], before["visual.proj"])
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["image_tower_without"] == [0]
    again = load_image_tower(find_clip_files(spec_of(tmp_path))).module.state_dict()
    torch.testing.assert_close(again["proj"], image.proj.detach(), atol=5e-3, rtol=1e-3)


def test_what_does_not_belong_together_is_refused(model, tower, lender, tmp_path):
    wrong = {name: tensor for name, tensor in load_file(tower).items() if name != "proj"}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(SourceError, match=r"wrong.safetensors does not fit"):
        lent(model, tmp_path / "wrong.safetensors", lender, tmp_path / "out")
    hub = ModelSpec("far", "hub:someone/far", licence="")
    with pytest.raises(SourceError, match="must be a folder"):
        lend_tower(model, tower, hub, tmp_path, without=[], rank=1, images=pictures())


def test_a_difference_of_nothing_is_refused():
    half = {"x.weight.lora_A.weight": torch.zeros(1, 2)}
    with pytest.raises(KeyError):
        with_low_rank(half, {"x.weight": torch.zeros(2, 2)})
    whole = half | {"x.weight.lora_B.weight": torch.zeros(2, 1)}
    with pytest.raises(KeyError):
        with_low_rank(whole, {})


def test_the_command(model, tower, lender, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(photos / f"{number}.png")
    result = CliRunner().invoke(
        app,
        ["finetune", "lend", str(model.weights.parent), "--tower", str(tower)]
        + ["--lender", str(lender), "--images", str(photos), "--without", "0", "--rank", "2"]
        + ["--out", str(tmp_path / "out")],
    )
    assert result.exit_code == 0, result.output
    assert "'fit': 0.9" in result.output
