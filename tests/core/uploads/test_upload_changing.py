"""An upload that is corrected, thinned out, and taken home."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile

import pytest

from core.errors import UnknownImageError, UploadError
from core.gallery.reader import Gallery
from core.records import ImageRecord
from core.search.service import SearchService
from core.uploads.exports import GALLERY_NAME, captions_csv, captions_jsonl, write_gallery_zip
from tests.tiny_uploads import (
    describe,
    files_below,
    photos,
    picture_bytes,
    send,
)


class TestChanging:
    @pytest.fixture
    def described(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(12))
        describe(uploads, session)
        return uploads, session

    def test_a_corrected_caption_is_found_at_once(self, described):
        uploads, session = described
        image_id = session.snapshot.records[7].id
        record = uploads.correct(session, image_id, "  my dog\n Rex ")
        assert (record.caption, record.caption_flags) == ("my dog Rex", ("corrected",))
        hit = uploads.search(session).by_text("my dog Rex", k=1).hits[0]
        assert (hit.id, hit.score) == (image_id, pytest.approx(1.0, abs=1e-6))
        assert uploads.search(session).by_text("my dog Rex", k=1, index="ivf").hits[0] == hit
        assert uploads.search(session).by_text("colour 780", lens="clip", k=1).hits

    @pytest.mark.parametrize(
        ("text", "reason"),
        [(" \n\t", "at least one word"), ("x" * 501, "at most 500"), (None, "must be a text")],
    )
    def test_a_caption_that_cannot_be_kept(self, described, text, reason):
        uploads, session = described
        record = session.snapshot.records[0]
        with pytest.raises(UploadError, match=reason):
            uploads.correct(session, record.id, text)
        assert session.snapshot.records[0] == record

    @pytest.mark.parametrize("lens", ["captions", "clip"])
    @pytest.mark.parametrize("kind", ["flat", "ivf"])
    def test_a_removed_picture_is_in_no_index_and_not_on_disk(self, described, lens, kind):
        uploads, session = described
        gone = session.snapshot.records[5]
        thumbnail = session.thumbnail(gone.id)
        assert thumbnail.is_file()
        session.remove(gone.id)
        hits = uploads.search(session).by_text(gone.caption, k=50, lens=lens, index=kind).hits
        assert gone.id not in [hit.id for hit in hits]
        assert len(hits) == 11 or kind == "ivf"
        assert not thumbnail.exists()
        for ask in (session.thumbnail, session.snapshot.record, session.remove):
            with pytest.raises(UnknownImageError):
                ask(gone.id)

    def test_a_removed_picture_makes_room_and_may_come_back(self, make_uploads):
        uploads = make_uploads(max_upload_files=3)
        session = uploads.start()
        send(uploads, session, photos(3))
        describe(uploads, session)
        session.remove(session.snapshot.records[0].id)
        assert send(uploads, session, photos(1)) == [True]
        assert describe(uploads, session).described == 1
        assert [r.file_name for r in session.snapshot.records][-1] == "photo 0.png"


class TestExports:
    def test_a_formula_gets_an_apostrophe_in_csv_and_stays_itself_in_jsonl(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, {"=cmd.png": picture_bytes((8, 8, 8))})
        describe(uploads, session)
        uploads.correct(session, session.snapshot.records[0].id, '=HYPERLINK("http://x","y")')
        (row,) = csv.DictReader(io.StringIO(captions_csv(session.snapshot.records)))
        assert row["caption"] == '\'=HYPERLINK("http://x","y")'
        assert row["file_name"] == "'=cmd.png"
        (line,) = captions_jsonl(session.snapshot.records).splitlines()
        assert json.loads(line)["caption"] == '=HYPERLINK("http://x","y")'

    @pytest.mark.parametrize(
        ("text", "cell"),
        [
            ("a dog;=1+1", "a dog;'=1+1"),
            ('a dog; "=1+1"', 'a dog; "\'=1+1"'),
            ("＝1+1", "'＝1+1"),
            ("a dog\n＠SUM(1)", "a dog\n'＠SUM(1)"),
            ("\ufeff =1", "\ufeff '=1"),
            ("\tx", "'\tx"),
            ("a well-known dog; two = three", "a well-known dog; two = three"),
        ],
    )
    def test_formulas_behind_other_separators_and_in_wide_signs(self, text, cell):
        record = ImageRecord("0" * 16, "a.png", "0" * 64, 1, 1, text)
        (row,) = csv.DictReader(io.StringIO(captions_csv([record]), newline=""))
        assert row["caption"] == cell

    def test_a_long_text_is_searched_for_formulas_in_linear_time(self):
        record = ImageRecord("0" * 16, "a.png", "0" * 64, 1, 1, "\n" * 200_000)
        started = time.process_time()
        captions_csv([record])
        assert time.process_time() - started < 2

    def test_the_zip_is_a_gallery_with_the_same_answers(self, make_uploads, tmp_path):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(50))
        describe(uploads, session)
        removed = session.snapshot.records[3].id
        session.remove(removed)
        uploads.correct(session, session.snapshot.records[0].id, "a corrected caption")
        before = set(files_below(session.folder))
        path = write_gallery_zip(
            session.snapshot, uploads.models.profile, uploads.captioner.spec, session.folder
        )
        assert set(files_below(session.folder)) - before == {path}
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "out")
        gallery = Gallery.open(tmp_path / "out" / GALLERY_NAME, uploads.models.profile)
        assert tuple(gallery.records) == session.snapshot.records
        for lens in ("captions", "clip"):
            ours = uploads.search(session).by_text("a corrected caption", k=50, lens=lens)
            theirs = SearchService(gallery, uploads.models).by_text(
                "a corrected caption", k=50, lens=lens
            )
            assert ours.hits == theirs.hits
        assert removed not in [record.id for record in gallery.records]
        assert gallery.read_thumbnail(gallery.records[0].id)[8:12] == b"WEBP"
