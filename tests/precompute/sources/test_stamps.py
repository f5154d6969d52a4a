from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core.errors import SourceError
from precompute.sources.open import open_source
from precompute.sources.stamps import write_stamps
from precompute.sources.types import SourceOptions

TEXT = "A tabby cat.\nfr.utf8=Un chat tigré.\npt_BR.utf8=Um gato.\nde.utf8=\nnonsense\n"


def photographic(size: tuple[int, int] = (90, 60)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    noise[..., 3] = 255
    noise[:10, :, 3] = 0
    return Image.fromarray(noise, "RGBA")


def drawn() -> Image.Image:
    image = Image.new("RGBA", (90, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((5, 5, 85, 55), fill="red")
    return image


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """The package's layout, in small."""
    root = tmp_path / "stamps"
    for name, image, text in (
        ("animals/cats/cat", photographic(), TEXT),
        ("animals/cats/cat_mirror", photographic(), TEXT),
        ("animals/cartoon/dog", photographic(), "A dog."),
        ("food/apple", drawn(), "An apple."),
        ("food/pear", photographic((40, 40)), "A pear that is too small."),
        ("food/plum", photographic(), ""),
        ("symbols/letter", photographic(), "A letter."),
        ("vehicles/bus", photographic((60, 90)), "A green bus."),
    ):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    (root / "vehicles/broken.png").write_bytes(b"no picture")
    (root / "vehicles/broken.txt").write_text("A car.")
    (root / "vehicles/silent.png").write_bytes((root / "vehicles/bus.png").read_bytes())
    return root


def test_photographic_stamps_become_photos_with_captions_in_their_languages(stamps, tmp_path):
    out = tmp_path / "photos"
    assert write_stamps(out, stamps) == 2
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["animals-cats-cat.png", "vehicles-bus.png"]
    assert rows[0]["captions"] == ["A tabby cat."]
    assert rows[0]["translations"] == {"fr": "Un chat tigré.", "pt_BR": "Um gato."}
    assert rows[0]["license"].startswith("GPL-2")
    with Image.open(out / "animals-cats-cat.png") as image:
        assert (image.mode, image.size) == ("RGB", (320, 320))
        assert image.getpixel((2, 2)) == image.getpixel((160, 80))  # the ground, also through it
        assert image.getpixel((160, 160)) != image.getpixel((2, 2))


def test_build_reads_them_with_the_captions_of_a_language(stamps, tmp_path):
    write_stamps(tmp_path / "photos", stamps)

    def references(column: str | None) -> list[tuple[str, ...]]:
        options = SourceOptions(str(tmp_path / "photos"), caption_column=column)
        return [row.references for row in open_source(options).read(0)]

    assert references(None) == [("A tabby cat.",), ("A green bus.",)]
    assert references("translations.fr") == [("Un chat tigré.",), ()]


def test_where_the_package_is_missing_it_is_said_how_to_get_it(tmp_path):
    with pytest.raises(SourceError, match="apt-get install tuxpaint-stamps-default"):
        write_stamps(tmp_path / "photos", tmp_path / "absent")


def test_what_is_in_the_way_is_kept(stamps, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").touch()
    with pytest.raises(SourceError, match="holds something"):
        write_stamps(tmp_path / "photos", stamps)
