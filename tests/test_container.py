"""The container's recipe names what is there, and asks for the health that the app tells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted_app import planted_shelf, serving

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()


def test_all_that_is_copied_is_there_and_let_through():
    sources = [
        source
        for step in STEPS
        if step.startswith("COPY ") and "--from" not in step
        for source in step.split()[1:-1]
    ]
    let_through = {line[1:] for line in _ignored() if line.startswith("!")}
    assert let_through == set(sources)
    assert all(list(ROOT.glob(source)) for source in sources)
    assert _ignored()[0] == "*"


def _ignored() -> list[str]:
    return (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


def test_torch_is_pinned_once_and_comes_from_its_cpu_index():
    (run,) = (step for step in STEPS if "pip install" in step)
    pattern = re.search(r"grep -E '([^']+)' requirements.txt > torch.txt", run)[1]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [re.match(pattern, pin)[0] for pin in pins if re.match(pattern, pin)] == [
        "torch==",
        "torchvision==",
    ]
    assert run.index("-r torch.txt --index-url") < run.index("-r others.txt")
    assert "==" not in run.replace("bitsandbytes==", "").replace("(torch|torchvision)==", "")


def test_it_does_not_run_as_root():
    users = [step.split()[1] for step in STEPS if step.startswith("USER ")]
    assert users == ["1000"]


@pytest.mark.parametrize(("count", "code"), [(3, 0), (None, 1)])
def test_the_health_check_sees_whether_the_app_is_ready(tmp_path, count, code):
    (check,) = (step.partition(" CMD ")[2] for step in STEPS if step.startswith("HEALTHCHECK"))
    _, *arguments = json.loads(check)
    shelf = planted_shelf(tmp_path, [("planted", count)] if count else [])
    with serving(shelf) as address:
        environment = {**os.environ, "TWOLENS_PORT": address.rpartition(":")[2]}
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, check=False
        )
    assert done.returncode == code
