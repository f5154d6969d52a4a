"""A CLIP tower in an ONNX file teaches a smaller one that captioner and CLIP model can share."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, InstructBlipVisionModel
from typer.testing import CliRunner

from core.errors import SourceError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import read_instructblip
from core.models.clip.towers import build_image_tower
from core.models.spec import ModelSpec
from core.models.tensors import read_tensors
from precompute.__main__ import app
from precompute.finetune.shared.images import FolderImages
from precompute.mini.clip_onnx import outputs, read_weights
from precompute.mini.distil_recipe import DistilRecipe
from precompute.mini.distillation import distil, normalised
from precompute.mini.tower_conversion import instructblip_tower

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WIDTH, DIM = 64, 16
RECIPE = DistilRecipe(patch_size=32, without=(1,), epochs=8, batch_size=4, learning_rate=3e-3)


class _Exported(torch.nn.Module):
    """Gives the embedding and the tokens, as published exports do."""

    def __init__(self, clip: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.vision_model = clip.vision_model
        self.visual_projection = clip.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.vision_model(pixel_values)
        return self.visual_projection(output.pooler_output), output.last_hidden_state


@pytest.fixture(scope="module")
def clip() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=1,
        image_size=224,
        patch_size=16,
        projection_dim=DIM,
        hidden_act="quick_gelu",
        attn_implementation="eager",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.12)
    return model


@pytest.fixture(scope="module")
def in_floats(clip, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "clip.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Exported(clip),
            (torch.randn(2, 3, 224, 224),),
            str(path),
            input_names=["pixel_values"],
            dynamic_axes={"pixel_values": {0: "batch"}},
            dynamo=False,
        )
    return path


@pytest.fixture(scope="module")
def in_8_bits(in_floats) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = in_floats.with_name("clip.int8.onnx")
    quantize_dynamic(
        str(in_floats),
        str(path),
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
    )
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Coloured gradients and blocks: different enough to be told apart."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(random.integers(0, 255, (4, 4, 3), np.uint8))
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.parametrize(("kind", "error"), [("in_floats", 0.0), ("in_8_bits", 5e-3)])
def test_weights_come_back_by_name(clip, kind, error, request):
    weights = read_weights(request.getfixturevalue(kind))
    expected = {n: t for n, t in clip.state_dict().items() if "position_ids" not in n}
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert np.abs(weights[name] - tensor.numpy()).max() <= error, name


def test_the_file_answers_as_the_model_does(clip, in_floats):
    pixels = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        expected = clip(pixels)
    (embeddings, tokens), *rest = outputs(in_floats, [pixels])
    assert not rest
    np.testing.assert_allclose(embeddings, expected.image_embeds.numpy(), atol=1e-4)
    np.testing.assert_allclose(tokens, expected.last_hidden_state.numpy(), atol=1e-4)


def test_a_file_without_a_tower_is_refused(tmp_path):
    import onnx
    from onnx import helper

    empty = tmp_path / "empty.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "none", [], [])), str(empty))
    with pytest.raises(SourceError, match="does not hold a CLIP image tower"):
        read_weights(empty)
    with pytest.raises(SourceError, match="is not a file"):
        read_weights(tmp_path / "none.onnx")


def test_larger_patches_see_the_shrunk_image(in_floats):
    """The patches' tokens are, up to one scale and the positions, those of the image at half."""
    weights = read_weights(in_floats)
    smooth = torch.nn.functional.interpolate(torch.randn(4, 3, 7, 7), 224, mode="bicubic")
    halved = torch.nn.functional.interpolate(
        smooth, 112, mode="bicubic", antialias=True, align_corners=False
    )
    tower = instructblip_tower(weights, smooth, patch_size=32)
    kernel = torch.tensor(weights["vision_model.embeddings.patch_embedding.weight"])
    gain = torch.tensor(weights["vision_model.pre_layrnorm.weight"])
    expected = torch.nn.functional.conv2d(halved, kernel, stride=16)
    expected = (expected - expected.mean(dim=1, keepdim=True)) * gain[:, None, None]
    found = torch.nn.functional.conv2d(smooth, tower.embeddings.patch_embedding.weight, stride=32)
    alike = torch.nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1))
    assert alike.min().item() > 0.999


