"""Whole uploads with planted models: described, searched, and forgotten."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import (
    DecodingStoppedError,
    QueryError,
    TwoLensError,
    UnknownImageError,
    UploadError,
)
from core.images.decode import decode
from core.search.service import SearchService
from core.uploads import intake
from tests.core.encoded_pictures import slow_bmp
from tests.tiny_uploads import (
    colour_uploads,
    describe,
    files_below,
    photos,
    picture_bytes,
    reasons,
    send,
)

ROOT = Path(__file__).resolve().parents[3]


class TestDescribing:
    def test_every_photo_is_found_by_both_lenses_with_numpys_scores(self, make_uploads):
        uploads = make_uploads()
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

    def test_search_works_on_what_is_done_so_far(self, make_uploads):
        uploads = make_uploads()
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

    def test_a_snapshot_never_changes(self, make_uploads):
        uploads = make_uploads()
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

    def test_only_new_files_are_described(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(8))
        describe(uploads, session)
        calls = uploads.captioner.calls
        send(uploads, session, photos(9))
        last = describe(uploads, session)
        assert (last.described, len(session.snapshot)) == (1, 9)
        assert uploads.captioner.calls == calls + 1
        assert reasons(session)["photo 3.png"] == "was sent twice and is kept once"

    def test_the_same_bytes_under_two_names_are_kept_once(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        same = picture_bytes((8, 8, 8))
        send(uploads, session, {"a.png": same, "b.png": same})
        assert describe(uploads, session).described == 1
        assert [(n.kind, n.file_name, n.reason) for n in session.notices] == [
            ("duplicate", "b.png", "is the same file as a.png")
        ]

    def test_stop_keeps_what_is_done_and_loses_nothing(self, make_uploads):
        uploads = make_uploads(upload_batch_size=4)
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

    def test_closing_the_run_lets_the_rest_wait(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(10))
        run = uploads.describe(session)
        next(run)
        run.close()
        assert len(session.snapshot) + len(session.waiting) == 10
        assert describe(uploads, session).finished
        assert len(session.snapshot) == 10

    def test_a_large_copy_is_kept_while_the_picture_is(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, {"wide.png": picture_bytes((8, 8, 8), size=(1600, 400))})
        send(uploads, session, {"small.png": picture_bytes((90, 8, 8))})
        describe(uploads, session)
        wide, small = (record.id for record in session.snapshot.records)
        with Image.open(session.large(wide)) as kept:
            assert kept.size == (1280, 320)
        assert session.large(small) is None
        path = session.large(wide)
        session.remove(wide)
        assert not path.exists()
        with pytest.raises(UnknownImageError):
            session.large(wide)

    def test_one_run_at_a_time(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(5))
        run = uploads.describe(session)
        next(run)
        with pytest.raises(UploadError, match="described already"):
            next(uploads.describe(session))
        run.close()
        assert describe(uploads, session).finished

    def test_a_captioner_that_fails_loses_no_file(self, make_uploads):
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, photos(5))
        working = uploads.captioner.caption
        uploads.captioner.caption = lambda images: 1 / 0
        with pytest.raises(ZeroDivisionError):
            describe(uploads, session)
        uploads.captioner.caption = working
        assert describe(uploads, session).described == 5

    def test_decoding_runs_ahead_of_the_models_but_not_far(self, make_uploads):
        uploads = make_uploads(upload_batch_size=4)
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

    def test_the_models_run_in_the_context_of_the_visitor(self, make_uploads):
        """ZeroGPU reads there whose quota a GPU is taken from."""
        visitor = contextvars.ContextVar("visitor", default="anonymous")
        uploads = make_uploads(upload_batch_size=2)
        session = uploads.start()
        send(uploads, session, photos(5))
        seen = []
        says_colours = uploads.captioner.caption
        uploads.captioner.caption = lambda images: (
            seen.append(visitor.get()) or says_colours(images)
        )
        context = contextvars.copy_context()
        context.run(visitor.set, "ann")
        context.run(describe, uploads, session)
        assert seen == ["ann"] * 3


class TestForgetting:
    def test_nothing_is_left_on_disk_and_every_way_in_is_shut(self, make_uploads):
        uploads = make_uploads()
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

    def test_forgetting_in_the_middle_of_a_run_leaves_nothing(self, make_uploads):
        uploads = make_uploads()
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

    def test_photos_that_are_decoded_or_queued_are_stopped(self, make_uploads, monkeypatch):
        """Even where nobody asks for the run's next report, as when the tab is closed."""
        uploads = make_uploads()
        session = uploads.start()
        send(uploads, session, {f"{row}.bmp": slow_bmp() for row in range(6)})
        begun, ends = [], []

        def counted(path, file_name, *args, **options):
            begun.append(threading.current_thread())
            try:
                ends.append(decode(path, file_name, *args, **options))
            except TwoLensError as error:
                ends.append(error)
            raise DecodingStoppedError

        monkeypatch.setattr(intake, "decode", counted)
        run = uploads.describe(session)
        next(run)
        while len(begun) < 2:
            next(run)
        assert uploads.forget(session.id)
        while len(ends) < 2:
            time.sleep(0.01)
        run.close()
        for thread in begun:
            thread.join()
        assert [type(end) for end in ends] == [DecodingStoppedError] * 2
        assert len(begun) == 2
        assert files_below(uploads.folder) == []

    def test_an_idle_upload_is_forgotten_and_a_used_one_is_not(self, make_uploads):
        uploads = make_uploads(upload_idle_s=0.6)
        idle, used = uploads.start(), uploads.start()
        for session in (idle, used):
            send(uploads, session, photos(1))
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            uploads.get(used.id)
            time.sleep(0.05)
        assert (idle.ended, used.ended) == (True, False)
        assert len(files_below(uploads.folder)) == 1

    def test_after_its_tab_is_closed_it_goes_soon_unless_it_is_used_again(self, make_uploads):
        uploads = make_uploads(upload_closed_s=0.3)
        gone, back = uploads.start(), uploads.start()
        for session in (gone, back):
            uploads.leave(session.id)
        uploads.get(back.id)
        time.sleep(1.0)
        assert (gone.ended, back.ended) == (True, False)

    def test_no_upload_lives_longer_than_the_oldest_may(self, make_uploads):
        uploads = make_uploads(upload_max_age_s=0.2)
        session = uploads.start()
        time.sleep(0.3)
        uploads.get(session.id)
        assert uploads.forget_overdue() == 1
        assert session.ended

    def test_closing_deletes_the_run_folder(self, make_uploads):
        uploads = make_uploads()
        send(uploads, uploads.start(), photos(2))
        uploads.close()
        assert not uploads.folder.exists()
        with pytest.raises(UploadError):
            uploads.start()

    def test_folders_are_closed_to_other_users(self, make_uploads):
        uploads = make_uploads()
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
