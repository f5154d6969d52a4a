"""The container's recipe names what is there, and asks for the health that the app tells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.config import Settings
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


def test_the_compose_file_sets_what_the_app_reads_and_pins_what_it_runs():
    compose = yaml.safe_load((ROOT / "compose.milvus.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    app = services["app"]
    for name in app["environment"]:
        assert name.removeprefix("TWOLENS_").lower() in Settings.model_fields, name
    host, _, port = app["environment"]["TWOLENS_MILVUS_URI"].removeprefix("http://").partition(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert (ROOT / app["build"]["args"]["EXTRA"]).is_file()
    assert f"ARG {next(iter(app['build']['args']))}=" in DOCKERFILE
    assert f"EXPOSE {app['ports'][0].partition(':')[2]}" in DOCKERFILE
    images = [service["image"] for service in services.values() if "image" in service]
    assert all(re.search(r":(v\d+\.\d+\.\d+|RELEASE\.[\w-]+)\}?$", image) for image in images)
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        assert service["restart"] == "unless-stopped", name
        for volume in service.get("volumes", ()):
            source = volume.rpartition(":/")[0]
            assert source.startswith("${GALLERY") or source in compose["volumes"], volume
    awaited = {name for name, how in app["depends_on"].items() if how["condition"]}
    assert all("healthcheck" in services[name] for name in awaited)
