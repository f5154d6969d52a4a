"""Do the captions of the default gallery name what its photos show?

The accepted nouns were written by looking at the photos, before any caption was generated.
"""

from __future__ import annotations

import re

from core.config import get_settings
from core.images.decode import DecodeLimits, decode
from core.models.profiles import PROFILES, Models
from precompute.build.sample_gallery import packaged_photos

FLOOR = 0.84
"""A little under what the shipped captioner reaches."""


def names_one(caption: str, nouns: tuple[str, ...]) -> bool:
    """Tell whether a caption has one of the nouns, be it in the plural."""
    words = re.findall(r"[a-z]+", caption.lower())
    return any({word, word.removesuffix("s"), word.removesuffix("es")} & {*nouns} for word in words)


def test_most_captions_name_the_main_thing_of_their_photo(capsys):
    photos = [photo for photo in packaged_photos() if photo.find() is not None]
    limits = DecodeLimits.of(get_settings())
    images = [decode(photo.find(), photo.file_name, limits).image for photo in photos]
    captioner = Models(PROFILES["mini"]).captioner
    captions = [
        caption.text
        for start in range(0, len(images), 8)
        for caption in captioner.caption(images[start : start + 8])
    ]
    wrong = [
        f"{photo.name}: {caption}"
        for photo, caption in zip(photos, captions, strict=True)
        if not names_one(caption, photo.nouns)
    ]
    share = 1 - len(wrong) / len(photos)
    with capsys.disabled():
        named = len(photos) - len(wrong)
        print(f"\n{named} of {len(photos)} captions name an accepted noun:", *wrong, sep="\n")  # noqa: T201
    assert share >= FLOOR
