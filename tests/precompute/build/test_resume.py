"""Builds killed at random moments, and resumed, end in the bytes of a build left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import GalleryExistsError
from core.gallery.layout import MANIFEST_FILE
from precompute.build.workspace import Workspace
from tests.precompute.conftest import noise_photo

ROOT = Path(__file__).resolve().parents[3]


def test_killed_builds_end_in_the_same_bytes(tiny, models_folder, tmp_path):
    source, old = tmp_path / "photos", tmp_path / "old photos"
    source.mkdir()
    old.mkdir()
    for i in range(14):
        (source / f"{i:02d}.png").write_bytes(noise_photo(i % 12))
    (source / "05b.jpg").write_bytes(b"\xff\xd8\xff broken")
    for i in range(3):
        (old / f"{i}.png").write_bytes(noise_photo(50 + i))
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.precompute.killed_builds"),
            *(str(models_folder), str(source), str(old), str(work)),
            *("4", str(int.from_bytes(os.urandom(2), "big"))),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("replaced: ")
    assert sum(int(line.split()[3]) for line in lines if line.startswith("new")) >= 2


@pytest.mark.parametrize("workspace_is_left", [False, True])
def test_a_kill_in_the_last_step_is_finished_quietly(tmp_path, workspace_is_left):
    """The gallery is in place and only an empty folder of the build is left."""
    workspace = Workspace(tmp_path / "gallery")
    workspace.out.mkdir()
    (workspace.out / MANIFEST_FILE).write_text('{"self_sha256": ""}')
    (tmp_path / ".gallery.finished").mkdir()
    if workspace_is_left:
        workspace.root.mkdir()
    workspace.check_out(overwrite=False)
    with workspace.locked():
        assert workspace.is_published()
        workspace.tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]
    assert not workspace.is_published()
    with pytest.raises(GalleryExistsError):
        workspace.check_out(overwrite=False)
