"""Tiny models, made once for all tests of the jobs, and folders of awkward files."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from core.models.profiles import Profile
from precompute.__main__ import app
from tests.precompute.tiny_profile import make_tiny_profile


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models_folder) -> Profile:
    return make_tiny_profile(models_folder)


def asked(*arguments: object) -> subprocess.CompletedProcess:
    """Run a command in this process, without the seconds that starting one takes."""
    words = [str(argument) for argument in arguments]
    done = CliRunner().invoke(app, words)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def noise_photo(seed: int, width: int = 48, height: int = 40, kind: str = "PNG") -> bytes:
    """A picture unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Eight good pictures, two copies, one animation, and seven files that cannot be used."""
    folder = tmp_path / "mixed photos"
    (folder / "in" / "deep").mkdir(parents=True)
    for i in range(6):
        (folder / f"photo {i}.png").write_bytes(noise_photo(i))
    (folder / "in" / "deep" / "naïve ☂.jpg").write_bytes(noise_photo(6, kind="JPEG"))
    (folder / "in" / "copy of 0.png").write_bytes(noise_photo(0))
    (folder / "zz copy of 3.jpg").write_bytes(noise_photo(3))
    (folder / "really a png.txt").write_bytes(noise_photo(7))
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "bad-empty.jpg").write_bytes(b"")
    (folder / "bad-text.jpg").write_text("Dear diary")
    (folder / "bad-cut.png").write_bytes(noise_photo(9, 400, 400)[:200])
    (folder / "bad-drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "bad-huge.png").write_bytes(_bomb())
    (folder / "notes.md").write_text("# holiday")
    (folder / "bad-link.jpg").symlink_to(folder / "absent.jpg")
    (folder / ".hidden.png").write_bytes(noise_photo(11))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumb.png").write_bytes(noise_photo(12))
    return folder


def _bomb() -> bytes:
    from tests.core.images.test_hostile_images import png_header

    return png_header(50_000, 50_000)
