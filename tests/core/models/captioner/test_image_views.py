"""A captioner that reads several views of a picture together, on tiny real checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import Decoding
from core.models.eight_bit import products_run_in_8_bits
from core.models.spec import ModelSpec
from core.models.views import WHOLE
from tests.core.models.captioner.test_naming import save_namer
from tests.tiny_models import save_tiny_instructblip

SEARCH = Decoding(num_beams=2, min_new_tokens=4, max_new_tokens=7, repetition_penalty=1.0)
MIRRORED = (1.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 255, (50, 40, 3), dtype=np.uint8)) for _ in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    return save_namer(save_tiny_instructblip(tmp_path_factory.mktemp("tiny")), images[:2])


def captioner_of(folder, *views) -> InstructBlipCaptioner:
    spec = ModelSpec("tiny", f"path:{folder}", licence="none")
    decoding = replace(SEARCH, image_views=views) if views else SEARCH
    captioner = InstructBlipCaptioner(spec, device="cpu", decoding=decoding)
    captioner.load().model.double()
    return captioner


def said(captioner, images) -> list[tuple[str, float, float]]:
    return [(each.text, each.confidence, each.seen) for each in captioner.caption(images)]


def test_a_picture_and_its_mirror_image_are_one_where_both_are_read(folder, images):
    both, mirrored = captioner_of(folder, WHOLE, MIRRORED), [*map(ImageOps.mirror, images)]
    for one, other in zip(said(both, images), said(both, mirrored), strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:], rel=1e-5)
    np.testing.assert_allclose(both.class_tokens(images), both.class_tokens(mirrored), atol=1e-6)
    alone = captioner_of(folder)
    assert [text for text, *_ in said(alone, images)] != [text for text, *_ in said(both, images)]


def test_the_whole_picture_twice_says_what_it_says_once(folder, images):
    assert captioner_of(folder).load().decoding.image_views == (WHOLE,)
    once, twice = (said(captioner_of(folder, *[WHOLE] * n), images) for n in (1, 2))
    for one, other in zip(once, twice, strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:], rel=1e-6)


def test_one_of_a_batch_is_captioned_again_with_its_own_views(folder, images):
    captioner = captioner_of(folder, WHOLE, (0.0, 0.0, 0.6, 0.6), (0.4, 0.4, 1.0, 1.0))
    together = said(captioner, images)
    assert together == [
        (text, pytest.approx(sure), pytest.approx(seen))
        for image in images
        for text, sure, seen in said(captioner, [image])
    ]


def test_the_tower_in_8_bits_is_near_to_the_one_in_floats(folder, images, monkeypatch):
    def tokens_in(precision: str) -> np.ndarray:
        decoding = replace(SEARCH, image_precision=precision)
        spec = ModelSpec("tiny", f"path:{folder}", licence="none")
        return InstructBlipCaptioner(spec, device="cpu", decoding=decoding).class_tokens(images)

    floats, eight = tokens_in("fp32"), tokens_in("int8")
    if products_run_in_8_bits():
        assert not np.array_equal(floats, eight)
    apart = (floats * eight).sum(axis=1)
    lengths = np.linalg.norm(floats, axis=1) * np.linalg.norm(eight, axis=1)
    assert np.median(apart / lengths) > 0.99
    monkeypatch.setattr("core.models.eight_bit.products_run_in_8_bits", lambda: False)
    np.testing.assert_array_equal(tokens_in("int8"), floats)