def test_blocks_are_left_out(in_floats):
    pixels = torch.randn(2, 3, 224, 224)
    weights = read_weights(in_floats)
    tower = instructblip_tower(weights, pixels, patch_size=32, without=[1])
    assert len(tower.encoder.layers) == 2
    kept = weights["vision_model.encoder.layers.2.mlp.fc1.weight"]
    assert np.array_equal(tower.encoder.layers[1].mlp.fc1.weight.detach().numpy(), kept)


def test_the_student_grows_alike_and_is_shared(in_8_bits, photos, tmp_path):
    images = FolderImages.read(photos)
    before = distil(images, images, in_8_bits, tmp_path / "start", _after(0))
    report = distil(images, images, in_8_bits, tmp_path / "end", RECIPE, say=lambda line: None)
    assert report["likeness"] > before["likeness"] + 0.2
    tower = InstructBlipVisionModel.from_pretrained(tmp_path / "end", dtype=torch.float32).eval()
    published = load_file(tmp_path / "end" / "image_tower.safetensors")
    vision = {"image_size": 224, "patch_size": 32, "width": WIDTH, "layers": 2}
    vision |= {"mlp_ratio": 1.5, "no_ln_pre": True}
    shared = build_image_tower({"embed_dim": DIM, "quick_gelu": True, "vision_cfg": vision}).eval()
    shared.load_state_dict({name: tensor.float() for name, tensor in published.items()})
    pixels = normalised(np.stack([_squashed(images, row) for row in range(len(images))]))
    with torch.inference_mode():
        seen = tower(pixels).last_hidden_state[:, 0] @ shared.proj
        centred = seen - seen.mean(dim=0)
        torch.testing.assert_close(shared(pixels), centred, atol=5e-3, rtol=5e-3)


def test_a_run_that_was_stopped_goes_on_to_the_same_end(in_8_bits, photos, tmp_path):
    images = FolderImages.read(photos)
    whole = distil(images, images, in_8_bits, tmp_path / "whole", RECIPE, save_every=50)
    seen = []

    def stop(line: str) -> None:
        seen.append(line)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(images, images, in_8_bits, tmp_path / "cut", RECIPE, save_every=5, say=stop)
    resumed = distil(images, images, in_8_bits, tmp_path / "cut", RECIPE, save_every=50)
    assert resumed["likeness"] == pytest.approx(whole["likeness"], abs=1e-4)
    with pytest.raises(SourceError, match="another recipe"):
        distil(images, images, in_8_bits, tmp_path / "cut", _after(2))


def test_the_command(in_8_bits, photos, tmp_path):
    out = tmp_path / "out"
    arguments = ["finetune", "distil", "--data", str(photos), "--validation", str(photos)]
    arguments += ["--teacher", str(in_8_bits), "--out", str(out), "--without", "1"]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "0.7", "--batch-size", "4"])
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert metrics["recipe"]["without"] == [1]


