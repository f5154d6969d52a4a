"""Who takes a place for an upload, for how long, and what an upload keeps of its notices."""

from __future__ import annotations

import time

import pytest

from core.errors import UploadError
from core.uploads.limits import NOTICES_KEPT
from tests.tiny_uploads import describe, photos, picture_bytes, send


class TestPlaces:
    def test_an_empty_upload_gives_its_place_back_soon(self, make_uploads):
        uploads = make_uploads(upload_empty_s=0.3)
        empty, refused, waiting, described = (uploads.start() for _ in range(4))
        send(uploads, refused, {"a.txt": b"no photo"})
        for session in (waiting, described):
            send(uploads, session, photos(1))
        for session in (refused, described):
            describe(uploads, session)
        time.sleep(0.8)
        assert [s.ended for s in (empty, refused, waiting, described)] == [True, True, False, False]
        assert len(uploads) == 2

    def test_an_empty_upload_that_is_used_keeps_its_place(self, make_uploads):
        uploads = make_uploads(upload_empty_s=0.4)
        session = uploads.start()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            uploads.get(session.id)
            time.sleep(0.05)
        assert not session.ended

    def test_one_address_takes_only_so_many(self, make_uploads):
        uploads = make_uploads(max_uploads_per_visitor=2)
        first = uploads.start("192.0.2.1")
        uploads.start("192.0.2.1")
        with pytest.raises(UploadError, match="2 uploads from your address are open"):
            uploads.start("192.0.2.1")
        uploads.start("192.0.2.2")
        uploads.forget(first.id)
        uploads.start("192.0.2.1")


class TestNotices:
    def test_those_of_one_upload_are_bounded_and_all_are_counted(self, make_uploads):
        uploads = make_uploads(max_upload_files=1)
        session = uploads.start()
        for number in range(3_000):
            session.refuse(f"{number}.jpg", "did not arrive")
        send(uploads, session, {"same.png": picture_bytes((8, 8, 8)), "more.png": b"x"})
        assert len(session.notices) == len(list(session.notices)) == NOTICES_KEPT
        assert [notice.file_name for notice in session.notices.newest(2)] == [
            "2999.jpg",
            "more.png",
        ]
        assert (session.notices.total, session.notices.count("refused")) == (3_001, 3_001)
