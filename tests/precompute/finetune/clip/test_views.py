"""Views of training images, and reading them ahead."""

from __future__ import annotations

import torch
from PIL import Image

from precompute.finetune.clip.preparation import read_pixels, view_of
from precompute.sources.pairs import load_pairs
from tests.precompute.finetune.clip.test_contrastive import imagefolder


def _gradient():
    return Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]
    )


def test_views_are_the_image_and_crops_that_are_fixed():
    image = _gradient()
    assert view_of(image, 0, [0]) is image
    crops = [view_of(image, 2, [5, 2, row]) for row in range(20)]
    assert [c.tobytes() for c in crops] == [
        view_of(image, 2, [5, 2, row]).tobytes() for row in range(20)
    ]
    shares = [crop.width * crop.height / 256**2 for crop in crops]
    assert len(set(shares)) == 20
    assert 0.49 < min(shares) < max(shares) <= 1


def _to_tensor(image):
    size = image.resize((8, 8), Image.Resampling.BOX)
    return (
        torch.frombuffer(bytearray(size.tobytes()), dtype=torch.uint8)
        .view(8, 8, 3)
        .permute(2, 0, 1)
        / 255.0
    )


def test_pixels_come_in_order_and_a_view_of_each_is_fixed(tmp_path):
    pairs = load_pairs(imagefolder(tmp_path))
    batches = [([0, 11], [0, 0]), ([1], [1]), ([11, 0], [2, 0])]
    found = list(read_pixels(pairs, _to_tensor, batches, seed=0, workers=2))
    again = list(read_pixels(pairs, _to_tensor, batches, seed=0, workers=1))
    assert [len(batch) for batch in found] == [2, 1, 2]
    torch.testing.assert_close(found[0][1], _to_tensor(pairs.image(11)), rtol=0, atol=0)
    torch.testing.assert_close(found[2][1], found[0][0], rtol=0, atol=0)
    for one, other in zip(found, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
