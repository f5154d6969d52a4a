"""Whole uploads with planted models: described, searched, changed, limited, and forgotten."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import QueryError, UnknownImageError, UploadError
from core.exports import GALLERY_NAME, captions_csv, captions_jsonl, write_gallery_zip
from core.file_names import shown_name
from core.gallery import Gallery
from core.search import SearchService
from core.session import UploadSession
from core.uploads import Uploads
from tests.tiny_uploads import colour_name, colour_uploads, colours, picture_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path):
    made: list[Uploads] = []

    def make_uploads(**values: object) -> Uploads:
        made.append(colour_uploads(tmp_path, **values))
        return made[-1]

    yield make_uploads
    for uploads in made:
        uploads.close()


def send(uploads: Uploads, session: UploadSession, files: dict[str, bytes]) -> list[bool]:
    taken = []
    for number, (name, content) in enumerate(files.items()):
        path = uploads.inbox / f"arrived-{number}"
        path.write_bytes(content)
        taken.append(session.receive(path, name))
    return taken


def describe(uploads: Uploads, session: UploadSession):
    return list(uploads.describe(session))[-1]


def photos(count: int, **options) -> dict[str, bytes]:
    return {
        f"photo {row}.png": picture_bytes(colour, **options)
        for row, colour in enumerate(colours(count))
    }


def reasons(session: UploadSession) -> dict[str, str]:
    return {notice.file_name: notice.reason for notice in session.notices}


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


class TestDescribing:
    def test_every_photo_is_found_by_both_lenses_with_numpys_scores(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(30))
        last = describe(uploads, session)
        assert (last.total, last.described, last.finished, last.stopped) == (30, 30, True, False)
        service = uploads.search(session)
        assert isinstance(service, SearchService)
        query = uploads.models.sentence.encode_text(["colour 800"])[0]
        for lens in ("captions", "clip"):
            hits = service.by_text("colour 800", k=5, lens=lens).hits
            scores = session.snapshot.embeddings(lens) @ query
            best = np.argsort(-scores, kind="stable")[:5]
            assert [hit.id for hit in hits] == [session.snapshot.records[row].id for row in best]
            assert [hit.score for hit in hits] == pytest.approx(scores[best], abs=1e-6)
        assert service.compare("colour 800", k=3).fused[0].id == hits[0].id
        assert session.snapshot.record(hits[0].id).caption == "colour 800"
        similar = service.similar(hits[0].id, k=3)
        assert hits[0].id not in [hit.id for hit in similar.hits]

    def test_search_works_on_what_is_done_so_far(self, make):
        uploads = make()
        session = uploads.start()
        with pytest.raises(QueryError, match="No photo is searchable yet"):
            uploads.search(session).by_text("red", lens="clip")
        send(uploads, session, photos(12))
        sizes = []
        for progress in uploads.describe(session):
            sizes.append(len(session.snapshot))
            assert progress.described == len(session.snapshot)
            if session.snapshot.records:
                hits = uploads.search(session).by_text("colour 000", k=50).hits
                assert len(hits) == len(session.snapshot)
        assert sizes == sorted(sizes)
        assert sizes[-1] == 12

    def test_a_snapshot_never_changes(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(70))
        describe(uploads, session)
        before = session.snapshot
        copy = before.embeddings("captions").copy()
        first = before.records[0].id
        uploads.correct(session, before.records[1].id, "a corrected caption")
        session.remove(first)
        send(uploads, session, {"one more.png": picture_bytes((1, 2, 3), size=(40, 40))})
        describe(uploads, session)
        assert first in before
        assert first not in session.snapshot
        assert np.array_equal(before.embeddings("captions"), copy)
        with pytest.raises(ValueError, match="read-only"):
            before.embeddings("clip")[0] = 0

    def test_only_new_files_are_described(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(8))
        describe(uploads, session)
        calls = uploads.captioner.calls
        send(uploads, session, photos(9))
        last = describe(uploads, session)
        assert (last.described, len(session.snapshot)) == (1, 9)
        assert uploads.captioner.calls == calls + 1
        assert reasons(session)["photo 3.png"] == "was sent twice and is kept once"

    def test_the_same_bytes_under_two_names_are_kept_once(self, make):
        uploads = make()
        session = uploads.start()
        same = picture_bytes((8, 8, 8))
        send(uploads, session, {"a.png": same, "b.png": same})
        assert describe(uploads, session).described == 1
        assert [(n.kind, n.file_name, n.reason) for n in session.notices] == [
            ("duplicate", "b.png", "is the same file as a.png")
        ]

    def test_stop_keeps_what_is_done_and_loses_nothing(self, make):
        uploads = make(upload_batch_size=4)
        session = uploads.start()
        send(uploads, session, photos(20))
        uploads.captioner.gate.clear()
        run = uploads.describe(session)
        next(run)
        threading.Thread(
            target=lambda: (
                uploads.captioner.at_work.acquire(),
                session.stop(),
                uploads.captioner.gate.set(),
            )
        ).start()
        last = list(run)[-1]
        assert (last.finished, last.stopped) == (True, True)
        assert len(session.snapshot) == last.described == 4
        assert [file.file_name for file in session.waiting] == [
            f"photo {row}.png" for row in range(4, 20)
        ]
        assert describe(uploads, session).described == 16
        assert [record.file_name for record in session.snapshot.records] == list(photos(20))

    def test_closing_the_run_lets_the_rest_wait(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(10))
        run = uploads.describe(session)
        next(run)
        run.close()
        assert len(session.snapshot) + len(session.waiting) == 10
        assert describe(uploads, session).finished
        assert len(session.snapshot) == 10

    def test_one_run_at_a_time(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(5))
        run = uploads.describe(session)
        next(run)
        with pytest.raises(UploadError, match="described already"):
            next(uploads.describe(session))
        run.close()
        assert describe(uploads, session).finished

    def test_a_captioner_that_fails_loses_no_file(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(5))
        working = uploads.captioner.caption
        uploads.captioner.caption = lambda images: 1 / 0
        with pytest.raises(ZeroDivisionError):
            describe(uploads, session)
        uploads.captioner.caption = working
        assert describe(uploads, session).described == 5

    def test_decoding_runs_ahead_of_the_models_but_not_far(self, make):
        uploads = make(upload_batch_size=4)
        session = uploads.start()
        send(uploads, session, photos(40))
        uploads.captioner.gate.clear()
        seen = []
        for progress in uploads.describe(session):
            seen.append(len(progress.decoded))
            if len(seen) == 4:
                uploads.captioner.gate.set()
        assert 4 < max(seen) <= 16  # a batch at work and three that wait
        assert len(session.snapshot) == 40


class TestChanging:
    @pytest.fixture
    def described(self, make):
        uploads = make()
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
        ("text", "reason"), [(" \n\t", "at least one word"), ("x" * 501, "at most 500")]
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

    def test_a_removed_picture_makes_room_and_may_come_back(self, make):
        uploads = make(max_upload_files=3)
        session = uploads.start()
        send(uploads, session, photos(3))
        describe(uploads, session)
        session.remove(session.snapshot.records[0].id)
        assert send(uploads, session, photos(1)) == [True]
        assert describe(uploads, session).described == 1
        assert [r.file_name for r in session.snapshot.records][-1] == "photo 0.png"


class TestLimits:
    def test_files(self, make):
        uploads = make(max_upload_files=3)
        session = uploads.start()
        assert send(uploads, session, photos(5)) == [True, True, True, False, False]
        describe(uploads, session)
        assert len(session.snapshot) == 3
        assert reasons(session)["photo 4.png"] == "is beyond the limit of 3 photos in one upload"

    def test_a_refused_file_takes_no_room(self, make):
        uploads = make(max_upload_files=3)
        session = uploads.start()
        send(uploads, session, {"a.txt": b"hello", **photos(2)})
        describe(uploads, session)
        assert send(uploads, session, {"x.png": picture_bytes((255, 0, 0))}) == [True]

    def test_bytes_of_one_file_and_of_all(self, make):
        uploads = make(max_image_bytes=5_000, max_upload_bytes=9_000)
        session = uploads.start()
        files = {"large": b"x" * 5_001, "a": b"a" * 5_000, "b": b"b" * 5_000, "c": b"c" * 4_000}
        assert send(uploads, session, files) == [False, True, False, True]
        assert reasons(session) == {
            "large": "is larger than the limit of 0.0 MB",
            "b": "is beyond the limit of 0 MB in one upload",
        }
        assert [file.file_name for file in session.waiting] == ["a", "c"]

    def test_pixels_of_all(self, make):
        uploads = make(max_upload_pixels=10_000)
        session = uploads.start()
        sizes = {"a.png": (90, 100), "b.png": (90, 90), "c.png": (10, 100)}
        send(uploads, session, {n: picture_bytes((8, 8, 8), size=s) for n, s in sizes.items()})
        describe(uploads, session)
        assert [record.file_name for record in session.snapshot.records] == ["a.png", "c.png"]
        assert reasons(session) == {"b.png": "is beyond the limit of 0 megapixels in one upload"}

    def test_uploads_at_once(self, make):
        uploads = make(max_uploads=2)
        first = uploads.start()
        uploads.start()
        with pytest.raises(UploadError, match="2 uploads are open"):
            uploads.start()
        uploads.forget(first.id)
        uploads.start()

    def test_two_thousand_files_at_once(self, make):
        uploads = make(max_upload_files=2_000, upload_batch_size=64)
        session = uploads.start()
        files = photos(1_990, size=(2, 2)) | {f"{row}.txt": b"no" * row for row in range(10)}
        assert all(send(uploads, session, files))
        last = describe(uploads, session)
        assert (last.described, last.total) == (1_990, 2_000)
        hits = uploads.search(session).by_text(session.snapshot.records[1_500].caption, k=1).hits
        assert hits[0].id == session.snapshot.records[1_500].id
        assert len(session.notices) == 10
        assert not list((session.folder / "waiting").iterdir())


class TestBadFiles:
    def test_each_is_listed_with_its_reason_and_the_good_ones_are_kept(self, make):
        uploads = make()
        session = uploads.start()
        good = picture_bytes((8, 8, 8), size=(200, 200), kind="JPEG")
        animation = io.BytesIO()
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
        frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
        send(
            uploads,
            session,
            {
                "good.txt": good,
                "half.jpg": good[: len(good) // 2],
                "empty.png": b"",
                "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
                "notes.jpg": b"not an image at all",
                "moving.gif": animation.getvalue(),
                "bomb.png": bomb_png(50_000, 50_000),
            },
        )
        assert describe(uploads, session).described == 2
        found = reasons(session)
        assert found["half.jpg"] == "is truncated"
        assert found["empty.png"] == "is empty (0 bytes)"
        assert "SVG" in found["drawing.svg"]
        assert "not an image" in found["notes.jpg"]
        assert "50,000 x 50,000" in found["bomb.png"]
        assert found["moving.gif"] == "shows its first frame of 3"
        assert [r.file_name for r in session.snapshot.records] == ["good.txt", "moving.gif"]

    def test_a_folder_with_no_image(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, {"a.txt": b"a", "b.doc": b"b"})
        last = describe(uploads, session)
        assert (last.finished, last.described, len(session.notices)) == (True, 0, 2)
        with pytest.raises(UploadError, match="nothing to download"):
            write_gallery_zip(
                session.snapshot, uploads.models.profile, uploads.captioner.spec, uploads.folder
            )

    @settings(max_examples=15, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["JPEG", "PNG", "WEBP"]),
                st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
                st.floats(0, 1),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_mutated_files_end_as_a_picture_or_a_reason(self, tmp_path_factory, cases):
        uploads = colour_uploads(tmp_path_factory.mktemp("fuzz"))
        session = uploads.start()
        files = {}
        for number, (kind, changes, kept) in enumerate(cases):
            content = bytearray(picture_bytes((9, 99, 199), size=(40, 30), kind=kind))
            for place, value in changes:
                content[int(place * (len(content) - 1))] = value
            files[f"{number}"] = bytes(content[: int(len(content) * max(kept, 0.2)) + 1])
        send(uploads, session, files)
        assert describe(uploads, session).finished
        refused = [notice for notice in session.notices if notice.kind != "note"]
        assert len(session.snapshot) + len(refused) == len(files)
        assert all(notice.reason for notice in refused)
        uploads.close()


class TestNames:
    @pytest.mark.parametrize(
        ("sent", "shown"),
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\photos\\dog.jpg", "dog.jpg"),
            ("two\nlines.jpg", "two\N{REPLACEMENT CHARACTER}lines.jpg"),
            ("photo\u202egpj.exe", "photogpj.exe"),
            ("..", "unnamed"),
            ("\ud800.jpg", "\N{REPLACEMENT CHARACTER}.jpg"),
            ("<img src=x onerror=alert(1)>.jpg", "<img src=x onerror=alert(1)>.jpg"),
            ("", "unnamed"),
        ],
    )
    def test_examples(self, sent, shown):
        assert shown_name(sent) == shown

    @given(st.text(max_size=400))
    def test_any_name_becomes_one_short_printable_line(self, name):
        shown = shown_name(name)
        assert 0 < len(shown) <= 120
        assert "/" not in shown
        assert shown.isprintable()
        assert shown.encode()
        assert shown_name(shown) == shown

    @settings(max_examples=25, deadline=None)
    @given(st.text(min_size=1, max_size=300), st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA"]))
    def test_any_name_and_mode_goes_through_to_the_exports(self, tmp_path_factory, name, mode):
        uploads = colour_uploads(tmp_path_factory.mktemp("names"))
        session = uploads.start()
        send(uploads, session, {name: picture_bytes((255, 255, 255), mode=mode)})
        assert describe(uploads, session).described == 1
        (record,) = session.snapshot.records
        assert json.loads(captions_jsonl([record]))["file_name"] == shown_name(name)
        (row,) = csv.DictReader(io.StringIO(captions_csv([record]), newline=""))
        assert row["file_name"].lstrip("'") == shown_name(name).lstrip("'")
        uploads.close()


class TestExports:
    def test_a_formula_gets_an_apostrophe_in_csv_and_stays_itself_in_jsonl(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, {"=cmd.png": picture_bytes((8, 8, 8))})
        describe(uploads, session)
        uploads.correct(session, session.snapshot.records[0].id, '=HYPERLINK("http://x","y")')
        (row,) = csv.DictReader(io.StringIO(captions_csv(session.snapshot.records)))
        assert row["caption"] == '\'=HYPERLINK("http://x","y")'
        assert row["file_name"] == "'=cmd.png"
        (line,) = captions_jsonl(session.snapshot.records).splitlines()
        assert json.loads(line)["caption"] == '=HYPERLINK("http://x","y")'

    def test_the_zip_is_a_gallery_with_the_same_answers(self, make, tmp_path):
        uploads = make()
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
        assert gallery.records == session.snapshot.records
        for lens in ("captions", "clip"):
            ours = uploads.search(session).by_text("a corrected caption", k=50, lens=lens)
            theirs = SearchService(gallery, uploads.models).by_text(
                "a corrected caption", k=50, lens=lens
            )
            assert ours.hits == theirs.hits
        assert removed not in [record.id for record in gallery.records]
        assert gallery.thumbnail(gallery.records[0].id).is_file()


class TestForgetting:
    def test_nothing_is_left_on_disk_and_every_way_in_is_shut(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(6))
        describe(uploads, session)
        image_id = session.snapshot.records[0].id
        send(uploads, session, {"waiting.png": picture_bytes((1, 1, 1))})
        assert len(files_below(uploads.folder)) == 7
        assert uploads.forget(session.id)
        assert files_below(uploads.folder) == []
        assert len(session.snapshot) == 0
        assert uploads.by_view_token(session.view_token) is None
        with pytest.raises(UploadError, match="forgotten"):
            uploads.get(session.id)
        with pytest.raises(UnknownImageError):
            session.thumbnail(image_id)
        path = uploads.inbox / "late"
        path.write_bytes(b"late")
        with pytest.raises(UploadError, match="forgotten"):
            session.receive(path, "late.jpg")
        assert not uploads.forget(session.id)

    def test_forgetting_in_the_middle_of_a_run_leaves_nothing(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(20))
        uploads.captioner.gate.clear()
        run = uploads.describe(session)
        next(run)
        for _ in run:
            if uploads.captioner.at_work.acquire(blocking=False):
                uploads.forget(session.id)
                uploads.captioner.gate.set()
        assert files_below(uploads.folder) == []
        assert len(session.snapshot) == 0

    def test_an_idle_upload_is_forgotten_and_a_used_one_is_not(self, make):
        uploads = make(upload_idle_s=0.6)
        idle, used = uploads.start(), uploads.start()
        for session in (idle, used):
            send(uploads, session, photos(1))
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            uploads.get(used.id)
            time.sleep(0.05)
        assert (idle.ended, used.ended) == (True, False)
        assert len(files_below(uploads.folder)) == 1

    def test_after_its_tab_is_closed_it_goes_soon_unless_it_is_used_again(self, make):
        uploads = make(upload_closed_s=0.3)
        gone, back = uploads.start(), uploads.start()
        for session in (gone, back):
            uploads.leave(session.id)
        uploads.get(back.id)
        time.sleep(1.0)
        assert (gone.ended, back.ended) == (True, False)

    def test_no_upload_lives_longer_than_the_oldest_may(self, make):
        uploads = make(upload_max_age_s=0.2)
        session = uploads.start()
        time.sleep(0.3)
        uploads.get(session.id)
        assert uploads.forget_overdue() == 1
        assert session.ended

    def test_closing_deletes_the_run_folder(self, make):
        uploads = make()
        send(uploads, uploads.start(), photos(2))
        uploads.close()
        assert not uploads.folder.exists()
        with pytest.raises(UploadError):
            uploads.start()

    def test_folders_are_closed_to_other_users(self, make):
        uploads = make()
        session = uploads.start()
        send(uploads, session, photos(1))
        describe(uploads, session)
        for folder in (uploads.folder, session.folder, uploads.inbox, uploads.folder.parent):
            assert folder.stat().st_mode & 0o077 == 0, folder

    def test_a_killed_run_is_swept_at_the_next_start_and_a_living_one_is_not(self, tmp_path):
        code = textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from tests.tiny_uploads import colour_uploads, picture_bytes
            uploads = colour_uploads(Path(sys.argv[1]))
            path = uploads.inbox / "x"
            path.write_bytes(picture_bytes((1, 2, 3)))
            uploads.start().receive(path, "secret.png")
            print("ready", flush=True)
            time.sleep(60)
            """
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert child.stdout.readline() == "ready\n"
        colour_uploads(tmp_path).close()
        assert len(files_below(tmp_path / "uploads")) == 1  # the child lives: nothing was touched
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(files_below(tmp_path / "uploads")) == 1
        colour_uploads(tmp_path).close()
        assert files_below(tmp_path / "uploads") == []


def bomb_png(width: int, height: int) -> bytes:
    """A small PNG whose header promises a picture of many gigabytes."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    row = zlib.compressobj(9)
    pixels = b"".join(row.compress(bytes(1 << 20)) for _ in range(5)) + row.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_the_planted_captioner_sees_colours():
    assert colour_name(Image.new("RGB", (4, 4), (8, 255, 16))) == "colour 0f1"
