"""``python app.py`` in a process of its own: what it refuses, and what it serves."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import expect

from core.gallery.layout import MANIFEST_FILE, shard_file
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES
from tests.e2e.running_app import REPOSITORY, need_mini, run_app, running_app
from tests.e2e.visiting import Visit

QUERIES = (
    ("people riding horses on the beach", "hors"),
    ("a red bus on the street", "red extra long bus"),
    ("a person skiing in the snow", "ski"),
    ("a dog", "dog"),
)


@pytest.fixture(scope="session")
def coco_gallery(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 18 of the 111 photos of coco_cc with generated captions, built by the command line."""
    source = shared_data / "coco_cc"
    if not source.is_dir():
        pytest.skip("../shared/data/coco_cc is not there")
    need_mini(PROFILES["mini"].captioner)
    photos = tmp_path_factory.mktemp("photos")
    kept = []
    for number, line in enumerate((source / "metadata.jsonl").read_text().splitlines()):
        if number % 16 == 0 or any(word in line.lower() for _, word in QUERIES):
            name = json.loads(line)["file_name"]
            (photos / name).symlink_to(source / name)
            kept.append(line)
    (photos / "metadata.jsonl").write_text("\n".join(kept) + "\n")
    out = tmp_path_factory.mktemp("galleries") / "coco_cc"
    command = ["-m", "precompute", "build", str(photos), "--out", str(out)]
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True)
    return out


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


def test_the_page_searches_real_photos(coco_app, new_page):
    visit = Visit(new_page(viewport={"width": 1280, "height": 900}), coco_app)
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
