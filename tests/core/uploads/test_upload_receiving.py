"""What an upload takes in: limits, bad files and hostile names."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import UploadError
from core.images.file_names import shown_name
from core.ui.uploads.views import notices_view
from core.uploads.exports import captions_csv, captions_jsonl, write_gallery_zip
from tests.tiny_uploads import (
    colour_uploads,
    describe,
    photos,
    picture_bytes,
    reasons,
    send,
)


class TestLimits:
    def test_files(self, make_uploads):
        uploads = make_uploads(max_upload_files=3)
        session = uploads.start()
        assert send(uploads, session, photos(5)) == [True, True, True, False, False]
        describe(uploads, session)
        assert len(session.snapshot) == 3
        assert reasons(session)["photo 4.png"] == "is beyond the limit of 3 photos in one upload"

    def test_a_refused_file_takes_no_room(self, make_uploads):
        uploads = make_uploads(max_upload_files=3)
        session = uploads.start()
        send(uploads, session, {"a.txt": b"hello", **photos(2)})
        describe(uploads, session)
        assert send(uploads, session, {"x.png": picture_bytes((255, 0, 0))}) == [True]

    def test_json_beside_photos_takes_no_room_and_is_one_line(self, make_uploads):
        uploads = make_uploads(max_upload_files=3)
        session = uploads.start()
        beside = {f"{name}.supplemental-metadata.json": b"{}" for name in photos(200)}
        send(uploads, session, {**beside, "a.txt": b"hello", "b.mp4": b"1234", **photos(1)})
        assert [file.file_name for file in session.waiting] == ["a.txt", "b.mp4", "photo 0.png"]
        describe(uploads, session)
        told = notices_view(session.notices)
        assert "200 JSON files, as Google Takeout writes them beside photos, were left out." in told
        assert "supplemental" not in told
        (line,) = re.findall("<li>(.*?)</li>", told)  # one reason, said once
        assert line.startswith("<bdi>a.txt</bdi> is not an image")
        assert line.endswith("; likewise <bdi>b.mp4</bdi>")

    def test_bytes_of_one_file_and_of_all(self, make_uploads):
        uploads = make_uploads(max_image_bytes=5_000, max_upload_bytes=9_000)
        session = uploads.start()
        files = {"large": b"x" * 5_001, "a": b"a" * 5_000, "b": b"b" * 5_000, "c": b"c" * 4_000}
        assert send(uploads, session, files) == [False, True, False, True]
        assert reasons(session) == {
            "large": "is larger than the limit of 0.0 MB",
            "b": "is beyond the limit of 0 MB in one upload",
        }
        assert [file.file_name for file in session.waiting] == ["a", "c"]

    def test_pixels_of_all(self, make_uploads):
        uploads = make_uploads(max_upload_pixels=10_000)
        session = uploads.start()
        sizes = {"a.png": (90, 100), "b.png": (90, 90), "c.png": (10, 100)}
        send(uploads, session, {n: picture_bytes((8, 8, 8), size=s) for n, s in sizes.items()})
        describe(uploads, session)
        assert [record.file_name for record in session.snapshot.records] == ["a.png", "c.png"]
        assert reasons(session) == {"b.png": "is beyond the limit of 0 megapixels in one upload"}

    def test_uploads_at_once(self, make_uploads):
        uploads = make_uploads(max_uploads=2)
        first = uploads.start()
        uploads.start()
        with pytest.raises(UploadError, match="2 uploads are open"):
            uploads.start()
        uploads.forget(first.id)
        uploads.start()

    def test_two_thousand_files_at_once(self, make_uploads):
        uploads = make_uploads(max_upload_files=2_000, upload_batch_size=64)
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
    def test_each_is_listed_with_its_reason_and_the_good_ones_are_kept(self, make_uploads):
        uploads = make_uploads()
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

    def test_a_folder_with_no_image(self, make_uploads):
        uploads = make_uploads()
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
        assert row["file_name"].replace("'", "") == shown_name(name).replace("'", "")
        uploads.close()


def bomb_png(width: int, height: int) -> bytes:
    """A small PNG whose header promises a picture of many gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    row = zlib.compressobj(9)
    pixels = b"".join(row.compress(bytes(1 << 20)) for _ in range(5)) + row.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
