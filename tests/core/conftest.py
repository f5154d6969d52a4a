"""A small gallery on disk, with models that are folders of a few bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from core.manifest import Manifest
from core.profiles import Profile
from tests.core.planted import gallery_on_disk, profile, unit_rows


@dataclass(frozen=True)
class Planted:
    """A gallery of 60 pictures and all that a test needs to damage or to search it."""

    folder: Path
    profile: Profile
    manifest: Manifest
    captions: np.ndarray
    clip: np.ndarray


@pytest.fixture
def planted(tmp_path) -> Planted:
    models = profile(tmp_path / "models")
    captions, clip = unit_rows(60, 8), unit_rows(60, 6, seed=1)
    manifest = gallery_on_disk(tmp_path / "planted", models, captions, clip)
    return Planted(tmp_path / "planted", models, manifest, captions, clip)
