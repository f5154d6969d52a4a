"""The pictures that a gallery keeps for the large view."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from core.gallery.reader import Gallery
from core.models.profiles import Models
from core.ui.galleries.shelf import Shelf
from core.ui.parts.thumbnails import picture_routes
from precompute.build.pipeline import BuildOptions, build
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo


@pytest.fixture(scope="module")
def galleries(tiny, tmp_path_factory):
    """One of a wide photo and a small one with large copies, and one without."""
    folder = tmp_path_factory.mktemp("large")
    source = folder / "photos"
    source.mkdir()
    noise = np.random.default_rng(1).integers(0, 255, (12, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1600, 600)).save(source / "wide.jpg")
    (source / "small.png").write_bytes(noise_photo(1))
    models = Models(tiny, device="cpu")
    for name, most in (("with", 2), ("without", 1)):
        options = BuildOptions(
            SourceOptions(str(source)), folder / name, tiny, large_up_to=most, progress=False
        )
        build(options, models=models)
    return folder


def test_a_picture_larger_than_its_thumbnail_has_a_large_copy(galleries, tiny):
    gallery = Gallery.open(galleries / "with", tiny)
    by_name = {record.file_name: record.id for record in gallery.records}
    assert Image.open(io.BytesIO(gallery.read_large(by_name["wide.jpg"]))).size == (1280, 480)
    assert not gallery.has_large(by_name["small.png"])
    kept = datasets.load_from_disk(str(galleries / "with" / "large"))
    assert kept["id"][:] == [by_name["wide.jpg"]]
    assert kept[0]["image"].size == (1280, 480)


def test_a_source_with_more_pictures_keeps_none_and_embeds_the_same(galleries, tiny):
    gallery = Gallery.open(galleries / "without", tiny)
    assert not any(gallery.has_large(record.id) for record in gallery.records)
    assert not (galleries / "without" / "large").exists()
    for name in ("captions.npy", "clip.npy", "data-00000-of-00001.arrow"):
        kept, none = (galleries / folder / name for folder in ("with", "without"))
        assert kept.read_bytes() == none.read_bytes()


def test_the_route_serves_what_was_built_and_nothing_else(galleries, tiny):
    shelf = Shelf.open([galleries / "with"], tiny, Models(tiny), max_query_chars=1000)
    client = TestClient(Starlette(routes=picture_routes(shelf)))
    by_name = {record.file_name: record.id for record in shelf.entry().gallery.records}
    address = shelf.entry().large_url(by_name["wide.jpg"])
    answer = client.get(f"/{address}")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert shelf.entry().large_url(by_name["small.png"]) == ""
    assert client.get(f"/large/with/{by_name['small.png']}.webp").status_code == 404
    assert client.get("/large/with/..%2fmanifest.json").status_code == 404
    path = galleries / "with" / "large" / "data-00000-of-00001.arrow"
    built = path.read_bytes()
    at = built.index(b"WEBP") + 1000
    path.write_bytes(built[:at] + bytes([built[at] ^ 1]) + built[at + 1 :])
    assert client.get(f"/{address}").status_code == 404
    path.write_bytes(built)
