"""An upload on a disk that fills up: nothing is lost, and the visitor is told why."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.errors import UploadError
from core.uploads.exports import write_gallery_zip
from tests.tiny_uploads import describe, files_below, photos, reasons, send


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond ten bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def waiting(make_uploads):
    uploads = make_uploads(max_upload_files=6)
    session = uploads.start()
    send(uploads, session, photos(6))
    return uploads, session


def test_photos_wait_when_their_thumbnails_cannot_be_stored(waiting):
    uploads, session = waiting
    with full_disk(), pytest.raises(UploadError, match="could not be stored on the server"):
        describe(uploads, session)
    assert len(session.waiting) == 6
    assert files_below(session.folder / "thumbnails") == []
    last = describe(uploads, session)
    assert (last.described, len(session.snapshot), len(session.notices)) == (6, 6, 0)


def test_a_file_that_cannot_be_taken_is_named_and_takes_no_room(waiting):
    uploads, session = waiting
    kept = session.next_file()
    session.turn_away(kept, "is gone")
    (session.folder / "waiting").rename(session.folder / "elsewhere")
    assert send(uploads, session, {"late.png": b"x"}) == [False]
    assert "could not be stored" in reasons(session)["late.png"]
    (session.folder / "elsewhere").rename(session.folder / "waiting")
    assert send(uploads, session, {"late.png": b"x"}) == [True]


def test_a_download_that_cannot_be_written_leaves_nothing_behind(waiting):
    uploads, session = waiting
    describe(uploads, session)
    before = files_below(session.folder)
    arguments = (session.snapshot, uploads.models.profile, uploads.captioner.spec, session.folder)
    with full_disk(), pytest.raises(UploadError, match="could not be stored on the server"):
        write_gallery_zip(*arguments)
    assert files_below(session.folder) == before
    assert write_gallery_zip(*arguments).stat().st_size > 1_000


def test_nothing_is_left_when_an_upload_is_forgotten_while_it_is_downloaded(make_uploads):
    uploads = make_uploads()
    for _ in range(5):
        session = uploads.start()
        send(uploads, session, photos(4))
        describe(uploads, session)
        started = threading.Event()

        def download(session=session, started=started) -> None:
            profile, captioner = uploads.models.profile, uploads.captioner.spec
            with pytest.raises(UploadError, match="changed meanwhile|nothing to download"):
                while True:
                    write_gallery_zip(session.snapshot, profile, captioner, session.folder)
                    started.set()

        thread = threading.Thread(target=download)
        thread.start()
        assert started.wait(20)
        uploads.forget(session.id)
        thread.join(20)
        assert files_below(uploads.folder) == []
