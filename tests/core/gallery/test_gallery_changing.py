"""A gallery that is open stays what it was, whatever becomes of its folder and files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core.errors import CorruptGalleryError, GalleryError
from core.gallery.layout import shard_file
from core.gallery.reader import Gallery
from core.records import INDEX_PAIR, LENSES
from tests.core.planted import gallery_on_disk

ROOT = Path(__file__).resolve().parents[3]


def replace(planted, captions, clip) -> None:
    """Do what ``build --overwrite`` does: the old folder aside, the new one into place."""
    new, old = planted.folder.with_name("new"), planted.folder.with_name("old")
    gallery_on_disk(new, planted.profile, captions, clip)
    planted.folder.rename(old)
    new.rename(planted.folder)
    shutil.rmtree(old)


def answers(gallery, planted):
    return {
        (lens, kind): gallery.index(lens, kind).search(getattr(planted, lens)[:5], 5, nprobe=10**6)
        for lens in LENSES
        for kind in INDEX_PAIR
    }


def test_a_gallery_that_is_replaced_answers_as_before(planted):
    """Nothing was searched yet: what is opened when first needed would be the new one's."""
    expected = answers(Gallery.open(planted.folder, planted.profile), planted)
    gallery = Gallery.open(planted.folder, planted.profile)
    assert gallery.is_in_place()
    replace(planted, planted.captions[::-1].copy(), planted.clip[::-1].copy())
    assert answers(gallery, planted) == expected
    assert not gallery.is_in_place()
    now = Gallery.open(planted.folder, planted.profile)
    assert now.is_in_place()
    assert answers(now, planted) != expected


def test_thumbnails_are_never_those_of_another_build(planted):
    gallery = Gallery.open(planted.folder, planted.profile)
    first = gallery.records[0].id
    content = gallery.read_thumbnail(first)
    aside = planted.folder.with_name("aside")
    planted.folder.rename(aside)
    shutil.copytree(aside, planted.folder)
    shard = planted.folder / shard_file(0, 1)
    shard.write_bytes(bytes(shard.stat().st_size))
    shutil.rmtree(aside)
    assert gallery.read_thumbnail(first) == content
    assert gallery.read_thumbnail(gallery.records[7].id) != content


def test_searches_in_threads_do_not_notice_that_the_gallery_is_replaced(planted):
    expected = answers(Gallery.open(planted.folder, planted.profile), planted)
    stop = threading.Event()

    gallery = Gallery.open(planted.folder, planted.profile)

    def search() -> int:
        rounds = 0
        while not stop.is_set():
            assert answers(gallery, planted) == expected
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(search) for _ in range(4)]
        for turn in range(5):
            order = np.random.default_rng(turn).permutation(60)
            replace(planted, planted.captions[order], planted.clip[order])
        stop.set()
        assert all(job.result(timeout=60) for job in running)


PROGRAM = """
import os, sys
from pathlib import Path
from core.gallery.layout import shard_file
from core.gallery.reader import Gallery
from core.models.spec import ModelSpec
from core.models.profiles import Profile
folder, models = Path(sys.argv[1]), Path(sys.argv[2])
specs = (ModelSpec(name, f"path:{models / name}", licence="MIT", dim=dim)
         for name, dim in (("captioner", None), ("sentence", 8), ("clip", 6)))
gallery = Gallery.open(folder, Profile("planted", *specs))
rows = {lens: gallery.embeddings(lens).copy() for lens in ("captions", "clip")}
def search():
    return [gallery.index(lens, kind).search(rows[lens], 5)
            for lens in rows for kind in ("flat", "ivf")]
before = search() if sys.argv[3] == "after" else None
for path in folder.rglob("*"):
    if path.is_file():
        os.truncate(path, 0)
after = search()
for lens in rows:
    assert (gallery.embeddings(lens) == rows[lens]).all()
assert before is None or after == before
print("answered", len(after))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_files_that_are_shortened_in_place_do_not_end_the_process(planted, when):
    """As by a copy over a served gallery; a mapped page that is gone is a SIGBUS."""
    models = Path(planted.profile.clip.source.removeprefix("path:")).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(planted.folder), str(models), when],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != -signal.SIGBUS, "killed by SIGBUS"
    assert (done.returncode, done.stdout) == (0, "answered 4\n"), done.stderr


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_damage(planted):
    path = planted.folder / "clip.npy"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptGalleryError, match="clip.npy is missing"):
        Gallery.open(planted.folder, planted.profile)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptGalleryError, match="clip.npy is missing"):
        Gallery.open(planted.folder, planted.profile)


def test_a_file_that_cannot_be_read_is_one_sentence(planted):
    """A link that leads to itself: even the superuser cannot read it."""
    for name in ("clip.npy", "manifest.json"):
        path = planted.folder / name
        path.unlink()
        path.symlink_to(path.name)
        with pytest.raises(GalleryError, match=rf"{name} of .* cannot be read \(Too many levels"):
            Gallery.open(planted.folder, planted.profile)
