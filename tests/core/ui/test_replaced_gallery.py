"""``build --overwrite`` under a running app: one build at a time, and soon the new one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from core.ui.galleries.shelf import Shelf
from tests.planted_app import (
    PICTURES,
    image_id,
    planted_profile,
    serving,
    shelf_of,
    write_planted_gallery,
)

QUERY = "a brown dog runs on the beach"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_planted_gallery(tmp_path / "gallery", planted_profile(tmp_path))


@pytest.fixture
def shelf(tmp_path, folder) -> Shelf:
    return shelf_of([folder], planted_profile(tmp_path))


def overwrite(folder: Path, profile, rows) -> None:
    """Do what the last step of a build does."""
    new, old = folder.with_name("new"), folder.with_name("old")
    write_planted_gallery(new, profile, [PICTURES[row] for row in rows], name="another name")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def captions(shelf: Shelf) -> list[str]:
    entry = shelf.entry("planted")
    hits = entry.service.by_text(QUERY, 3).hits
    return [entry.gallery.record(hit.id).caption for hit in hits]


def test_a_new_build_is_served_soon_and_under_the_same_name(shelf, folder):
    before = captions(shelf)
    assert before[0] == QUERY
    assert not shelf.refresh()
    overwrite(folder, shelf.profile, range(3, 9))
    assert captions(shelf) == before
    assert shelf.refresh()
    assert not shelf.refresh()
    assert len(shelf.entry("planted").gallery) == 6
    assert captions(shelf) != before
    assert (shelf.names, shelf.entries[0].slug) == (["planted"], "planted")


def test_a_new_build_that_cannot_be_served_is_said_once(shelf, folder, tmp_path, caplog):
    before = captions(shelf)
    overwrite(folder, shelf.profile, range(4))
    (folder / "clip.npy").write_bytes(b"")
    for _ in range(3):
        assert not shelf.refresh()
    assert captions(shelf) == before
    assert len([line for line in caplog.messages if "the old one stays" in line]) == 1
    shutil.rmtree(folder)
    assert not shelf.refresh()
    write_planted_gallery(folder, shelf.profile, PICTURES[:5])
    assert shelf.refresh()
    assert len(shelf.entry().gallery) == 5


def test_visitors_meet_one_build_at_a_time(shelf, folder):
    """Searches and thumbnails over the wire while the gallery is replaced again and again."""
    stop = Event()
    orders = [list(range(12)), list(range(11, -1, -1)), list(range(12))]

    def visit(address: str) -> int:
        seen = 0
        with httpx.Client(base_url=address, timeout=30) as client:
            while not stop.is_set() or not seen:
                entry = shelf.entry("planted")
                (hit,) = entry.service.by_text(QUERY, 1).hits
                assert entry.gallery.record(hit.id).caption == QUERY
                if entry.gallery.is_in_place():
                    assert client.get(entry.thumbnail_url(hit.id)).status_code in (200, 404)
                seen += 1
        return seen

    with serving(shelf) as address, ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit, address) for _ in range(4)]
        for order in orders:
            overwrite(folder, shelf.profile, order)
            assert shelf.refresh()
        stop.set()
        assert all(visit.result(timeout=60) for visit in visits)
        answer = httpx.get(f"{address}/{shelf.entry().thumbnail_url(image_id(0))}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")


def test_a_page_that_is_opened_later_begins_with_the_new_build(shelf, folder):
    with serving(shelf) as address:
        assert PICTURES[3].caption in httpx.get(f"{address}/config").text
        overwrite(folder, shelf.profile, [0])
        assert shelf.refresh()
        page = httpx.get(f"{address}/config").text
        assert PICTURES[0].caption in page
        assert PICTURES[3].caption not in page
