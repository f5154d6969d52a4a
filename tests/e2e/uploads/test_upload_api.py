"""Uploads through the API: a whole visit, limits, hostile names, and two visitors at once."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
import zipfile
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from core.gallery.reader import Gallery
from core.uploads.registry import Uploads
from tests.e2e.upload_visitor import Refused, Visitor
from tests.planted_app import planted_shelf, serving
from tests.tiny_uploads import colour_uploads, colours, picture_bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The app with uploads on planted models: its address and the uploads."""
    folder = tmp_path_factory.mktemp("uploads")
    uploads = colour_uploads(
        folder,
        max_image_bytes=200_000,
        max_upload_bytes=500_000,
        max_upload_files=2_000,
        upload_batch_size=16,
        upload_closed_s=1,
    )
    with serving(planted_shelf(folder), uploads) as address:
        yield address, uploads


@pytest.fixture
def address(served) -> str:
    return served[0]


@pytest.fixture
def uploads(served) -> Uploads:
    return served[1]


def files_of(uploads: Uploads) -> list[Path]:
    # os.walk, which does not mind a folder that is deleted while it is listed.
    walked = os.walk(uploads.folder)
    return [Path(at) / name for at, _, names in walked for name in names if name != "lock"]


def photos(count: int, prefix: str = "photo", **options) -> dict[str, bytes]:
    return {
        f"{prefix} {row}.png": picture_bytes(colour, **options)
        for row, colour in enumerate(colours(count))
    }


def test_a_whole_visit(address, uploads, tmp_path):
    paths = []
    for name, content in {**photos(40), "notes.txt": b"not a photo"}.items():
        (tmp_path / name).write_bytes(content)
        paths.append(handle_file(str(tmp_path / name)))
    client = Client(address, verbose=False)
    facts = client.predict(paths, api_name="/upload_add")
    assert facts["waiting"] == [Path(str(path["path"])).name for path in paths]
    assert not list(uploads.inbox.rglob("*"))  # taken out of gradio's reach at once

    reports = list(client.submit(api_name="/upload_describe"))
    settled = [report["settled"] for report in reports]
    assert settled == sorted(settled)
    assert settled[-1] == reports[-1]["total"] == 41
    assert len(reports[-1]["pictures"]) == 40
    (notice,) = reports[-1]["notices"]
    assert (notice["kind"], notice["file_name"]) == ("refused", "notes.txt")

    found = client.predict("colour 810", 3, api_name="/upload_compare")
    for lens in ("captions", "clip"):
        assert found[lens][0]["caption"] == "colour 810"
        assert found[lens][0]["score"] == pytest.approx(1.0, abs=1e-6)
    image_id = found["clip"][0]["id"]
    similar = client.predict(image_id, "captions", 5, api_name="/upload_similar")
    assert len(similar["hits"]) == 5
    assert image_id not in [hit["id"] for hit in similar["hits"]]

    client.predict(image_id, "my dog <b>Rex</b>", api_name="/upload_correct")
    (hit,) = client.predict("my dog <b>Rex</b>", 1, api_name="/upload_compare")["captions"]
    assert (hit["id"], hit["caption"]) == (image_id, "my dog <b>Rex</b>")

    removed = reports[-1]["pictures"][0]["id"]
    facts = client.predict(removed, api_name="/upload_remove")
    assert removed not in [picture["id"] for picture in facts["pictures"]]
    hits = client.predict("colour 000", 50, api_name="/upload_compare")["clip"]
    assert len(hits) == 39
    assert removed not in [hit["id"] for hit in hits]

    def download(name: str) -> httpx.Response:
        reply = httpx.get(f"{address}/{facts['downloads'][name]}")
        assert reply.headers["cache-control"] == "private, no-store"
        assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'
        return reply

    rows = list(csv.DictReader(io.StringIO(download("captions.csv").text)))
    assert {row["id"]: row["caption"] for row in rows}[image_id] == "my dog <b>Rex</b>"
    assert len(download("captions.jsonl").text.splitlines()) == 39
    zipfile.ZipFile(io.BytesIO(download("gallery.zip").content)).extractall(tmp_path / "out")
    assert len(Gallery.open(tmp_path / "out" / "my-photos", uploads.models.profile)) == 39
    assert not [path for path in files_of(uploads) if path.suffix == ".zip"]

    thumbnail = f"{address}/{facts['pictures'][0]['thumbnail']}"
    assert Image.open(io.BytesIO(httpx.get(thumbnail).content)).size == (32, 24)
    assert client.predict(api_name="/upload_forget") == {"forgotten": True}
    assert files_of(uploads) == []
    assert httpx.get(thumbnail).status_code == 404
    with pytest.raises(Exception, match="forgotten"):
        client.predict("colour 000", 5, api_name="/upload_compare")
    client.close()


