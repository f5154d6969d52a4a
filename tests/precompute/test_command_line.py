"""The command line: exit statuses, one sentence each, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.models.profiles import PROFILES
from core.search.engines.entry import IndexEntry
from precompute.__main__ import app
from precompute.build.command import serve_command
from precompute.build.index_command import describe
from precompute.terminal import ProfileChoice
from tests.precompute.conftest import asked, noise_photo

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "precompute", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_bad_input_is_one_sentence_and_status_2(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(noise_photo(1))
    out = tmp_path / "new" / "g"
    cases = {
        "There is no folder": [tmp_path / "no such folder"],
        "holds no image": [tmp_path / "empty"],
        "plain folder": [tmp_path / "photos", "--caption-column", "captions"],
        "There is no folder owner/name, and": ["owner/name"],
        "inside each other": [tmp_path / "photos", "--out", tmp_path / "photos" / "g"],
    }
    for number, (sentence, arguments) in enumerate(cases.items()):
        words = ["build", *([] if "--out" in arguments else ["--out", out]), *arguments]
        # The first in a process of its own, where libraries might say something when they load.
        done = run(*words) if number == 0 else asked(*words)
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stdout == ""
    assert asked("build", tmp_path / "photos").returncode == 2
    assert "either a SOURCE or --preset NAME" in asked("build", "--out", out).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_finished_build_says_what_to_run_next(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "mini", tiny)
    source, out = tmp_path / "photos", tmp_path / "my gallery"
    source.mkdir()
    (source / "a.png").write_bytes(noise_photo(1))
    done = CliRunner().invoke(app, ["build", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    *_, last = done.stdout.strip().splitlines()
    assert last == f"To search it: python app.py --gallery '{out}'"
    assert serve_command(Path("g"), ProfileChoice.full, "hub/x") == (
        "python app.py --gallery g --profile full --clip hub/x"
    )


def test_what_is_not_understood_is_one_sentence_and_status_2():
    cases = {
        "build --nonsense": "No such option: --nonsense. See: precompute build --help",
        "biuld x": "No such command 'biuld'. Did you mean 'build'? See: precompute --help",
        "index": "Missing argument 'gallery'. See: precompute index --help",
        "--nonsense": "No such option: --nonsense. See: precompute --help",
        "finetune captions --epochs x": "Invalid value for '--epochs'",
        "bench app --queries 1": "Invalid value for '--queries'",
    }
    for line, sentence in cases.items():
        done = CliRunner().invoke(app, line.split(), prog_name="precompute")
        assert (done.exit_code, done.stdout) == (2, ""), line
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_help_is_plain_text_that_cuts_no_sentence_off():
    for line, sentence in {
        "": "Build a gallery: captions, embeddings and indexes of a source's pictures. map Give",
        "build": "Where the gallery is complete, that command updates it: pictures that are still",
        "bench": "Measure searches while photos of other visitors are captioned.",
        "mini": "Teach a captioner's namer what labelled photos show, and write it beside",
        "finetune captions": "Hub id, OWNER/NAME[@REVISION].",
    }.items():
        done = CliRunner().invoke(app, [*line.split(), "--help"], prog_name="precompute")
        assert done.exit_code == 0, done.stderr
        assert sentence in " ".join(done.stdout.split())
        assert max(map(len, done.stdout.splitlines())) <= 80
    assert run("--help").stdout.startswith("Usage: python -m precompute")
    assert run("bench").returncode == 2  # and lists its commands


def test_an_index_that_was_not_measured_says_why():
    few = IndexEntry(kind="ivf", nlist=4, trained_on=60)
    assert describe(few) == (
        "ivf of 4 clusters: built; its recall is not measured, as that takes at least 1,000 "
        "vectors."
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_says_so_by_sentence_and_status(stop, tiny, models_folder, tmp_path):
    """Interrupts a build by the tiny profile just after its first shard; once it is resumed."""
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(30):
        (source / f"{i:02d}.png").write_bytes(noise_photo(i))
    program = """
import sys
from pathlib import Path
from tests.precompute.tiny_profile import tiny_profile
from core.models import profiles
profiles.PROFILES["mini"] = tiny_profile(Path(sys.argv.pop(1)))
from precompute.__main__ import app
app()
"""
    out = tmp_path / "g"
    command = [
        *(sys.executable, "-c", program, str(models_folder), "build", str(source)),
        *("--out", str(out), "--batch-size", "1", "--shard-size", "2"),
    ]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A test run started in the background ignores the signal, and would pass that on.
        preexec_fn=lambda: signal.signal(stop, signal.SIG_DFL),
    )
    shards = tmp_path / ".g.building" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("0*.json")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(stop)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + stop, said
    assert "Stopped. The same command resumes" in said
    assert "Traceback" not in said
    if stop != signal.SIGTERM:
        return
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "Going on after" in again.stderr
    assert "30 images, 0 duplicates, 0 skipped" in again.stdout
