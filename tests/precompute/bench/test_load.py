"""The visitors of the load script against an app on planted models."""

from __future__ import annotations

import io
import threading

import pytest
from PIL import Image

from precompute.bench.load import photos
from precompute.bench.shared.running_app import AppError
from precompute.bench.shared.visitors import UploadVisitor, search_until
from tests.planted_app import planted_shelf, serving
from tests.tiny_uploads import colour_uploads, colours, picture_bytes

QUERIES = ("dog beach", "a red bus", "cat sofa", "a boat on the sea")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    uploads = colour_uploads(folder, max_upload_files=30)
    shelf = planted_shelf(folder)
    with serving(shelf, uploads) as address:
        yield address, shelf.entry().service, uploads


def right(service, query: str) -> dict:
    return {
        lens: [(hit.id, hit.score) for hit in service.by_text(query, k=12, lens=lens).hits]
        for lens in ("captions", "clip")
    }


def test_every_answer_is_checked_against_the_right_one(served):
    address, service, _ = served
    expected = {query: right(service, query) for query in QUERIES}
    done = search_until(address, QUERIES, expected, 0, threading.Event())
    assert (len(done.took_ms), done.failed, done.wrong) == (4, [], [])
    expected["cat sofa"]["clip"].reverse()
    done = search_until(address, QUERIES, expected, 0, threading.Event())
    assert done.wrong == ["cat sofa"]


def test_a_question_without_an_answer_is_counted(served):
    address, service, _ = served
    done = search_until(address, ["", "dog beach"], {"dog beach": right(service, "dog beach")}, 0,
                        threading.Event())  # fmt: skip
    assert len(done.failed) == 1
    assert len(done.took_ms) == 1


def test_a_visitor_stops_when_told(served):
    stop = threading.Event()
    stop.set()
    assert search_until(served[0], QUERIES, {}, 10, stop).took_ms == []


def test_an_upload_is_described_and_forgotten(served):
    address, _, uploads = served
    files = {f"{row}.png": picture_bytes(colour) for row, colour in enumerate(colours(25))}
    visitor = UploadVisitor(address)
    assert visitor.send(files) > 0
    done = visitor.describe()
    assert (done.pictures, done.own_found) == (25, True)
    assert done.places
    assert done.took_s > 0
    with pytest.raises(AppError, match="beyond the limit of 30 photos"):
        visitor.send({f"more {row}": bytes([row]) for row in range(6)})
    visitor.close()
    assert len(uploads) == 0


def test_the_photos_have_the_size_asked_for_and_differ(tmp_path):
    source = tmp_path / "photo.png"
    Image.effect_noise((80, 60), 90).save(source)
    made = photos([source], 3, (160, 120))
    assert len(set(made.values())) == 3
    for content in made.values():
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == ("JPEG", (160, 120))
