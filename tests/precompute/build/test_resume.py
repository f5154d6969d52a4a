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

ROOT = Path(__file__).resolve().parents[3]


def test_killed_builds_end_in_the_same_bytes(tmp_path):
    seed = int.from_bytes(os.urandom(2), "big")
    done = subprocess.run(
        [sys.executable, "-m", "tests.precompute.killed_builds", str(tmp_path), "8", str(seed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("replaced: ")
    assert sum(int(line.split()[3]) for line in lines if line.startswith("new")) >= 4


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
