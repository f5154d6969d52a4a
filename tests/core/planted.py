"""Planted vectors: galleries on disk and encoders whose embeddings a test has chosen."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from core.gallery.manifest import Manifest, SourceRef, sealed
from core.gallery.writer import write_gallery
from core.models.profiles import Profile
from core.models.spec import ModelSpec
from core.records import ImageRecord, Lens

CREATED_AT = datetime(2026, 11, 1, 12, 0, tzinfo=timezone.utc)


def unit_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def image_ids(count: int) -> tuple[str, ...]:
    return tuple(_sha256(row)[:16] for row in range(count))


def _sha256(row: int) -> str:
    return hashlib.sha256(f"picture {row}".encode()).hexdigest()


def records(count: int) -> list[ImageRecord]:
    return [
        ImageRecord(
            id=_sha256(row)[:16],
            file_name=f"folder/picture {row}.jpg",
            sha256=_sha256(row),
            width=640 + row,
            height=480,
            caption=f"caption {row} — “ünïcode” 🐕",
            caption_flags=("retried",) if row % 2 else (),
            confidence=row / 10 if row % 3 else None,
            references=(f"first reference {row}", "second") if row % 2 else (),
            license="CC BY 4.0" if row % 2 else None,
            source_url=f"https://example.org/{row}" if row % 3 else None,
        )
        for row in range(count)
    ]


def profile(folder: Path, caption_dim: int = 8, clip_dim: int = 6) -> Profile:
    """A profile whose models are folders with a few bytes of weights each, so have revisions."""

    def spec(name: str, dim: int | None) -> ModelSpec:
        model = folder / name
        model.mkdir(parents=True, exist_ok=True)
        (model / "model.safetensors").write_bytes(f"weights of {name}".encode())
        return ModelSpec(
            name=name, source=f"path:{model}", licence="MIT", dim=dim, score_range=(0.0, 0.8)
        )

    return Profile(
        name="planted",
        captioner=spec("captioner", None),
        sentence=spec("sentence", caption_dim),
        clip=spec("clip", clip_dim),
    )


class PlantedCopies:
    """A thumbnail of its row's colour for each picture, and no large copies."""

    def __init__(self, pictures: Sequence[ImageRecord]) -> None:
        self.rows = {record.id: row for row, record in enumerate(pictures)}

    def thumbnail(self, image_id: str) -> bytes:
        if image_id not in self.rows:
            raise FileNotFoundError(image_id)
        row, file = self.rows[image_id], io.BytesIO()
        Image.new("RGB", (8, 8), (row % 256, row // 256, 0)).save(file, "WEBP", lossless=True)
        return file.getvalue()

    def large(self, image_id: str) -> bytes | None:
        return None


def gallery_on_disk(
    folder: Path,
    models: Profile,
    captions: np.ndarray,
    clip: np.ndarray,
    name: str = "planted",
    pictures: Sequence[ImageRecord] = (),
) -> Manifest:
    pictures = pictures or records(len(captions))
    folder.mkdir(parents=True)
    return write_gallery(
        folder,
        name=name,
        records=pictures,
        caption_embeddings=captions,
        clip_embeddings=clip,
        copies=PlantedCopies(pictures),
        profile=models,
        source=SourceRef(kind="folder", id="photos"),
        created_at=CREATED_AT,
    )


def forge_manifest(folder: Path, **changes: object) -> None:
    """Change fields of a gallery's manifest as somebody would who knows how it is made."""
    path = folder / "manifest.json"
    content, _ = sealed({**json.loads(path.read_text()), **changes})
    path.write_bytes(content)


class PlantedEncoder:
    """Embeds the texts and images that it was told about, and counts its batches."""

    def __init__(
        self,
        spec: ModelSpec,
        texts: Mapping[str, np.ndarray],
        colours: Mapping[tuple[int, int, int], np.ndarray] | None = None,
    ) -> None:
        self.spec = spec
        self.texts = texts
        self._colours = colours or {}
        self.encoded: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        return np.stack([self.texts[text] for text in texts]).astype(np.float32)

    def encode_image(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([self._colours[image.getpixel((0, 0))] for image in images])


def brute_force(
    embeddings: np.ndarray, ids: Sequence[str], query: np.ndarray, k: int
) -> list[tuple[str, float]]:
    """The ranking by numpy: products in double, rounded to float32, ties in row order."""
    scores = (embeddings.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((np.arange(len(ids)), -scores))[:k]
    return [(ids[row], float(scores[row])) for row in order]


Lenses = Mapping[Lens, np.ndarray]