def test_a_captioner_grows_behind_the_tower_and_is_written_in_8_bits(in_8_bits, photos, tmp_path):
    images = FolderImages.read(photos)
    distil(images, None, in_8_bits, tmp_path / "tower", _after(1))
    captioned = tmp_path / "captioned"
    shutil.copytree(photos, captioned)
    with (captioned / "metadata.jsonl").open("w") as file:
        for number, path in enumerate(sorted(captioned.glob("*.png"))):
            captions = [f"a picture with colour number {number % 3} in the corner"] * 2
            file.write(json.dumps({"file_name": path.name, "captions": captions}) + "\n")
    arguments = ["finetune", "captions", "--data", str(captioned), "--validation", str(captioned)]
    arguments += ["--init-vision", str(tmp_path / "tower"), "--out", str(tmp_path / "captioner")]
    arguments += ["--epochs", "1", "--batch-size", "6", "--min-count", "1", "--eight-bit"]
    arguments += ["--foretold-share", "0.5", "0.9"]
    refused = CliRunner().invoke(app, [*arguments, "--train", "language"])
    assert "leave --train out" in refused.output
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "captioner" / "config.json").read_text())
    assert config["quantization_config"]["load_in_8bit"] is True
    assert str(tmp_path) not in (tmp_path / "captioner" / "config.json").read_text()
    stored = {}
    for path in (tmp_path / "captioner").glob("*.safetensors"):
        stored |= load_file(path)
    matrices = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in matrices
    assert any(name.startswith("language_model") for name in matrices)
    spec = ModelSpec("grown", f"path:{tmp_path / 'captioner'}", licence="")
    (caption,) = InstructBlipCaptioner(spec, device="cpu").caption([images.image(0)])
    assert caption.text
    model, _ = read_instructblip(spec, "cpu", "fp32")
    assert model.generation_config.suppress_tokens == [0, 2, 3]
    metrics = json.loads((tmp_path / "captioner" / "metrics.json").read_text())
    assert metrics["validation"]["images"] == 12

    assert metrics["recipe"]["trains"] == ["language"]
    assert metrics["recipe"]["looking"]["least"] == 0.5
    for shares in (("0.8", "0.2"), ("0.5", "1.5")):
        result = CliRunner().invoke(app, [*arguments, "--foretold-share", *shares])
        assert "two shares" in result.output

    learnt = tmp_path / "captioner" / "checkpoint" / "looking.safetensors"
    arguments = ["finetune", "captions", "--data", str(captioned), "--epochs", "1"]
    arguments += ["--model", str(tmp_path / "captioner"), "--out", str(tmp_path / "on")]
    on = [*arguments, "--meanings", str(learnt), "--eight-bit", "--dropout", "0.2"]
    result = CliRunner().invoke(app, on)
    assert result.exit_code == 0, result.output
    written = read_tensors(tmp_path / "on")
    again = CliRunner().invoke(app, on)
    assert again.exit_code == 0, again.output
    for name, tensor in read_tensors(tmp_path / "on").items():
        torch.testing.assert_close(tensor, written[name])
    recipe = json.loads((tmp_path / "on" / "metrics.json").read_text())["recipe"]
    assert (recipe["looking"]["most"], recipe["trains"]) == (0.8, ["language"])
    assert recipe["dropout"] == 0.2
    (spoken,) = InstructBlipCaptioner(
        ModelSpec("on", f"path:{tmp_path / 'on'}", licence=""), device="cpu"
    ).caption([images.image(0)])
    assert spoken.text
    arguments[-1] = str(tmp_path / "elsewhere")
    result = CliRunner().invoke(app, [*arguments, "--limit", "5", "--meanings", str(learnt)])
    assert "has the meanings of 24 captions, --data has 10" in result.output
    result = CliRunner().invoke(app, [*arguments, "--meanings", str(tmp_path / "none")])
    assert "holds no meanings" in result.output


def test_a_folder_without_a_tower_is_refused(photos, tmp_path):
    arguments = ["finetune", "captions", "--data", str(photos), "--out", str(tmp_path / "out")]
    (photos / "metadata.jsonl").write_text('{"file_name": "00.png", "captions": ["a dog"]}\n')
    result = CliRunner().invoke(app, [*arguments, "--init-vision", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no image tower" in result.output


def _after(epochs: float) -> DistilRecipe:
    from dataclasses import replace

    return replace(RECIPE, epochs=epochs)


def _squashed(images: FolderImages, row: int) -> np.ndarray:
    return np.asarray(images.image(row).resize((224, 224), Image.Resampling.BICUBIC))
