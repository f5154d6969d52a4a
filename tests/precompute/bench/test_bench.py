"""The bench's own parts; what it measures is not a test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import psutil
import pytest
from PIL import Image

from core.config import get_settings
from core.errors import SourceError
from core.gallery.reader import Gallery
from core.models import profiles
from core.models.profiles import Models
from precompute.bench.build_memory import Peaks, memory_figures
from precompute.bench.index import index
from precompute.bench.models.image_tower import image_tower
from precompute.bench.shared.figures import Figure, table, write_json
from precompute.bench.shared.material import (
    Searched,
    packaged_photos,
    planted_gallery,
    queries,
    searched_gallery,
)
from precompute.bench.shared.running_app import AppError, memory_of, running_app
from precompute.bench.shared.small_models import small_profile, small_profile_in
from precompute.build.index_command import IndexChoice
from precompute.evaluate.qrels import from_references


def test_targets_are_read_in_the_right_direction():
    slow = Figure("start", 12.0, "s", 1, target=10.0)
    fast = Figure("build", 3.5, "images/s", 9, 3.0, more_is_better=True, floor=4.0, floor_name="x")
    plain = Figure("memory", 1234.0, "MB", 1)
    assert (slow.met, fast.met, plain.met) == (False, True, None)
    lines = table({"figures": [{**asdict(f), "met": f.met} for f in (slow, fast, plain)]})
    rows = [line.split() for line in lines.splitlines()[1:]]
    assert rows[0] == ["start", "12", "s", "<=", "10", "s", "NO", "1"]
    assert rows[1][:8] == ["build", "3.5", "images/s", ">=", "3", "images/s", "yes", "4"]
    assert rows[2] == ["memory", "1234", "MB", "1"]


def test_queries_are_all_different():
    assert len(set(queries(1000))) == 1000


def test_a_made_gallery_is_a_gallery(tiny, tmp_path):
    options = Searched(gallery=None, source=None, profile="mini", images=50)
    folder, origin = searched_gallery(options, tiny, tmp_path)
    gallery = Gallery.open(folder, tiny)
    assert len(gallery) == 50
    assert origin == "random unit vectors"
    first = gallery.records[0]
    hits = gallery.index("clip", "flat").search(gallery.embedding("clip", first.id)[None], 3)[0]
    assert hits[0].id == first.id
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_made_gallery_has_as_many_references_as_are_asked(tiny, tmp_path):
    gallery = Gallery.open(planted_gallery(40, tiny, tmp_path, asked=12), tiny)
    found = from_references(gallery.records, captions_given=False).queries
    assert [query.relevant for query in found] == [{0: 1}] * 5 + [{1: 1}] * 5 + [{2: 1}] * 2
    texts = {query.text for query in found} | {record.caption for record in gallery.records}
    assert len(texts) == 12 + 40


def test_photos_of_installed_packages(tmp_path):
    photos = sorted(path.name for path in packaged_photos(tmp_path / "photos").iterdir())
    assert "running-cheetah.jpg" in photos


def test_the_file_is_whole_or_refused_in_a_sentence(tmp_path):
    write_json(tmp_path / "bench.json", {"figures": []})
    assert json.loads((tmp_path / "bench.json").read_text()) == {"figures": []}
    with pytest.raises(SourceError, match="cannot be written"):
        write_json(tmp_path / "absent" / "bench.json", {})


def test_an_app_that_cannot_start_is_reported_in_its_own_words(tmp_path):
    with (
        pytest.raises(AppError, match=r"stopped before it answered: .*no-such-gallery"),
        running_app([tmp_path / "no-such-gallery"], "mini", "a dog", tmp_path),
    ):
        pytest.fail("it started")


def test_the_image_tower_is_timed_as_it_runs_and_in_floats():
    result = image_tower(None, "mini", get_settings(), lambda _: None, repeated=2)
    figures = {figure["name"]: figure for figure in result["figures"]}
    asked = [name for name, figure in figures.items() if figure["target"] is not None]
    assert asked == ["image tower, int8, batch 16, an image, p50"]
    whole = figures["image tower, fp32, batch 16, an image, p50"]["value"]
    share = figures["image tower, int8 of fp32, p50"]["value"]
    assert share == pytest.approx(figures[asked[0]]["value"] / whole, rel=0.5)


def test_small_models_of_random_weights_describe_a_picture(tmp_path):
    small_profile(tmp_path / "models")
    models = Models(small_profile_in(tmp_path / "models"), device="cpu")
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    assert [caption.text != "" for caption in models.captioner.caption(images)] == [True, True]
    rows = models.clip.encode_image(images)
    assert rows.shape == (2, 512) and np.isfinite(rows).all()


def test_memory_is_told_by_phase_and_as_growth():
    few = Peaks({"shards": 600.0, "indexes": 700.0}, 14.0)
    many = Peaks({"shards": 660.0, "assembly": 661.0, "indexes": 990.0}, 15.0)
    figures = {figure.name: figure for figure in memory_figures({1000: few, 9000: many})}
    assert figures["build, shards: growth from 1,000 to 9,000"].met is False
    assert figures["build, indexes: growth from 1,000 to 9,000"].value == 290
    assert figures["build, indexes: growth from 1,000 to 9,000"].target is None
    assert figures["build, assembly: peak memory, 9,000 pictures"].value == 661
    assert figures["build, a decoder: peak memory, 9,000 pictures"].value == 15


def test_no_picture_to_time_is_one_sentence(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"holds no picture that can be used\.$"):
        image_tower(str(tmp_path), "mini", get_settings(), lambda _: None)


def test_the_index_is_measured_at_a_size_that_the_gallery_has_not(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "mini", tiny)
    gallery = planted_gallery(600, tiny, tmp_path)
    result = index(gallery, IndexChoice.ivf, 2000, 10, "mini", lambda _: None)
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    assert result["pictures"] == 2000
    for lens, entry in result["indexes"].items():
        assert entry["recall"] >= 0.95, "as a build chooses its effort"
        less = [point["recall"] for point in entry["curve"] if point["effort"] < entry["effort"]]
        assert max(less) < entry["recall"], "and no more than it takes"
        assert figures[f"{lens} ivf: recall@10, words"] >= 0.9


def test_memory_tells_a_gallerys_mapped_files_from_a_processs_own(tmp_path):
    if not hasattr(psutil.Process, "memory_maps"):
        pytest.skip("this system does not tell")
    path = tmp_path / "vectors.npy"
    np.save(path, np.ones(5_000_000, np.float32))
    # A process of its own: in this one memory of earlier tests may be given back meanwhile.
    script = (
        "import sys, numpy as np\n"
        "print(flush=True); input()\n"
        "mapped, own = np.load(sys.argv[1], mmap_mode='r'), np.ones(10_000_000, np.float32)\n"
        "print(mapped.sum() + own.sum(), flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        before = memory_of(process.pid, tmp_path)
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.readline()) == 15_000_000
        after = memory_of(process.pid, tmp_path)
        process.communicate("\n")
    assert before.gallery == 0
    assert after.gallery == pytest.approx(20, abs=1)
    assert after.own - before.own == pytest.approx(40, abs=4)
    assert after.resident == after.own + after.gallery + after.libraries
