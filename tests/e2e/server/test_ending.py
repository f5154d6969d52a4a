"""The app ends at once when it is told to, whatever its threads are at, and leaves no photo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import core
from tests.e2e.upload_visitor import Visitor
from tests.tiny_uploads import files_below, photos

REPOSITORY = Path(core.__file__).resolve().parents[1]

APP = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import app
    from tests.planted_app import planted_shelf
    from tests.tiny_uploads import colour_uploads

    folder = Path(sys.argv[1])
    uploads = colour_uploads(folder)
    uploads.captioner.gate.clear()  # describing the first photo takes 20 seconds
    app.open_models = lambda settings: None
    app.open_shelf = lambda settings, models: planted_shelf(folder)
    app.open_uploads = lambda settings, models: uploads
    app.end_process(app.main(["--port", "0"]))
    """
)


def test_sigterm_ends_it_while_a_photo_is_described(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", APP, str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        found = None
        while found is None:
            found = re.search(r"answers on (\S+)", process.stderr.readline())
        visitor = Visitor(found[1].rstrip("/"))
        visitor.add(photos(3))
        threading.Thread(target=_described, args=[visitor], daemon=True).start()
        time.sleep(1)
        assert len(files_below(tmp_path / "uploads")) >= 3
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert time.monotonic() - started < 8
        assert files_below(tmp_path / "uploads") == []
    finally:
        process.kill()
        process.wait()


def _described(visitor: Visitor) -> None:
    with pytest.raises(Exception):  # noqa: B017 - the server goes away in the middle
        visitor.describe()