def test_closing_the_client_forgets_within_seconds(address, uploads, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "GRADIO_HEARTBEAT_INTERVAL", "0.5"
    )  # notices a closed tab sooner than in 15 seconds
    path = tmp_path / "photo.png"
    path.write_bytes(picture_bytes((8, 8, 8)))
    client = Client(address, verbose=False)
    client.predict([handle_file(str(path))], api_name="/upload_add")
    assert len(files_of(uploads)) == 1
    client.close()
    deadline = time.monotonic() + 40
    while files_of(uploads) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert files_of(uploads) == []
    assert len(uploads) == 0


class TestTwoVisitors:
    @pytest.fixture
    def ann(self, address):
        visitor = Visitor(address)
        visitor.add(photos(3, "ann"))
        visitor.describe()
        yield visitor
        visitor.run("upload_forget")

    @pytest.fixture
    def bob(self, address):
        visitor = Visitor(address)
        visitor.add({"bob.png": picture_bytes((255, 255, 255))})
        visitor.describe()
        yield visitor
        visitor.run("upload_forget")

    def test_neither_finds_the_others_pictures(self, ann, bob):
        facts = ann.run("upload_stop")
        assert [p["file_name"] for p in facts["pictures"]] == [
            "ann 0.png",
            "ann 1.png",
            "ann 2.png",
        ]
        hits = bob.run("upload_compare", "colour 000", 50)["clip"]
        assert [hit["file_name"] for hit in hits] == ["bob.png"]

    @pytest.mark.parametrize(
        ("endpoint", "values"),
        [
            ("upload_similar", ["clip", 5]),
            ("upload_correct", ["stolen"]),
            ("upload_remove", []),
        ],
    )
    def test_an_id_of_the_others_picture_is_worth_nothing(self, ann, bob, endpoint, values):
        image_id = ann.run("upload_stop")["pictures"][0]["id"]
        with pytest.raises(Refused, match="No picture has the id"):
            bob.run(endpoint, image_id, *values)
        assert ann.run("upload_stop")["pictures"][0]["caption"] == "colour 000"

    def test_an_upload_id_that_a_browser_sends_is_not_looked_at(self, ann, bob, uploads):
        other = Visitor(ann.address)
        for session in uploads.sessions():
            for secret in (session.id, session.view_token):
                other.tab = secret
                with pytest.raises(Refused, match="no upload here"):
                    other.run("upload_compare", "colour 000", 5)
                assert other.run("upload_forget") == {"forgotten": False}
        assert len(uploads) == 2

    def test_no_secret_of_the_server_reaches_a_browser(self, ann, uploads):
        text = str(ann.run("upload_stop"))
        session = uploads.sessions()[0]
        assert session.view_token in text
        assert session.id not in text
        assert str(session.folder) not in text

    def test_thumbnails_and_downloads_need_the_visitors_own_token(self, ann, bob):
        ours, theirs = ann.run("upload_stop"), bob.run("upload_stop")
        address = ours["pictures"][0]["thumbnail"]
        token = address.split("/")[1]
        other = theirs["pictures"][0]["thumbnail"].split("/")[1]
        assert httpx.get(f"{ann.address}/{address}").status_code == 200
        for wrong in (other, "x" * len(token), token[:-1], "..", "%2e%2e"):
            reply = httpx.get(f"{ann.address}/{address.replace(token, wrong)}")
            assert reply.status_code == 404
            reply = httpx.get(f"{ann.address}/uploads/{wrong}/captions.csv")
            assert wrong == other or reply.status_code == 404
        assert "ann" not in httpx.get(f"{ann.address}/uploads/{other}/captions.csv").text
        for name in ("lock", "..%2flock", "waiting", "captions.txt"):
            assert httpx.get(f"{ann.address}/uploads/{token}/{name}").status_code == 404

    def test_gradios_file_route_serves_nothing_of_an_upload(self, ann, uploads):
        ann.add({"waiting.png": picture_bytes((1, 2, 3), size=(9, 9))})
        paths = files_of(uploads)
        assert len(paths) == 4
        for path in paths:
            for route in ("gradio_api/file=", "file="):
                reply = httpx.get(f"{ann.address}/{route}{path}")
                assert reply.status_code in (403, 404), path

    def test_a_file_that_arrived_is_taken_once_and_by_its_secret_path_only(self, ann, bob, uploads):
        ann_files = files_of(uploads)
        (path,) = ann.send({"private.png": picture_bytes((7, 7, 7))})
        assert len(Path(path).parent.name) >= 32  # random: the same photo never has the same path
        for guess in (str(Path(path).parent), path + "x", str(Path(path).with_name("1"))):
            assert bob.add_paths([guess], ["guessed.png"])["waiting"] == []
        for other in (*ann_files, "/etc/passwd"):
            with pytest.raises(Refused):  # by gradio: it is not where uploads arrive
                bob.add_paths([str(other)], ["stolen.png"])
        assert ann.add_paths([path], ["private.png"])["waiting"] == ["private.png"]
        facts = bob.add_paths([path], ["private.png"])
        assert facts["notices"][-1]["reason"] == "did not arrive; please send it again"

    def test_the_same_photo_of_both_is_kept_for_both(self, ann, bob):
        same = {"same.png": picture_bytes((99, 99, 99))}
        for visitor, paths in [(v, v.send(same)) for v in (ann, bob)]:
            visitor.add_paths(paths, ["same.png"])
        for visitor in (ann, bob):
            assert "same.png" in [p["file_name"] for p in visitor.describe()["pictures"]]
        ann.run("upload_forget")
        assert "same.png" in [p["file_name"] for p in bob.run("upload_stop")["pictures"]]

    def test_searches_do_not_wait_behind_the_captioner(self, ann, bob, uploads):
        ann.add(photos(40, "more", size=(20, 20)))
        uploads.captioner.gate.clear()
        run = threading.Thread(target=ann.describe)
        run.start()
        try:
            assert uploads.captioner.at_work.acquire(timeout=20)
            started = time.monotonic()
            for visitor in (ann, bob):
                assert visitor.run("upload_compare", "colour 000", 1)["clip"]
            assert time.monotonic() - started < 2
        finally:
            uploads.captioner.gate.set()
            run.join()


