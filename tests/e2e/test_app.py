"""``python app.py`` in a process of its own: what it refuses, and what it serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

import httpx
import psutil
import pytest
from gradio_client import Client
from playwright.sync_api import expect

import core
from core.config import get_settings
from core.errors import ModelError
from core.gallery.layout import MANIFEST_FILE, shard_file
from core.gallery.metrics_file import METRICS_FILE
from core.gallery.reader import Gallery
from core.models.locate import local_folder
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from tests.e2e.visiting import Visit

REPOSITORY = Path(core.__file__).resolve().parents[1]
START_LIMIT_S = 90
BUILD_LIMIT_S = 600

T = TypeVar("T")


@pytest.fixture(scope="session")
def needs_mini() -> None:
    """Skip where the small checkpoints are not there."""
    mini = PROFILES["mini"]
    for spec in (mini.sentence, mini.clip):
        _need(spec)


def _need(spec: ModelSpec) -> None:
    try:
        folder = local_folder(spec)
    except ModelError as error:
        pytest.skip(str(error))
    if not list(folder.glob("*.safetensors")):
        pytest.skip(f"{spec.name} has no weights in this checkout")


QUERIES = (
    ("people riding horses on the beach", "hors"),
    ("a red bus on the street", "red extra long bus"),
    ("a person skiing in the snow", "ski"),
    ("a dog", "dog"),
)


@pytest.fixture(scope="session")
def coco_gallery(
    needs_mini: None, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Some 25 of the 111 photos of coco_cc with generated captions, built by the command line."""
    source = shared_data / "coco_cc"
    if not source.is_dir():
        pytest.skip("../shared/data/coco_cc is not there")
    _need(PROFILES["mini"].captioner)
    photos = tmp_path_factory.mktemp("photos")
    kept = []
    for number, line in enumerate((source / "metadata.jsonl").read_text().splitlines()):
        if number % 8 == 0 or any(word in line.lower() for _, word in QUERIES):
            name = json.loads(line)["file_name"]
            (photos / name).symlink_to(source / name)
            kept.append(line)
    (photos / "metadata.jsonl").write_text("\n".join(kept) + "\n")
    out = tmp_path_factory.mktemp("galleries") / "coco_cc"
    command = ["-m", "precompute", "build", str(photos), "--out", str(out)]
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True)
    return out


def run_app(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=START_LIMIT_S,
        check=False,
    )


@contextmanager
def running_app(*arguments: object, **environment: str) -> Iterator[str]:
    """Start the app, wait until it says where it answers, and stop it in the end."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-u", "app.py", "--port", str(port), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(process: subprocess.Popen[str], address: str) -> None:
    lines: Queue[str | None] = Queue()

    def read() -> None:
        # To the end of the app, so that it never waits for somebody to read.
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    Thread(target=read, daemon=True).start()
    said: list[str] = []
    deadline = time.monotonic() + START_LIMIT_S
    with suppress(Empty):
        while (line := lines.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            said.append(line)
            if address in line:
                return
    pytest.fail(f"the app did not start:\n{''.join(said)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_gallery_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    ended = run_app("--gallery", tmp_path / "absent")
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "There is no gallery folder" in ended.stderr
    assert "python -m precompute build" in ended.stderr


def test_a_half_written_gallery_is_refused_also_from_the_environment(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "clip.npy").write_bytes(b"")
    ended = run_app(TWOLENS_GALLERIES=str(tmp_path / "half"))
    assert ended.returncode == 2
    assert f"has no {MANIFEST_FILE}" in ended.stderr


def test_a_wrong_port_is_told_by_name():
    ended = run_app("--port", 99999)
    assert ended.returncode == 2
    assert "port: Input should be less than or equal to 65535" in ended.stderr


def test_a_tampered_gallery_is_refused(coco_gallery, tmp_path):
    copy = shutil.copytree(coco_gallery, tmp_path / "copy")
    with (copy / shard_file(0, 1)).open("ab") as file:
        file.write(b"x")
    ended = run_app("--gallery", copy)
    assert ended.returncode == 2
    assert f"{shard_file(0, 1)} is not the file that was built" in ended.stderr


def test_a_port_that_is_taken_is_one_sentence(coco_gallery):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run_app("--gallery", coco_gallery, "--port", taken.getsockname()[1])
    assert ended.returncode == 2
    assert "Cannot listen on 127.0.0.1:" in ended.stderr
    assert "--port" in ended.stderr and "GRADIO" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def coco_app(coco_gallery) -> Iterator[str]:
    with running_app("--gallery", coco_gallery) as address:
        yield address


@pytest.mark.parametrize(("query", "word"), QUERIES)
def test_both_lenses_find_the_right_kind_of_picture(coco_app, coco_gallery, query, word):
    """What people wrote of a picture says what it shows; the captioner's own words may not."""
    gallery = Gallery.open(coco_gallery, PROFILES["mini"])
    answer = Client(coco_app, verbose=False).predict(query, 5, api_name="/compare")
    for lens in ("captions", "clip"):
        shown = [" ".join(gallery.record(hit["id"]).references).lower() for hit in answer[lens]]
        assert any(word in text for text in shown), (lens, answer[lens])


