"""The kinds of query that are written for a gallery's pictures, and what counts as right."""

from __future__ import annotations

from typing import Literal

KindName = Literal[
    "negation", "count", "roles", "colour", "small", "text", "abstract", "style", "rare"
]
"""What queries that were written for a gallery's pictures are about; ``roles`` is who does what to
whom, ``text`` is what can be read in the picture."""

KIND_NAMES: dict[KindName, str] = {
    "negation": "not and without",
    "count": "a number of things",
    "roles": "who does what to whom",
    "colour": "the colour of which thing",
    "small": "small things",
    "text": "writing in the picture",
    "abstract": "feelings and ideas",
    "style": "the style of the picture",
    "rare": "rare things",
}

KindTest = Literal["first_five", "two_pictures", "two_texts"]

TEST_NAMES: dict[KindTest, str] = {
    "first_five": "a right picture is among the first five",
    "two_pictures": "of two pictures alike but for this, the right one comes first",
    "two_texts": "a true sentence scores above the same words in another order",
}
