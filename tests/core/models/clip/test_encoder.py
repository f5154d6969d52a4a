"""An open_clip model gives what open_clip itself makes of it, one tower at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from core.errors import ModelError, ModelNotFoundError
from core.models.clip import towers
from core.models.clip.encoder import ClipEncoder
from core.models.clip.towers import CONFIG_NAME, HUB_WEIGHTS_NAME, LOCAL_WEIGHTS_NAME
from core.models.locate import local_folder
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from core.models.spec import ModelSpec
from tests.core.models.embeddings import TEXTS, assert_unit_rows
from tests.tiny_clip import TINY_CFG, TINY_DIM, TINY_MINILM_CFG, build_tiny_clip

ROOT = Path(__file__).resolve().parents[4]


def _images(n: int = 5) -> list[Image.Image]:
    noise = np.random.default_rng(7)
    sizes = [(40, 30), (32, 32), (200, 20), (33, 90), (64, 64)]
    return [
        Image.fromarray(noise.integers(0, 256, (*sizes[i % 5], 3), dtype=np.uint8))
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> ModelSpec:
    return build_tiny_clip(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def custom(tmp_path_factory) -> ModelSpec:
    return build_tiny_clip(tmp_path_factory.mktemp("custom"), custom_text=True)


@pytest.fixture(scope="module")
def minilm_clip(tmp_path_factory) -> ModelSpec:
    return build_tiny_clip(tmp_path_factory.mktemp("minilm"), model_cfg=TINY_MINILM_CFG)


@pytest.fixture(params=["plain", "custom", "minilm_clip"])
def clip_spec(request) -> ModelSpec:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def minilm() -> MiniLmEncoder:
    return MiniLmEncoder(PROFILES["mini"].sentence, device="cpu")


def test_clip_gives_unit_rows_in_order(clip_spec):
    encoder = ClipEncoder(clip_spec, device="cpu")
    images = _images()
    for encode, items in ((encoder.encode_text, TEXTS), (encoder.encode_image, images)):
        together = encode(items)
        assert_unit_rows(together, len(items), TINY_DIM)
        order = [3, 0, 4, 2, 1]
        np.testing.assert_allclose(encode([items[i] for i in order]), together[order], atol=1e-5)
        alone = np.concatenate([encode([item]) for item in items])
        np.testing.assert_allclose(alone, together, atol=1e-5)
        assert_unit_rows(encode([]), 0, TINY_DIM)


def test_more_than_one_inner_batch_keeps_the_order(plain):
    encoder = ClipEncoder(plain, device="cpu")
    images = _images(37)
    np.testing.assert_allclose(
        encoder.encode_image(images)[30:], encoder.encode_image(images[30:]), atol=1e-5
    )
    texts = [f"photo number {n}" for n in range(150)]
    np.testing.assert_allclose(
        encoder.encode_text(texts)[128:], encoder.encode_text(texts[128:]), atol=1e-5
    )


@pytest.mark.parametrize("spec_name", ["plain", "custom"])
def test_clip_equals_open_clips_own_create_model(spec_name, request):
    import open_clip
    import torch

    spec = request.getfixturevalue(spec_name)
    name = "local-dir:" + spec.source.removeprefix("path:")
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    with torch.inference_mode():
        text = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
        pixels = torch.stack([preprocess(image) for image in _images()])
        image = model.encode_image(pixels, normalize=True).numpy()
    encoder = ClipEncoder(spec, device="cpu")
    np.testing.assert_allclose(encoder.encode_text(TEXTS), text, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_image(_images()), image, atol=1e-5)


def test_the_text_tower_on_an_installed_package_is_its_model_under_the_trained_projection(
    minilm_clip, minilm
):
    weights = load_file(Path(minilm_clip.source.removeprefix("path:")) / LOCAL_WEIGHTS_NAME)
    assert not any(name.startswith("text.transformer.") for name in weights)
    # Unit norm does not pass through the GELU, so mean pooling is repeated here.
    from sentence_transformers import SentenceTransformer
    from torch import from_numpy
    from torch.nn.functional import gelu

    transformer = SentenceTransformer(str(local_folder(minilm.spec)), device="cpu")
    tokens = transformer.encode(TEXTS, output_value="token_embeddings")
    pooled = np.stack([np.asarray(rows.mean(dim=0).cpu()) for rows in tokens])

    hidden = gelu(from_numpy(pooled @ weights["text.proj.0.weight"].T)).numpy()
    expected = hidden @ weights["text.proj.2.weight"].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = ClipEncoder(minilm_clip, device="cpu").encode_text(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_towers_load_separately(clip_spec):
    encoder = ClipEncoder(clip_spec, device="cpu")
    assert encoder.loaded_towers == ()
    encoder.encode_text(["a dog"])
    assert encoder.loaded_towers == ("text",)
    encoder.encode_image(_images(1))
    assert encoder.loaded_towers == ("image", "text")
    other = ClipEncoder(clip_spec, device="cpu")
    other.encode_image(_images(1))
    assert other.loaded_towers == ("image",)


@pytest.mark.parametrize("kept", ["visual.", "text"])
def test_a_tower_works_where_the_other_is_neither_buildable_nor_in_the_file(
    clip_spec, kept, tmp_path
):
    folder = Path(clip_spec.source.removeprefix("path:"))
    tensors = load_file(folder / LOCAL_WEIGHTS_NAME)
    is_visual = kept == "visual."
    half = {name: t for name, t in tensors.items() if name.startswith("visual.") == is_visual}
    save_file(half, tmp_path / LOCAL_WEIGHTS_NAME)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    broken = "text_cfg" if is_visual else "vision_cfg"
    config["model_cfg"][broken] = {"no_such_setting": True}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")

    encoder = ClipEncoder(dataclasses.replace(clip_spec, source=f"path:{tmp_path}"), device="cpu")
    whole = ClipEncoder(clip_spec, device="cpu")
    if is_visual:
        np.testing.assert_array_equal(
            encoder.encode_image(_images()), whole.encode_image(_images())
        )
    else:
        np.testing.assert_array_equal(encoder.encode_text(TEXTS), whole.encode_text(TEXTS))


RESIDENT = """
import gc, json, sys
from core.models.clip.encoder import ClipEncoder
from core.models.spec import ModelSpec
spec = ModelSpec("tiny", sys.argv[1], licence="none", revision=sys.argv[2] or None, dim=16)
encoder = ClipEncoder(spec, device="cpu")
before = "torch" in sys.modules
embedding = encoder.encode_text(["a dog"])[0]
import torch
modules = sorted({type(o).__name__ for o in gc.get_objects() if isinstance(o, torch.nn.Module)})
slow = sorted({"open_clip", "transformers", "timm", "torchvision"} & set(sys.modules))
found = {"before": before, "modules": modules, "embedding": embedding.tolist(), "slow": slow}
print(json.dumps(found))
"""
IMAGE_MODULES = {"VisionTransformer", "TimmModel", "EfficientNet", "Conv2d", "BatchNormAct2d"}


def _resident(source: str, revision: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, source, revision],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_text_search_leaves_no_image_module_in_memory(minilm_clip):
    resident = _resident(minilm_clip.source, "")
    assert not resident["before"]
    assert "TransformerEncoder" in resident["modules"]
    assert IMAGE_MODULES & set(resident["modules"]) == set()
    assert resident["slow"] == []


def test_a_query_tower_gives_what_open_clips_gives(minilm_clip):
    import torch

    texts = ["a dog", "", "fish &amp; chips,  “quoted”", "word " * 200, "🎉"]
    for spec in (minilm_clip, PROFILES["mini"].clip):
        tower = towers.load_text_tower(towers.find_clip_files(spec))
        with torch.inference_mode():
            rows = tower.module(tower.tokenize(texts))
            expected = torch.nn.functional.normalize(rows).numpy()
        found = ClipEncoder(spec, device="cpu").encode_text(texts)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_hub_model_loads_at_its_revision_from_the_local_cache(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--tiny--clip"
    spec = build_tiny_clip(repository / "snapshots" / commit, weights_name=HUB_WEIGHTS_NAME)
    resident = _resident("hub:tiny/clip", commit, HF_HUB_CACHE=str(tmp_path))
    assert "TextTransformer" in resident["modules"]
    assert IMAGE_MODULES & set(resident["modules"]) == set()
    local = tmp_path / "local"
    local.mkdir()
    for name, copy in ((CONFIG_NAME, CONFIG_NAME), (HUB_WEIGHTS_NAME, LOCAL_WEIGHTS_NAME)):
        (local / copy).write_bytes((repository / "snapshots" / commit / name).read_bytes())
    spec = dataclasses.replace(spec, source=f"path:{local}")
    expected = ClipEncoder(spec, device="cpu").encode_text(["a dog"])[0]
    np.testing.assert_allclose(resident["embedding"], expected, atol=1e-6)


def test_the_full_profiles_architecture_is_what_open_clip_calls_vit_b_32():
    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    clip = PROFILES["full"].clip
    assert clip.revision is not None
    assert clip.dim == config["embed_dim"]
    image = towers.build_image_tower(config)
    text = towers.build_text_tower(config)
    parameters = sum(p.numel() for tower in (image, text) for p in tower.parameters())
    assert parameters == 151_277_312  # and one logit scale: the published 151,277,313


def test_half_precision_files_are_read_as_fp32(plain, tmp_path):
    folder = Path(plain.source.removeprefix("path:"))
    tensors = load_file(folder / LOCAL_WEIGHTS_NAME)
    save_file({n: t.astype(np.float16) for n, t in tensors.items()}, tmp_path / LOCAL_WEIGHTS_NAME)
    (tmp_path / CONFIG_NAME).write_bytes((folder / CONFIG_NAME).read_bytes())
    halved = ClipEncoder(dataclasses.replace(plain, source=f"path:{tmp_path}"), device="cpu")
    whole = ClipEncoder(plain, device="cpu")
    np.testing.assert_allclose(halved.encode_text(TEXTS), whole.encode_text(TEXTS), atol=5e-3)


def test_many_threads_load_a_tower_once_and_agree(minilm_clip, monkeypatch):
    loads = []
    real = towers.build_sentence_tower
    monkeypatch.setattr(
        towers,
        "build_sentence_tower",
        lambda *parts: loads.append(threading.get_ident()) or real(*parts),
    )
    encoder = ClipEncoder(minilm_clip, device="cpu")
    expected = ClipEncoder(minilm_clip, device="cpu").encode_text(TEXTS)
    loads.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: encoder.encode_text([TEXTS[n % 5]])[0], range(40)))
    assert len(loads) == 1
    for n, embedding in enumerate(found):
        np.testing.assert_allclose(embedding, expected[n % 5], atol=1e-5)


def test_a_failed_load_is_tried_again(tmp_path):
    spec = ModelSpec("late", f"path:{tmp_path / 'late'}", licence="none", dim=TINY_DIM)
    encoder = ClipEncoder(spec, device="cpu")
    with pytest.raises(ModelNotFoundError, match="late"):
        encoder.encode_text(["a dog"])
    build_tiny_clip(tmp_path / "late")
    assert_unit_rows(encoder.encode_text(["a dog"]), 1, TINY_DIM)


def test_a_wrong_dimension_is_refused_with_both_numbers(plain):
    with pytest.raises(ModelError, match="length 16, but 512 is expected"):
        ClipEncoder(dataclasses.replace(plain, dim=512), device="cpu").encode_text(["a dog"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (CONFIG_NAME, None, "has no open_clip_config.json"),
        (LOCAL_WEIGHTS_NAME, None, "has no model.safetensors"),
        (CONFIG_NAME, b"{", "is not valid JSON"),
        (CONFIG_NAME, b"{}", "has no model_cfg"),
        (LOCAL_WEIGHTS_NAME, b"pickle", "text tower in model.safetensors does not fit"),
    ],
)
def test_a_broken_folder_is_one_sentence(tmp_path, name, content, sentence):
    spec = build_tiny_clip(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=sentence) as caught:
        ClipEncoder(spec, device="cpu").encode_text(["a dog"])
    assert str(tmp_path) not in str(caught.value)


def test_weights_of_another_architecture_are_refused(tmp_path):
    spec = build_tiny_clip(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text(encoding="utf-8"))
    config["model_cfg"] = {**TINY_CFG, "vision_cfg": {**TINY_CFG["vision_cfg"], "layers": 3}}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
    encoder = ClipEncoder(spec, device="cpu")
    assert_unit_rows(encoder.encode_text(["a dog"]), 1, TINY_DIM)
    with pytest.raises(ModelNotFoundError, match="image tower"):
        encoder.encode_image(_images(1))


def test_a_missing_package_or_hub_model_says_what_to_do(monkeypatch):
    spec = ModelSpec("gone", "package:no_such_package_at_all/model", licence="none", dim=384)
    with pytest.raises(ModelNotFoundError, match="requirements.txt"):
        MiniLmEncoder(spec, device="cpu").encode_text(["a dog"])
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec = ModelSpec("far", "hub:nobody/nothing", licence="none", revision="abc", dim=384)
    for encoder in (ClipEncoder(spec, device="cpu"), MiniLmEncoder(spec, device="cpu")):
        with pytest.raises(ModelNotFoundError, match="hf download nobody/nothing --revision abc"):
            encoder.encode_text(["a dog"])


def test_an_encoder_refuses_a_precision_it_does_not_run(plain):
    with pytest.raises(ModelError, match=r"runs in fp32 or int8, not in bf16\.$"):
        ClipEncoder(dataclasses.replace(plain, precision="bf16")).encode_text(["a dog"])