def test_why_adds_up_to_the_scores_that_were_shown(coco_app):
    client = Client(coco_app, verbose=False)
    query = "people riding horses on the beach"
    answer = client.predict(query, 5, api_name="/compare")
    for hit in answer["fused"]:
        why = client.predict(query, hit["id"], api_name="/why")
        said = why["captions"]
        words = sum(word["share"] for word in said["query_words"]) + said["query_rest"]
        assert words == pytest.approx(said["score"], abs=1e-4)
        shares = sum(caption["share"] for caption in said["captions"])
        assert shares == pytest.approx(said["score"], abs=1e-4)
        assert sum(why["fused"].values()) == pytest.approx(hit["score"], abs=1e-3)
        for lens in ("captions", "clip"):
            scores = {found["id"]: found["score"] for found in answer[lens]}
            if hit["id"] in scores:
                assert why[lens]["score"] == pytest.approx(scores[hit["id"]], abs=1e-4)
        moved = client.predict(query, hit["id"], query, api_name="/try_caption")
        assert moved["fused"]["before"]["rank"] == hit["rank"]
        assert moved["fused"]["before"]["score"] == pytest.approx(hit["score"], abs=1e-3)
        assert moved["captions"]["after"] == {"score": pytest.approx(1, abs=1e-4), "rank": 1}
        assert moved["fused"]["after"]["rank"] <= hit["rank"]
    assert [word["text"] for word in why["clip"]["words"]] == [
        *(query, "people", "riding", "horses", "beach")
    ]
    for word in why["clip"]["words"]:
        assert max(max(row) for row in word["patches"]) == 1
    assert why["clip"]["area"] == [0, 0, 1, 1]
    assert why["failures"] == {}


def test_the_page_searches_real_photos(coco_app, chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context.new_page(), coco_app)
    visit.search("people riding horses on the beach")
    for lens in ("captions", "clip"):
        expect(visit.cards(f".tl-lens.{lens}")).to_have_count(5, timeout=30_000)
    visit.cards(".tl-lens.clip").first.click()
    dialog = visit.page.get_by_role("dialog")
    expect(dialog.locator("dt", has_text="Licence")).to_be_visible()
    expect(dialog.locator(".tl-file").get_by_role("link")).to_have_attribute(
        "href", re.compile("^https?://")
    )
    expect(dialog).to_contain_text("Written by the captioner")
    dialog.get_by_text("Why this picture?").click()
    # The first explanation loads the image tower.
    expect(dialog.locator(".tl-why-words span").first).to_be_visible(timeout=60_000)
    expect(dialog.get_by_role("img", name="Where CLIP sees “people riding")).to_be_visible()
    dialog.get_by_role("button", name="horses", exact=True).hover()
    seen = dialog.get_by_role("img", name="Where CLIP sees “horses”")
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, 99, 99).data).size"
    assert seen.evaluate(drawn) > 20
    dialog.get_by_label("Try another caption").fill("people riding horses on the beach")
    expect(dialog.locator(".tl-why-places")).to_contain_text("1 of ", timeout=30_000)
    dialog.get_by_role("button", name="similar by CLIP").click()
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    assert (visit.problems, visit.elsewhere) == ([], [])
    context.close()


def test_the_default_gallery_is_built_once_while_the_page_is_served(needs_mini, tmp_path):
    _need(PROFILES["mini"].captioner)
    few = {"TWOLENS_CACHE_DIR": str(tmp_path), "TWOLENS_SAMPLE_PHOTOS": "6"}
    with running_app(**few) as address:
        client = Client(address, verbose=False)
        (listed,) = _until(lambda: client.predict(api_name="/galleries"))
        assert (listed["name"], listed["images"]) == ("sample-photos", 6)
        (metrics,) = _until(lambda: list(tmp_path.glob(f"galleries/*/*/{METRICS_FILE}")))
    found = json.loads(metrics.read_text())
    assert found["queries"] == 30
    assert "TwoLens team wrote" in found["provenance"]["query_origin"]
    written = metrics.with_name(MANIFEST_FILE).stat().st_mtime_ns
    with running_app(**few) as address:
        assert len(Client(address, verbose=False).predict(api_name="/galleries")) == 1
    assert metrics.with_name(MANIFEST_FILE).stat().st_mtime_ns == written
    assert get_settings().cache_dir != tmp_path


def test_the_app_ends_with_what_it_started_to_build_its_gallery(needs_mini, tmp_path):
    _need(PROFILES["mini"].captioner)

    def builders() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if {"build", "precompute"} <= set(process.info["cmdline"] or ())
            and any(str(tmp_path) in word for word in process.info["cmdline"])
        ]

    with running_app(TWOLENS_CACHE_DIR=str(tmp_path), TWOLENS_SAMPLE_PHOTOS="2") as address:
        assert httpx.get(f"{address}/health").json()["status"] == "starting"
        _until(builders)
    assert builders() == []


def _until(look: Callable[[], list[T]]) -> list[T]:
    """Return what ``look`` returns once that is not empty."""
    deadline = time.monotonic() + BUILD_LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
    return found
