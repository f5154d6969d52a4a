"""``mini captioner``: a captioner grown behind an image tower, in two stages, written in 8 bits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import read_instructblip
from core.models.spec import ModelSpec
from core.models.tensors import read_tensors
from precompute.__main__ import app
from tests.tiny_models import save_tiny_instructblip


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["mini", "captioner", *arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Coloured gradients with captions."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(12):
            coarse = Image.fromarray(random.integers(0, 255, (4, 4, 3), np.uint8))
            name = f"{number:02}.png"
            coarse.resize((160, 120), Image.Resampling.BICUBIC).save(folder / name)
            captions = [f"a picture with colour number {number % 3} in the corner"] * 2
            captions[1] += " again"
            file.write(json.dumps({"file_name": name, "captions": captions}) + "\n")
    return folder


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    return save_tiny_instructblip(tmp_path_factory.mktemp("tower") / "tiny")


@pytest.fixture(scope="module")
def first(photos, tower, tmp_path_factory) -> Path:
    pytest.importorskip("bitsandbytes")
    out = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["--data", str(photos), "--validation", str(photos), "--tower", str(tower)]
    arguments += ["--out", str(out), "--epochs", "1", "--batch-size", "6"]
    result = invoke(*arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return out


def caption_of(folder: Path, image: Image.Image) -> str:
    spec = ModelSpec(folder.name, f"path:{folder}", licence="")
    (caption,) = InstructBlipCaptioner(spec, device="cpu").caption([image])
    return caption.text


def test_the_first_stage_writes_a_captioner_in_8_bits(first, tower):
    config = json.loads((first / "config.json").read_text())
    assert config["quantization_config"]["load_in_8bit"] is True
    assert str(tower) not in (first / "config.json").read_text()
    stored = {}
    for path in first.glob("*.safetensors"):
        stored |= load_file(path)
    matrices = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in matrices
    assert any(name.startswith("language_model") for name in matrices)
    assert caption_of(first, Image.new("RGB", (40, 40), "red"))
    model, _ = read_instructblip(ModelSpec("first", f"path:{first}", licence=""), "cpu", "fp32")
    assert model.generation_config.suppress_tokens == [0, 2, 3]
    metrics = json.loads((first / "metrics.json").read_text())
    assert metrics["validation"]["images"] == 12
    assert metrics["recipe"]["trains"] == ["language"]
    assert metrics["pretraining"]["least"] == 0.2


def test_the_second_stage_goes_on_and_the_same_command_changes_nothing(first, photos, tmp_path):
    arguments = ["--data", str(photos), "--first", str(first), "--out", str(tmp_path / "second")]
    arguments += ["--epochs", "1", "--device", "cpu"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    written = read_tensors(tmp_path / "second")
    again = invoke(*arguments)
    assert again.exit_code == 0, again.output
    for name, tensor in read_tensors(tmp_path / "second").items():
        torch.testing.assert_close(tensor, written[name])
    recipe = json.loads((tmp_path / "second" / "metrics.json").read_text())["recipe"]
    assert (recipe["dropout"], recipe["start_share"]) == (0.15, 0.3)
    assert caption_of(tmp_path / "second", Image.new("RGB", (40, 40), "red"))


def test_other_photos_and_a_tower_that_is_none_are_refused(first, photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("00.png", "01.png"):
        (few / name).write_bytes((photos / name).read_bytes())
    lines = (photos / "metadata.jsonl").read_text().splitlines()[:2]
    (few / "metadata.jsonl").write_text("\n".join(lines))
    out = ("--out", str(tmp_path / "out"), "--device", "cpu")
    for arguments, sentence in (
        (("--data", str(few), "--first", str(first)), "embeddings of 24 captions, --data has 4"),
        (("--data", str(few), "--tower", str(few)), "holds no InstructBLIP checkpoint|neither"),
    ):
        result = invoke(*arguments, *out)
        assert result.exit_code == 2
        assert re.search(sentence, " ".join(result.output.split()))
