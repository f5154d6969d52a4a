"""Batches grow on a GPU before the first shard is made, once; memory and time are planted."""

from __future__ import annotations

import io
import json
import tarfile
import time

import pytest

from precompute.build import pipeline
from precompute.build.plan import BATCH_KEY
from precompute.build.shards import stages
from precompute.build.shards.memory import fastest_batch
from tests.precompute.build.builds import options, same_gallery
from tests.precompute.conftest import noise_photo
from tests.precompute.planted_models import PROFILE, planted_models


def tried(each: dict[int, float], *, most: int = 1000, room: int = 1000) -> tuple[int, list[int]]:
    """Grow from 4; ``each`` has the seconds a picture by size, and inf where memory runs out."""
    sizes: list[int] = []

    def seconds(size: int) -> float:
        sizes.append(size)
        if each[size] == float("inf"):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return size * each[size]

    return fastest_batch(seconds, 4, most, lambda: 2 * sizes[-1] <= room), sizes


def test_a_batch_is_doubled_while_a_picture_costs_less():
    assert tried({4: 1.0, 8: 0.6, 16: 0.4, 32: 0.39, 64: 0.1}) == (16, [4, 4, 8, 16, 32])


def test_memory_that_does_not_suffice_ends_it_with_and_without_an_error():
    assert tried({4: 1.0, 8: 0.6, 16: 0.4}, room=16) == (16, [4, 4, 8, 16])
    assert tried({4: 1.0, 8: 0.6, 16: float("inf")}) == (8, [4, 4, 8, 16])
    assert tried({4: float("inf")}) == (4, [4]), "halved by the shard that needs it"


def test_nothing_is_tried_where_no_larger_batch_may_come_of_it():
    assert tried({}, most=7) == (4, [])


def test_another_error_is_not_taken_for_want_of_memory():
    def seconds(size: int) -> float:
        raise RuntimeError("an image tower without weights")

    with pytest.raises(RuntimeError, match="without weights"):
        fastest_batch(seconds, 4, 8, lambda: True)


@pytest.fixture
def stream(tmp_path):
    """Pictures in an archive, and nothing that says how many."""
    with tarfile.open(tmp_path / "rows.tar", "w") as archive:
        for number in range(30):
            content = noise_photo(number)
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tmp_path / "rows.tar"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU by name; describing takes the same time for any number of pictures."""
    monkeypatch.setattr(pipeline, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(stages, "twice_fits_gpu", lambda _: True)

    def models(most: int):
        made = planted_models(most)
        genuine = made.captioner.caption

        def caption(images):
            time.sleep(0.2)  # far more than a busy machine adds
            return genuine(images)

        made.captioner.caption = caption
        return made

    return models


def test_a_build_finds_its_batch_once_and_goes_on_with_it(gpu, stream, tmp_path, monkeypatch):
    asked = options(stream, tmp_path / "g", PROFILE, device="cpu", batch_size=2, shard_size=20)
    pipeline.build(asked, models=planted_models())
    grows = options(
        stream, tmp_path / "h", PROFILE, device="cpu", batch_size=2, shard_size=20, grow_batch=True
    )
    said: list[str] = []
    models = gpu(most=12)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "assemble", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.build(grows, models=models, say=said.append)
    assert said[0] == "Batches of 8 pictures."
    assert models.captioner.asked == 2 + 2 + 4 + 8 + 30
    assert models.captioner.refused == 1  # 16
    plan = json.loads((tmp_path / ".h.building" / "plan.json").read_text())
    assert (plan["batch size"], plan[BATCH_KEY]) == (2, 8)
    (tmp_path / ".h.building" / "shards" / "00001.json").unlink()

    again = gpu(most=1000)  # a machine that would find 16
    pipeline.build(grows, models=again)
    assert again.captioner.asked == 10
    same_gallery(tmp_path / "g", tmp_path / "h")