class TestLimits:
    @pytest.fixture
    def visitor(self, address):
        visitor = Visitor(address)
        yield visitor
        visitor.run("upload_forget")

    def test_a_file_that_is_too_large_does_not_take_the_others_with_it(self, visitor, uploads):
        facts = visitor.add(
            {
                "a.png": picture_bytes((8, 8, 8)),
                "huge.tif": os.urandom(300_000),
                "b.png": picture_bytes((99, 9, 9)),
            }
        )
        assert facts["waiting"] == ["a.png", "b.png"]
        (notice,) = facts["notices"]
        assert notice["file_name"] == "huge.tif"
        assert notice["reason"] == "is larger than the limit of 0.2 MB"
        assert sum(path.stat().st_size for path in files_of(uploads)) < 10_000

    def test_what_is_beyond_the_total_is_listed_and_the_rest_is_kept(self, visitor):
        sizes = {"a": 190_000, "b": 190_000, "c": 190_000, "d": 100_000}
        facts = visitor.add({name: os.urandom(size) for name, size in sizes.items()})
        assert facts["waiting"] == ["a", "b", "d"]
        (notice,) = facts["notices"]
        assert (notice["file_name"], notice["reason"]) == (
            "c",
            "is beyond the limit of 0 MB in one upload",
        )

    def test_the_total_counts_over_several_requests(self, visitor):
        for name in ("a", "b"):
            visitor.add({name: os.urandom(190_000)})
        facts = visitor.add({"c": os.urandom(190_000)})
        assert facts["waiting"] == ["a", "b"]
        assert "beyond the limit" in facts["notices"][0]["reason"]

    def test_two_thousand_files_in_two_chunks(self, visitor, uploads):
        files = list(photos(2_001, size=(2, 2)).items())
        for start in (0, 1_000, 2_000):
            facts = visitor.add(dict(files[start : start + 1_000]))
        assert len(facts["waiting"]) == 2_000
        (notice,) = facts["notices"]
        assert notice["reason"] == "is beyond the limit of 2,000 photos in one upload"
        assert len(visitor.describe()["pictures"]) == 2_000

    @pytest.mark.parametrize(
        "name",
        [
            "../../../etc/passwd",
            "..\\..\\boot.ini",
            "a\tb\u2028c.png",
            "x" * 300 + ".png",
            "photo\u202egnp.exe",
            "<img src=x onerror=alert(1)>.png",
            "/absolute/path.png",
            "%2e%2e%2f.png",
            "nul\u0001.png",
        ],
    )
    def test_a_hostile_name_names_nothing_here(self, visitor, uploads, name):
        (path,) = visitor.send({"neutral": picture_bytes((8, 8, 8))})
        facts = visitor.add_paths([path], [name])
        (shown,) = facts["waiting"]
        assert shown.isprintable()
        assert len(shown) <= 120
        assert "/" not in shown
        assert len(visitor.describe()["pictures"]) == 1
        assert all(uploads.folder in path.parents for path in files_of(uploads))
        assert visitor.send({name: picture_bytes((8, 8, 8))})  # as the name in the form, too

    def test_what_is_no_form_is_refused(self, address):
        reply = httpx.post(f"{address}/gradio_api/upload", content=b"x")
        assert reply.status_code == 400
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        reply = httpx.post(f"{address}/gradio_api/upload", content=b"--y\r\n", headers=broken)
        assert reply.status_code in (200, 400)

    def test_nothing_to_describe_is_one_sentence(self, visitor):
        with pytest.raises(Refused, match="no upload here"):
            visitor.run("upload_compare", "red", 5)
        visitor.add({"a.txt": b"hello"})
        assert visitor.describe()["pictures"] == []
        with pytest.raises(Refused, match="No photo is searchable yet"):
            visitor.run("upload_compare", "red", 5)
