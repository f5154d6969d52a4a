"""What the system refuses ends a command in one sentence; a home is not needed to serve."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from core.errors import QueryError, sentence_of
from core.models.profiles import PROFILES
from tests.core.planted import gallery_on_disk, unit_rows
from tests.precompute.conftest import asked, noise_photo
from tests.precompute.tiny_profile import make_tiny_profile

ROOT = Path(__file__).resolve().parents[1]
STRANGER = 54321
"""A user of whom the system knows nothing but the number."""


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    """Of random embeddings, by the models of the mini profile."""
    folder = tmp_path_factory.mktemp("galleries") / "random"
    mini = PROFILES["mini"]
    captions, clip = (unit_rows(12, spec.dim or 0) for spec in (mini.sentence, mini.clip))
    gallery_on_disk(folder, mini, captions, clip)
    return folder


@pytest.fixture
def loop(tmp_path) -> Path:
    """A link to itself, which not even the superuser can follow."""
    path = tmp_path / "loop"
    path.symlink_to("loop")
    return path


def environment(**changes: str | None) -> Mapping[str, str]:
    values = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in values.items() if value is not None}


def run(*arguments: object, **changes: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_the_app_serves_a_gallery_without_a_home(gallery, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "app.py", "--gallery", str(gallery), "--port", "0"],
            cwd=ROOT,
            env=environment(HOME="/dev/null", XDG_CACHE_HOME=None, TMPDIR=str(tmp_path)),
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 90
        while "TwoLens answers on" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        address = log.read_text().rpartition("answers on ")[2].split()[0]
        assert httpx.get(address, timeout=60).status_code == 200
        assert list(tmp_path.glob("twolens-*/uploads/run-*"))
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0
    assert "Traceback" not in log.read_text()
    assert not list(tmp_path.glob("twolens-*/uploads/run-*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can become another user")
def test_a_user_whom_the_system_does_not_know_has_a_cache_folder_too(tmp_path):
    """As in many a container: no HOME, and a number without a name."""
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:3]:  # of a worker of pytest-xdist one more than alone
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    program = (
        "import os, sys, core.config\n"
        "os.setuid(int(sys.argv[1]))\n"
        "print(core.config.Settings().cache_dir)"
    )
    places = {"XDG_CACHE_HOME": None, "TMPDIR": str(tmp_path)}
    done = run("-c", program, STRANGER, HOME=None, **places)
    assert done.stdout == f"{tmp_path}/twolens-{STRANGER}\n", done.stderr
    assert (tmp_path / f"twolens-{STRANGER}").stat().st_uid == STRANGER
    # What somebody else has put there is not used.
    done = run("-c", program, 0, HOME="/dev/null", **places)
    assert done.stdout == f"{tmp_path}/twolens-0\n", done.stderr
    os.chown(tmp_path / "twolens-0", STRANGER, STRANGER)
    done = run("-c", program, 0, HOME="/dev/null", **places)
    assert done.stdout.startswith(f"{tmp_path}/twolens-"), done.stderr
    assert done.stdout != f"{tmp_path}/twolens-0\n"


def test_what_the_app_cannot_read_or_write_is_one_sentence(gallery, loop):
    refused(run("app.py", "--gallery", loop), "loop cannot be opened (Too many levels")
    refused(
        run("app.py", "--gallery", gallery, TWOLENS_CACHE_DIR="/dev/null/cache"),
        "/dev/null/cache",
        "Not a directory",
    )


@pytest.mark.parametrize(
    "command",
    [
        ("build", "{}", "--out", "{}.gallery"),
        ("evaluate", "{}"),
        ("match", "{}"),
        ("rerank", "{}", "--data", "{}"),
        ("threshold", "{}", "--data", "{}"),
        ("publish", "model", "{}", "owner/name", "--dry-run"),
        ("finetune", "captions", "--data", "{}", "--out", "{}.model"),
    ],
)
def test_what_a_command_cannot_read_is_one_sentence(loop, command):
    words = [word.format(loop) for word in command]
    if command[0] == "build":
        refused(run("-m", "precompute", *words), "loop")
    refused(asked(*words), "loop")


PROGRAM = """
import sys
from pathlib import Path
from tests.precompute.tiny_profile import tiny_profile
from core.models import profiles
profiles.PROFILES["mini"] = tiny_profile(Path(sys.argv.pop(1)))
from precompute.__main__ import app
app()
"""


def test_a_limit_on_the_size_of_files_is_one_sentence(tmp_path):
    models_folder = tmp_path / "models"
    make_tiny_profile(models_folder)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        (photos / f"{i}.png").write_bytes(noise_photo(i))
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, str(models_folder), "build", str(photos)),
            *("--out", str(tmp_path / "g")),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_sentence_names_the_file_and_the_reason():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert sentence_of(full) == "The system stopped this: No space left on device."
    gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/a/b.npy")
    assert sentence_of(gone) == "The system stopped this at /a/b.npy: No such file or directory."
    assert sentence_of(OSError("12 requested\nand 3 written")).endswith(
        "12 requested and 3 written."
    )
    assert sentence_of(OSError()) == "The system stopped this: OSError."
    assert sentence_of(MemoryError()) == "There is not enough memory for this."
    assert sentence_of(QueryError("Type something.")) == "Type something."
