"""An image tower that multiplies in 8 bits: near to float32, exact, no neighbour heard."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import ModelError
from core.gallery.manifest import ModelRef
from core.models import eight_bit
from core.models.choose import clip_spec
from core.models.clip.encoder import ClipEncoder
from core.models.clip.towers import CONFIG_NAME
from core.models.eight_bit import products_run_in_8_bits
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from tests.tiny_clip import TINY_CFG, TINY_MINILM_CFG, build_tiny_clip

# Not asked of products_run_in_8_bits: on x86 it is to say yes, whatever version of PyTorch comes.
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="products in 8 bits are for x86"
)
_VISION = {**TINY_CFG["vision_cfg"], "width": 64, "layers": 3}
_KINDS = {
    "GELU": {"vision_cfg": _VISION},
    "quick GELU": {"vision_cfg": _VISION, "quick_gelu": True},
    "mean of the patches": {"vision_cfg": {**_VISION, "pool_type": "avg"}},
    "layer scale": {"vision_cfg": {**_VISION, "ls_init_value": 0.5}},
    "attentional pool": {"vision_cfg": {**_VISION, "attentional_pool": True}},
}


def _images() -> list[Image.Image]:
    """Noise, from faint to glaring."""
    random = np.random.default_rng(3)
    return [
        Image.fromarray(random.integers(0, most, (32, 32, 3), dtype=np.uint8))
        for most in (4, 256, 40, 120, 10)
    ]


def _in_8_bits(spec: ModelSpec) -> ClipEncoder:
    return ClipEncoder(replace(spec, precision="int8"), device="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    cfg = {**TINY_CFG, "vision_cfg": _VISION}
    return build_tiny_clip(tmp_path_factory.mktemp("clip"), model_cfg=cfg)


@pytest.mark.parametrize("kind", list(_KINDS))
def test_it_says_nearly_what_it_says_in_floats(kind: str, tmp_path: Path) -> None:
    spec = build_tiny_clip(tmp_path, model_cfg={**TINY_CFG, **_KINDS[kind]})
    whole = ClipEncoder(spec, device="cpu").encode_image(_images())
    found = _in_8_bits(spec).encode_image(_images())
    assert not np.array_equal(found, whole)
    # What all of them have in common says nothing.
    cosines = _cosines(found - whole.mean(axis=0), whole - whole.mean(axis=0))
    assert cosines.min() > 0.98, cosines


def test_an_image_hears_nothing_of_its_neighbours(tiny: ModelSpec) -> None:
    encoder = _in_8_bits(tiny)
    together = encoder.encode_image(_images())
    alone = np.concatenate([encoder.encode_image([image]) for image in _images()])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_products_are_exact_at_their_largest() -> None:
    weight = torch.randn(40, 3072, generator=torch.Generator().manual_seed(0)).sign()
    linear = eight_bit.EightBitLinear(weight, torch.zeros(40))
    for tokens in (weight[:7], -weight[:7], torch.ones(7, 3072)):
        # All are whole numbers of steps, so nothing is rounded before the product.
        expected = tokens.double() @ weight.double().T
        torch.testing.assert_close(linear(tokens).double(), expected, rtol=1e-6, atol=1e-3)


def test_an_empty_token_is_no_division_by_zero() -> None:
    bias = torch.tensor([1.0, -2.0])
    linear = eight_bit.EightBitLinear(torch.zeros(2, 8), bias)
    torch.testing.assert_close(linear(torch.zeros(1, 3, 8)), bias.expand(1, 3, 2))


@pytest.fixture
def another_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test make this CPU another one, which is asked anew what it can do."""
    products_run_in_8_bits.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    products_run_in_8_bits.cache_clear()


def test_a_cpu_that_cannot_runs_in_floats(tiny: ModelSpec, another_cpu: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("could not create a primitive descriptor for the matmul primitive")

    another_cpu.setattr(eight_bit, "product_in_8_bits", refuse)
    found = _in_8_bits(tiny).encode_image(_images())
    np.testing.assert_array_equal(found, ClipEncoder(tiny, device="cpu").encode_image(_images()))


def test_a_cpu_that_cuts_sums_off_runs_in_floats(another_cpu: pytest.MonkeyPatch) -> None:
    exact = eight_bit.product_in_8_bits
    another_cpu.setattr(eight_bit, "product_in_8_bits", lambda *args: exact(*args).clamp(max=32767))
    assert not products_run_in_8_bits()


def test_a_cpu_that_may_be_slow_runs_in_floats(another_cpu: pytest.MonkeyPatch) -> None:
    another_cpu.setattr("platform.machine", lambda: "arm64")
    assert not products_run_in_8_bits()


def test_texts_are_embedded_in_floats(tiny: ModelSpec) -> None:
    texts = ["a dog", "two children"]
    np.testing.assert_array_equal(
        _in_8_bits(tiny).encode_text(texts), ClipEncoder(tiny, device="cpu").encode_text(texts)
    )


def test_another_kind_of_tower_is_refused_in_a_sentence(tmp_path: Path) -> None:
    spec = build_tiny_clip(tmp_path, model_cfg=TINY_MINILM_CFG)
    with pytest.raises(ModelError, match="is no plain vision transformer and does not run in int8"):
        _in_8_bits(spec).encode_image(_images())


def test_a_configuration_asks_for_it(tiny: ModelSpec, tmp_path: Path) -> None:
    folder = Path(tiny.source.removeprefix("path:"))
    assert clip_spec(str(folder)).precision == "fp32"
    config = json.loads((folder / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**config, "image_precision": "int8"}))
    assert clip_spec(str(tmp_path)).precision == "int8"
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**config, "image_precision": "int4"}))
    with pytest.raises(ModelError, match=r"image_precision 'int4'; fp32 and int8 are known\.$"):
        clip_spec(str(tmp_path))


def test_mini_clip_runs_so_by_profile_and_by_path() -> None:
    spec = PROFILES["mini"].clip
    assert spec.precision == clip_spec("asset:mini-clip").precision == "int8"
    assert ModelRef.of(spec).precision == "int8"
    assert products_run_in_8_bits()


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
