from __future__ import annotations

import io

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from core.ui.parts.thumbnails import picture_routes
from tests.planted_app import image_id


@pytest.fixture(scope="module")
def client(shelf):
    return TestClient(Starlette(routes=picture_routes(shelf)))


def test_a_thumbnail_is_a_webp_that_may_be_kept_for_good(client):
    answer = client.get(f"/thumbnails/planted/{image_id(4)}.webp?v=abc")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert Image.open(io.BytesIO(answer.content)).size == (320, 60)


def test_a_picture_of_another_gallery_is_not_there(client):
    assert client.get(f"/thumbnails/planted/{image_id(7)}.webp").status_code == 200
    assert client.get(f"/thumbnails/three/{image_id(7)}.webp").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/thumbnails/planted/0000000000000000.webp",
        "/thumbnails/planted/../manifest.json",
        "/thumbnails/planted/..%2f..%2fmanifest.json.webp",
        "/thumbnails/planted/%2e%2e%2fclip.npy",
        "/thumbnails/nowhere/" + image_id(0) + ".webp",
        "/thumbnails/..%2fplanted/" + image_id(0) + ".webp",
        f"/thumbnails/planted/{image_id(0)}%00.webp",
        f"/thumbnails/planted/{image_id(0).upper()}X.webp",
    ],
)
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code == 404


def test_only_reading_is_allowed(client):
    path = f"/thumbnails/planted/{image_id(0)}.webp"
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405
