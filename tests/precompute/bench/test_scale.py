"""A gallery that is multiplied: other names, and thumbnails that are still pictures."""

from __future__ import annotations

import io

from PIL import Image

from core.gallery.reader import Gallery
from precompute.bench.shared.multiplied import multiplied
from tests.core.planted import gallery_on_disk, profile, records, unit_rows


def test_each_picture_has_the_caption_and_the_thumbnail_of_one(tmp_path):
    models = profile(tmp_path / "models")
    gallery_on_disk(tmp_path / "small", models, unit_rows(60, 8), unit_rows(60, 6, seed=1))
    small = Gallery.open(tmp_path / "small", models)
    multiplied(small, 150, tmp_path / "large", tmp_path, None, lambda words: None)
    large = Gallery.open(tmp_path / "large", models, verify_up_to=0)
    rows = {record.caption: row for row, record in enumerate(records(60))}
    seen = set()
    for record in large.records:
        content = large.read_thumbnail(record.id)
        picture = Image.open(io.BytesIO(content))
        assert picture.getpixel((0, 0)) == (rows[record.caption], 0, 0)
        seen.add(content)
    assert len(seen) == len(large) == 150
