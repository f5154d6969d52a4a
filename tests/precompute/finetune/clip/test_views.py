"""Views of training images, and reading them ahead."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from precompute.finetune.clip.preparation import cropped, read_pixels
from precompute.sources.pairs import load_pairs


def _gradient():
    return Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]
    )


def test_crops_are_fixed_by_their_seed():
    image = _gradient()
    crops = [cropped(image, [5, row]) for row in range(20)]
    assert [c.tobytes() for c in crops] == [cropped(image, [5, row]).tobytes() for row in range(20)]
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


@pytest.mark.parametrize("seed", [None, 0])
def test_pixels_come_in_order_whole_or_in_a_view_that_is_fixed(tmp_path, seed):
    for number in range(3):
        _gradient().rotate(90 * number).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"file_name": f"{n}.png", "caption": "grey"}) for n in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    pairs = load_pairs(str(tmp_path))
    batches = [[0, 2], [1], [2, 0]]
    found = list(read_pixels(pairs, _to_tensor, batches, seed, workers=2))
    again = list(read_pixels(pairs, _to_tensor, batches, seed, workers=1))
    assert [len(batch) for batch in found] == [2, 1, 2]
    assert torch.equal(found[0][1], _to_tensor(pairs.image(2))) is (seed is None)
    torch.testing.assert_close(found[2][1], found[0][0], rtol=0, atol=0)
    for one, other in zip(found, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    (other,) = read_pixels(pairs, _to_tensor, [[0, 2]], 1)
    assert not torch.equal(other, found[0])
