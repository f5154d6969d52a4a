"""A small gallery on disk, with models that are folders of a few bytes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from core.gallery.manifest import Manifest
from core.models.profiles import Profile
from core.uploads.registry import Uploads
from tests.core.planted import gallery_on_disk, profile, unit_rows
from tests.tiny_uploads import colour_uploads


@dataclass(frozen=True)
class Planted:
    """A gallery of 60 pictures and all that a test needs to damage or to search it."""

    folder: Path
    profile: Profile
    manifest: Manifest
    captions: np.ndarray
    clip: np.ndarray


@pytest.fixture(scope="session")
def planted_original(tmp_path_factory) -> Planted:
    """Built once; a test that changes nothing on disk may use it as it is."""
    folder = tmp_path_factory.mktemp("galleries") / "planted"
    models = profile(folder.parent / "models")
    captions, clip = unit_rows(60, 8), unit_rows(60, 6, seed=1)
    manifest = gallery_on_disk(folder, models, captions, clip)
    return Planted(folder, models, manifest, captions, clip)


@pytest.fixture
def planted(planted_original, tmp_path) -> Planted:
    """A copy that a test may damage."""
    shutil.copytree(planted_original.folder, tmp_path / "planted")
    return replace(planted_original, folder=tmp_path / "planted")


@pytest.fixture
def make_uploads(tmp_path):
    """Make uploads of planted models with some settings; they are closed after the test."""
    made: list[Uploads] = []

    def start(**values: object) -> Uploads:
        made.append(colour_uploads(tmp_path, **values))
        return made[-1]

    yield start
    for uploads in made:
        uploads.close()
