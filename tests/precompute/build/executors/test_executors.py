"""Who makes a shard, where and after which others changes no byte of the gallery."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from precompute.build import pipeline
from precompute.build.shards.stages import ShardRows, of_rank
from tests.precompute.build.builds import build, litter, options, photos, same_gallery
from tests.precompute.conftest import noise_photo
from tests.precompute.planted_models import PROFILE, planted_models

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Five shards; two pictures come again in later ones, and two files are none."""
    folder = photos(tmp_path_factory.mktemp("executors") / "in", 18)
    (folder / "004b.png").write_bytes(noise_photo(2))
    (folder / "015b.jpg").write_bytes(noise_photo(2))
    (folder / "016b.png").write_bytes(noise_photo(15))
    (folder / "001b.png").write_bytes(b"no picture")
    (folder / "017b.png").write_bytes(b"neither")
    return folder


@pytest.fixture(scope="module")
def whole(source) -> Path:
    out = source.with_name("whole")
    result = pipeline.build(options(source, out, PROFILE, device="cpu"), models=planted_models())
    assert (result.images, len(result.skipped)) == (18, 2)
    assert [(one.file_name, one.same_as) for one in result.duplicates] == [
        ("004b.png", "002.png"),
        ("015b.jpg", "002.png"),
        ("016b.png", "015.png"),
    ]
    return out


@pytest.mark.parametrize(
    ("groups", "entered"),
    [(1, [5, 15]), (7, [5, 15]), (12, [5, 15]), (16, [5]), (100, [5])],
    ids=["any row", "small groups", "a group between", "a group under way", "a stream"],
)
def test_a_source_is_read_on_or_entered_where_that_reads_less(groups, entered):
    class Numbers:
        def __init__(self) -> None:
            self.entered = []

        def entry(self, start):
            return start // groups * groups

        def read(self, start):
            self.entered.append(start)
            yield from range(start, 23)

    source = Numbers()
    rows = ShardRows(source, 5)
    assert [rows(number) for number in (1, 3, 4, 5)] == [
        [5, 6, 7, 8, 9],
        [15, 16, 17, 18, 19],
        [20, 21, 22],
        [],
    ]
    assert source.entered == entered


@pytest.mark.parametrize("done", [{}, {0: 5, 3: 5}, {4: 2}, {n: 5 for n in range(4)} | {4: 2}])
@pytest.mark.parametrize("total", [22, 12, 40, None])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_make_each_shard_once_whatever_the_source_says_of_its_length(done, total, ranks):
    """A source of 22 rows, of which 12 or 40 may be said: what lies behind its end is empty."""
    shares = []
    for rank in range(ranks):
        own = []
        for number in of_rank(done, 5, total, rank, ranks):
            if number >= 4:  # the last, and what would follow it
                own += [number] * (number == 4)
                break
            own.append(number)
        shares.append(own)
    assert sorted(number for own in shares for number in own) == [
        number for number in range(5) if number not in done
    ]


def test_ranks_share_what_is_left_in_runs():
    shares = [list(islice(of_rank({1: 5}, 5, 25, rank, 2), 2)) for rank in range(2)]
    assert shares == [[0, 2], [3, 4]]


def test_a_shard_made_before_those_it_follows(source, whole, tmp_path, monkeypatch):
    asked = options(source, tmp_path / "g", PROFILE, device="cpu")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "wanted", lambda *_: iter([3]))
        with pytest.raises(FileNotFoundError):  # the first shard is not there
            pipeline.build(asked, models=planted_models())
    result = pipeline.build(asked, models=planted_models())
    assert (result.images, result.resumed_rows) == (18, 5)
    same_gallery(tmp_path / "g", whole)


def test_memory_for_two_pictures_at_once(source, whole, tmp_path):
    """The batch is halved, and nothing of the shard is lost or described twice."""
    models = planted_models(most=2)
    asked = options(source, tmp_path / "g", PROFILE, device="cpu", batch_size=5)
    pipeline.build(asked, models=models)
    same_gallery(tmp_path / "g", whole)
    # 18 pictures, three of them in another shard too (one twice).
    assert models.captioner.asked == 18 + 3
    assert models.captioner.refused == 1  # the first batch; no later one is so large
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.build(replace(asked, out=tmp_path / "h"), models=planted_models(most=0))


def test_two_ranks_of_which_one_dies_at_first(source, whole, tmp_path):
    out = tmp_path / "g"

    def launch(dies: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        command += ["-m", "tests.precompute.rank_builds", str(source), str(out), dies]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
        )

    assert launch(dies="1").returncode != 0
    assert not out.exists()
    made = {path.stem for path in (tmp_path / ".g.building" / "shards").glob("*.json")}
    assert "00002" in made and "00003" not in made  # the second rank's
    done = launch(dies="none")
    assert done.returncode == 0, done.stderr[-3000:]
    same_gallery(out, whole)
    assert litter(tmp_path) == []


def test_actors_of_ray(source, tiny, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    asked = options(source, tmp_path / "g", tiny, device="cpu", executor="ray")
    place = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=place)
    try:
        result = build(asked)
        assert (result.images, len(result.duplicates), len(result.skipped)) == (18, 3, 2)
    finally:
        ray.shutdown()
    build(replace(asked, out=tmp_path / "whole", executor="local"))
    same_gallery(tmp_path / "g", tmp_path / "whole")
