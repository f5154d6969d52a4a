"""A planted gallery and a service over it."""

from __future__ import annotations

import pytest
from safetensors.numpy import save_file

from core.gallery.reader import Gallery
from core.models.clip import hubs
from core.models.locate import revision_of
from core.models.profiles import Models
from core.search.service import SearchService
from tests.core.planted import PlantedEncoder, unit_rows

QUERIES = ("a dog", "two dogs", "un café", "🐕", "собака бежит", "犬", "!?")
RED = (255, 0, 0)


def planted_texts(dim, seed):
    return dict(zip(QUERIES, unit_rows(len(QUERIES), dim, seed), strict=True))


@pytest.fixture
def sentence(planted_original):
    return PlantedEncoder(planted_original.profile.sentence, planted_texts(8, seed=11))


@pytest.fixture
def clip(planted_original):
    red = unit_rows(1, 6, seed=13)[0]
    spec = planted_original.profile.clip
    return PlantedEncoder(spec, planted_texts(6, seed=12), {RED: red})


@pytest.fixture
def gallery(planted_original):
    return Gallery.open(planted_original.folder, planted_original.profile)


@pytest.fixture
def bank(tmp_path, monkeypatch, planted_original):
    """A bank of 50 texts for the planted CLIP model."""
    rows = unit_rows(50, 6, seed=14)
    path = tmp_path / "hubs.safetensors"
    save_file({revision_of(planted_original.profile.clip): rows}, path)
    monkeypatch.setattr(hubs, "BANK_FILE", path)
    return rows


@pytest.fixture
def service(gallery, planted_original, sentence, clip):
    return SearchService(gallery, Models(planted_original.profile, sentence=sentence, clip=clip))


def ids(gallery):
    return [record.id for record in gallery.records]


class CountingGallery:
    """A gallery that counts the searches of its indexes."""

    def __init__(self, gallery):
        self._gallery = gallery
        self.searches = []

    def __getattr__(self, name):
        return getattr(self._gallery, name)

    def index(self, lens, kind):
        self.searches.append((lens, kind))
        return self._gallery.index(lens, kind)
