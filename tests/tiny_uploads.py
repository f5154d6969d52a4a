"""Fast stand-ins for the models of an upload, planted so that a test knows every answer."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.config import Settings
from core.models.profiles import Models, Profile
from core.models.spec import ModelSpec
from core.records import Caption
from core.uploads.registry import Uploads
from core.uploads.session import UploadSession

DIM = 12


def _unit(seed: str) -> np.ndarray:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    row = np.random.default_rng(number).normal(size=DIM)
    return (row / np.linalg.norm(row)).astype(np.float32)


def colour_name(image: Image.Image) -> str:
    """What the planted models see of a picture: the colour of its middle, in steps of 16."""
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))
    return f"colour {red // 16:x}{green // 16:x}{blue // 16:x}"


class ColourCaptioner:
    """Says the colour of a picture; waits at a gate, so that a test can act in between."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0
        self.at_work = threading.Semaphore(0)

    def caption(self, images: Sequence[Image.Image]) -> list[Caption]:
        self.calls += 1
        self.at_work.release()
        self.gate.wait(20)
        return [Caption(colour_name(image), confidence=0.5) for image in images]


class ColourEncoder:
    """Embeds a text, and a picture as the text that its captioner would write."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_unit(text) for text in texts])

    def encode_image(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([_unit(colour_name(image)) for image in images])


def colour_models(folder: Path) -> Models:
    """The planted models in the place of a profile's."""

    def spec(name: str, dim: int | None) -> ModelSpec:
        model = folder / name
        model.mkdir(parents=True, exist_ok=True)
        (model / "model.safetensors").write_bytes(name.encode())
        return ModelSpec(name, f"path:{model}", licence="none", dim=dim)

    profile = Profile("mini", spec("captioner", None), spec("sentence", DIM), spec("clip", DIM))
    return Models(
        profile,
        captioner=ColourCaptioner(profile.captioner),
        sentence=ColourEncoder(profile.sentence),
        clip=ColourEncoder(profile.clip),
    )


def colour_uploads(folder: Path, **settings: object) -> Uploads:
    """Uploads with planted models and the given settings."""
    values = {"upload_dir": folder / "uploads", "upload_batch_size": 4, **settings}
    models = colour_models(folder / "models")
    return Uploads(Settings(**values), models, models.captioner)


def picture_bytes(colour: tuple[int, int, int], size=(32, 24), kind="PNG", mode="RGB") -> bytes:
    """One picture of a single colour; PNG, so that its colour survives."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def colours(count: int) -> list[tuple[int, int, int]]:
    """Colours that the planted models tell apart, up to 4,096 of them."""
    return [
        (row % 16 * 16 + 8, row // 16 % 16 * 16 + 8, row // 256 * 16 + 8) for row in range(count)
    ]


def send(uploads: Uploads, session: UploadSession, files: dict[str, bytes]) -> list[bool]:
    taken = []
    for number, (name, content) in enumerate(files.items()):
        path = uploads.inbox / f"arrived-{number}"
        path.write_bytes(content)
        taken.append(session.receive(path, name))
    return taken


def describe(uploads: Uploads, session: UploadSession):
    return list(uploads.describe(session))[-1]


def photos(count: int, **options) -> dict[str, bytes]:
    return {
        f"photo {row}.png": picture_bytes(colour, **options)
        for row, colour in enumerate(colours(count))
    }


def reasons(session: UploadSession) -> dict[str, str]:
    return {notice.file_name: notice.reason for notice in session.notices}


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
