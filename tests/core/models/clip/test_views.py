"""A picture's embedding is the mean direction of its views, where a configuration lists views."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from core.errors import ModelError
from core.models.clip.encoder import ClipEncoder
from core.models.clip.towers import CONFIG_NAME
from core.models.spec import ModelSpec
from core.models.views import View, views_of
from tests.tiny_clip import build_tiny_clip

WHOLE, MIRRORED, CENTRE = [0, 0, 1, 1], [1, 0, 0, 1], [0.25, 0.25, 0.75, 0.75]


def _pictures() -> list[Image.Image]:
    noise = np.random.default_rng(3)
    sizes = [(40, 30), (64, 64), (33, 91), (8, 200)] * 5  # more than a batch of 16 views
    return [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def _viewed(folder: Path, views: object) -> ModelSpec:
    spec = build_tiny_clip(folder)
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "image_views": views}), encoding="utf-8")
    return spec


def test_an_embedding_is_the_mean_direction_of_the_views(tmp_path):
    one = ClipEncoder(_viewed(tmp_path / "one", [WHOLE]))
    three = ClipEncoder(_viewed(tmp_path / "three", [WHOLE, MIRRORED, CENTRE]))
    pictures = _pictures()
    centres = [View(*CENTRE).of(picture) for picture in pictures]
    parts = [pictures, [ImageOps.mirror(picture) for picture in pictures], centres]
    total = np.sum([one.encode_image(part) for part in parts], axis=0)
    wanted = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(three.encode_image(pictures), wanted, atol=1e-5)
    assert not np.allclose(three.encode_image(pictures), one.encode_image(pictures), atol=1e-3)


def test_with_a_mirrored_view_a_picture_and_its_mirror_image_are_the_same(tmp_path):
    both = ClipEncoder(_viewed(tmp_path, [WHOLE, MIRRORED]))
    pictures = _pictures()
    mirrored = [ImageOps.mirror(picture) for picture in pictures]
    np.testing.assert_allclose(both.encode_image(pictures), both.encode_image(mirrored), atol=1e-5)


def test_a_view_keeps_a_pixel_of_the_smallest_picture():
    dot = Image.new("RGB", (1, 1), (1, 2, 3))
    assert View(0.4, 0.4, 0.6, 0.6).of(dot).size == (1, 1)
    assert View().of(dot) is dot
    wide = Image.new("RGB", (3000, 1))
    assert View(0.9, 0.9, 1.0, 1.0).of(wide).size == (300, 1)


@pytest.mark.parametrize(
    "views",
    [[], "all", 5, [[0, 0, 1]], [[0, 0, 0, 1]], [[0, 1, 1, 0]], [[-0.1, 0, 1, 1]], [None]]
    + [[[0, 0, 1, float("nan")]], [["a", 0, 1, 1]], [WHOLE] * 17],
)
def test_views_that_are_none_are_refused_in_a_sentence(views):
    with pytest.raises(ModelError, match="of small has image_views that are no list of 1 to 16"):
        views_of({"image_views": views}, "small")


def test_without_a_list_the_whole_picture_is_the_view():
    assert views_of({}, "small") == (View(),)
