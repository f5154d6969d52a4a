"""A gallery of drawn pictures whose rankings a test can work out, and the app over it."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageDraw

from core.errors import ModelNotFoundError
from core.gallery.manifest import ModelRef, SourceRef
from core.gallery.writer import write_gallery
from core.models.profiles import Models, Profile
from core.models.spec import ModelSpec
from core.records import Caption, CaptionPooling, ImageRecord
from core.ui.galleries.shelf import Shelf
from core.uploads.registry import Uploads
from tests.core import planted
from tests.e2e.running_app import free_port

if TYPE_CHECKING:
    import gradio as gr

DIM = 64
READER = ModelRef(name="drawn", source="package:rapidocr", revision="1")
HOSTILE_CAPTION = '<img src=x onerror="window.pwned=1"> <b>bold</b> & "quoted" {{value}} ${1+1}'
LONG_CAPTION = "a very long caption about a lighthouse " + "that goes on and on " * 12


@dataclass(frozen=True)
class Planted:
    """One picture: what its caption says, what CLIP sees in it, and its shape."""

    caption: str
    seen: str
    size: tuple[int, int] = (320, 240)
    flags: tuple[str, ...] = ()
    confidence: float | None = None
    license: str | None = None
    source_url: str | None = None
    more: tuple[Caption, ...] = ()
    text: str = ""


PICTURES = (
    Planted("a brown dog runs on the beach", "dog beach sand", confidence=0.625),
    Planted("a white dog sleeps", "cat sofa", (240, 320)),
    Planted("a dog jumps for a frisbee", "dog frisbee snow", license="CC BY 2.0",
            source_url="https://example.org/photo/3"),
    Planted("two children play on the beach", "children beach ball"),
    Planted("a red bus in the street", "bus street", (320, 60)),
    Planted("a green train", "train bus station", (50, 320)),
    Planted("a cat on a sofa", "cat sofa home", flags=("retried", "repetition")),
    Planted(HOSTILE_CAPTION, "hostile markup", source_url="javascript:alert(1)"),
    Planted(LONG_CAPTION, "lighthouse sea"),
    Planted("", "moon night", flags=("empty",)),
    Planted("ein Hund am Strand — 犬 🐕", "dog beach"),
    Planted("a boat on the sea", "boat sea lighthouse"),
)  # fmt: skip


class WordsEncoder:
    """Embeds a text as the sum of one random vector for each word: shared words, high scores."""

    def __init__(self, spec: ModelSpec, fails_on: str = "") -> None:
        self.spec = spec
        self._fails_on = fails_on

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        if self._fails_on and any(self._fails_on in text for text in texts):
            raise ModelNotFoundError(self.spec.name, "Install the <packages> of requirements.txt.")
        if any("kaboom" in text for text in texts):
            raise RuntimeError("a bug with a secret in its message")
        return np.stack([self._embed(text) for text in texts])

    def encode_image(self, images: Sequence[Image.Image]) -> np.ndarray:
        raise AssertionError("a text search must not embed images")

    def _embed(self, text: str) -> np.ndarray:
        words = text.lower().split() or ["nothing"]
        vectors = [
            np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIM) for word in words
        ]
        total = np.sum(vectors, axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)


def image_id(row: int) -> str:
    return _sha256(row)[:16]


def _sha256(row: int) -> str:
    return hashlib.sha256(f"planted {row}".encode()).hexdigest()


def planted_profile(folder: Path) -> Profile:
    return planted.profile(folder / "models", caption_dim=DIM, clip_dim=DIM)


def write_planted_gallery(
    folder: Path,
    profile: Profile,
    pictures: Sequence[Planted] = PICTURES,
    name: str = "planted",
    caption_pooling: CaptionPooling = "mean",
    source: str = "drawn",
) -> Path:
    folder.mkdir(parents=True)
    records = []
    for row, picture in enumerate(pictures):
        records.append(
            ImageRecord(
                id=image_id(row),
                file_name=f"picture-{row}.jpg",
                sha256=_sha256(row),
                width=picture.size[0] * 2,
                height=picture.size[1] * 2,
                caption=picture.caption,
                caption_flags=picture.flags,
                confidence=picture.confidence,
                license=picture.license,
                source_url=picture.source_url,
                more_captions=picture.more,
                text_in_picture=picture.text,
                text_confidence=0.9 if picture.text else None,
            )
        )
    encoder = WordsEncoder(profile.sentence)
    write_gallery(
        folder,
        name=name,
        records=records,
        caption_embeddings=encoder.encode_text(
            [caption.text for record in records for caption in record.captions]
        ),
        clip_embeddings=encoder.encode_text([picture.seen for picture in pictures]),
        copies=_Drawn(pictures),
        profile=profile,
        source=SourceRef(kind="folder", id=source),
        captions_per_image=max(len(record.captions) for record in records),
        caption_pooling=caption_pooling,
        text_reader=READER if any(picture.text for picture in pictures) else None,
        created_at=planted.CREATED_AT,
    )
    return folder


class _Drawn:
    """Thumbnails, and large copies of all but the first picture."""

    def __init__(self, pictures: Sequence[Planted]) -> None:
        self._sizes = {image_id(row): picture.size for row, picture in enumerate(pictures)}

    def thumbnail(self, image_id: str) -> bytes:
        return self._draw(image_id, 1)

    def large(self, image_id: str) -> bytes | None:
        return self._draw(image_id, 2) if list(self._sizes).index(image_id) else None

    def _draw(self, image_id: str, scale: int) -> bytes:
        width, height = self._sizes[image_id]
        return drawn(list(self._sizes).index(image_id), (scale * width, scale * height))


def drawn(row: int, size: tuple[int, int] = (320, 240)) -> bytes:
    """Return the picture of a row."""
    image = Image.new("RGB", size, (40 + row * 17 % 200, 90 + row * 53 % 150, 120))
    ImageDraw.Draw(image).ellipse((4, 4, size[0] - 4, size[1] - 4), outline="white", width=6)
    file = io.BytesIO()
    image.save(file, "WEBP")
    return file.getvalue()


def planted_shelf(
    folder: Path,
    galleries: Sequence[tuple[str, int]] = (("planted", 12),),
    absent: Sequence[str] = (),
) -> Shelf:
    """Galleries of the first pictures of PICTURES, by name and count, and some that are not there.

    The CLIP encoder fails on "unplugged", both fail with a bug on "kaboom".
    """
    profile = planted_profile(folder)
    folders = [
        write_planted_gallery(folder / f"gallery-{place}", profile, PICTURES[:count], name)
        for place, (name, count) in enumerate(galleries)
    ]
    return shelf_of([*folders, *(folder / name for name in absent)], profile)


def shelf_of(folders: Sequence[Path], profile: Profile) -> Shelf:
    """Serve planted galleries with planted encoders."""
    return Shelf.open(folders, profile, planted_models(profile), max_query_chars=1000)


def planted_models(profile: Profile) -> Models:
    """Return encoders that see nothing but words; the CLIP lens fails on "unplugged"."""
    return Models(
        profile,
        sentence=WordsEncoder(profile.sentence),
        clip=WordsEncoder(profile.clip, fails_on="unplugged"),
    )


@contextmanager
def launched(shelf: Shelf, uploads: Uploads | None = None, **options: Any) -> Iterator[gr.Blocks]:
    """Run the app on a free port; what it changes in the environment is put back after it.

    Gradio does not find a port by itself: once another process took its first choice, its MCP
    server cannot be started again on a second one.
    """
    from core.ui.launch import launch

    port = free_port()
    with patch.dict(os.environ):
        page = launch(shelf, host="127.0.0.1", port=port, block=False, uploads=uploads, **options)
        try:
            yield page
        finally:
            page.close(verbose=False)
            if uploads is not None:
                uploads.close()


@contextmanager
def serving(shelf: Shelf, uploads: Uploads | None = None) -> Iterator[str]:
    """Serve a shelf, and uploads if there are any; give the address."""
    with launched(shelf, uploads) as page:
        yield page.local_url.rstrip("/")
