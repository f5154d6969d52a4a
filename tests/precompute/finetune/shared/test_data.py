"""Images with captions, their views, and unlabelled folders."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from core.errors import ImageError, SourceError
from precompute.finetune.shared.data import load_pairs
from precompute.finetune.shared.images import FolderImages, Joined, PixelReader, view_of
from tests.precompute.finetune.clip.test_contrastive import COLOURS, imagefolder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load_pairs(imagefolder(tmp_path_factory.mktemp("colours")))


def test_pairs_come_in_order_with_all_their_captions(pairs):
    assert len(pairs) == 12
    image, captions = pairs[7]
    assert captions == ("a pink wall", "something painted pink")
    assert image.size == (55, 40)
    assert image.getpixel((5, 5)) == COLOURS["pink"]
    assert pairs.file_name(7) == "07-pink.png"


def test_the_same_rows_have_the_same_fingerprint_however_their_path_is_spelled(tmp_path):
    (tmp_path / "inner").mkdir()
    source = imagefolder(tmp_path / "photos")
    detour = str(tmp_path / "inner" / ".." / "photos")
    assert load_pairs(source).fingerprint == load_pairs(detour).fingerprint
    other = imagefolder(tmp_path / "other", captions=["a wall"])
    assert load_pairs(source).fingerprint != load_pairs(other).fingerprint


def test_a_limit_keeps_the_first_rows(tmp_path):
    source = imagefolder(tmp_path)
    assert [c[0] for c in load_pairs(source, limit=2).captions] == ["a red wall", "a green wall"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "test"}, "no split 'test', only train"),
        ({"caption_column": "title"}, "no column 'title'; it has: image, captions"),
        ({"image_column": "photo"}, "no column 'photo'; it has: image, captions"),
    ],
)
def test_a_missing_split_or_column_is_named(tmp_path, options, sentence):
    with pytest.raises(SourceError, match=sentence):
        load_pairs(imagefolder(tmp_path), **options)


def test_a_source_without_captions_is_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no captions"):
        load_pairs(imagefolder(tmp_path, captions=[" "]))


def _gradient():
    return Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]
    )


def test_views_are_the_image_its_mirror_and_crops_that_are_fixed():
    image = _gradient()
    assert view_of(image, 0, [0]) is image
    assert view_of(view_of(image, 1, [0]), 1, [0]).tobytes() == image.tobytes()
    crops = [view_of(image, 2, [5, 2, row]) for row in range(20)]
    assert [c.tobytes() for c in crops] == [
        view_of(image, 2, [5, 2, row]).tobytes() for row in range(20)
    ]
    shares = [crop.width * crop.height / 256**2 for crop in crops]
    assert len(set(shares)) == 20
    assert 0.49 < min(shares) < max(shares) <= 1


def test_an_unlabelled_folder_is_read_with_its_sub_folders(tmp_path):
    (tmp_path / "b").mkdir()
    _gradient().save(tmp_path / "b" / "two.png")
    _gradient().resize((20, 30)).save(tmp_path / "one.png")
    images = FolderImages.read(tmp_path)
    assert images.names == ("b/two.png", "one.png")
    assert images.image(1).size == (20, 30)
    before = images.fingerprint
    (tmp_path / "z.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="z.png"):
        FolderImages.read(tmp_path).image(2)
    assert FolderImages.read(tmp_path).fingerprint != before
    with pytest.raises(SourceError, match="no folder"):
        FolderImages.read(tmp_path / "nowhere")


def _to_tensor(image):
    size = image.resize((8, 8), Image.Resampling.BOX)
    return (
        torch.frombuffer(bytearray(size.tobytes()), dtype=torch.uint8)
        .view(8, 8, 3)
        .permute(2, 0, 1)
        / 255.0
    )


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_pixels_come_in_order_and_are_decoded_once_where_they_fit(pairs, tmp_path, kept_bytes):
    _gradient().save(tmp_path / "large.png")
    images = Joined((pairs, FolderImages.read(tmp_path)))
    decoded = []

    class Counting(Joined):
        def image(self, row):
            decoded.append(row)
            return super().image(row)

    counting = Counting(**{f.name: getattr(images, f.name) for f in dataclasses.fields(images)})
    reader = PixelReader(counting, _to_tensor, 8, seed=0, workers=2, kept_bytes=kept_bytes)
    batches = [([0, 12], [0, 0]), ([1], [1]), ([12, 0], [2, 0])]
    found = list(reader(batches)) + list(reader(batches[:1]))
    assert [len(batch) for batch in found] == [2, 1, 2, 2]
    assert images.file_name(12) == "large.png"
    torch.testing.assert_close(found[0][0], _to_tensor(pairs.image(0)), rtol=0, atol=0.01)
    torch.testing.assert_close(found[0][1], _to_tensor(_gradient()), rtol=0, atol=0.06)
    torch.testing.assert_close(found[2][1], found[0][0], rtol=0, atol=0)
    torch.testing.assert_close(found[3], found[0], rtol=0, atol=0)
    assert len(decoded) == (7 if kept_bytes == 0 else 3)
