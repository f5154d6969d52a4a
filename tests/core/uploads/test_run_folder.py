"""Private folders of several processes that start, stop and are killed at once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from core.uploads.run_folder import RunFolder, sweep_older

ROOT = Path(__file__).resolve().parents[3]


def test_apps_that_start_at_once_leave_each_others_folders_alone(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from core.uploads.run_folder import RunFolder
        for _ in range(150):
            run = RunFolder(Path(sys.argv[1]))
            (run.path / "photo").write_text("of a visitor")
            assert run.path.is_dir(), "swept by another process"
            run.close()
            assert not (run.path / "photo").exists()
        """
    )
    apps = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)
    ]
    assert [app.wait(60) for app in apps] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_folder_that_its_process_had_no_time_to_lock_is_swept(tmp_path):
    (tmp_path / "run-killed-at-birth").mkdir()
    run = RunFolder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["lock", run.path.name])
    run.close()


def test_what_is_still_being_written_is_not_swept_with_what_is_old(tmp_path):
    old = time.time() - 1000
    for name in ("abandoned", "slow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"x")
    for path in (*tmp_path.iterdir(), tmp_path / "abandoned" / "part"):
        os.utime(path, (old, old))  # the folder is as old as its first file; that one still grows
    assert sweep_older(tmp_path, 500) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["slow"]
