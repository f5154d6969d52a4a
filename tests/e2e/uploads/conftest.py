"""The tab of visitors' photos in a browser, and the photos that are dropped on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.visiting import Visit
from tests.planted_app import launched, planted_shelf
from tests.tiny_uploads import colour_uploads, picture_bytes

DESKTOP = {"width": 1280, "height": 900}
# Gradio's own page says so when the stream of an upload's progress ends.
GRADIOS_OWN = "Method not implemented."
HOSTILE_NAME = '<img src=x onerror="window.pwned=1">.png'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    uploads = colour_uploads(folder, upload_closed_s=4, upload_queue_size=2)
    shelf = planted_shelf(folder)
    clip = shelf.entry().service.models.clip
    clip.encode_image = lambda images: clip.encode_text(["cat sofa"] * len(images))
    with pytest.MonkeyPatch.context() as environment, launched(shelf, uploads) as page:
        # Gradio notices a closed tab sooner than in 15 s.
        environment.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.5")
        yield page.local_url.rstrip("/"), uploads, page


@pytest.fixture
def uploads(served):
    served[1].captioner.gate.set()
    yield served[1]
    served[1].captioner.gate.set()


@pytest.fixture
def open_tab(new_page, served, uploads):
    visits: list[Visit] = []

    def open_page(**options) -> Visit:
        page = new_page(**{"viewport": DESKTOP, **options})
        page.set_default_timeout(20_000)
        visit = Visit(page, served[0])
        visit.page.get_by_role("tab", name="Your photos").click()
        visits.append(visit)
        return visit

    yield open_page
    for visit in visits:
        visit.page.close()
        assert [problem for problem in visit.problems if problem != GRADIOS_OWN] == []
        assert visit.elsewhere == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request) -> Path:
    """Twelve photos of coco_cc, a good one under a hostile name, and a text file."""
    photos = request.getfixturevalue("shared_data") / "coco_cc"
    target = tmp_path_factory.mktemp("photos")
    (target / "inner").mkdir()
    for number, photo in enumerate(sorted(photos.glob("*.jpg"))[:12]):
        shutil.copy(photo, target / "inner" if number % 2 else target)
    (target / HOSTILE_NAME).write_bytes(picture_bytes((8, 248, 8), size=(64, 48)))
    (target / "notes.txt").write_text("no photo")
    return target
