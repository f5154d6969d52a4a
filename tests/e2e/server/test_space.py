"""A published Space: it starts from its files alone, and answers in a browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.visiting import Visit
from tests.hub_client import publish_shapes
from tests.local_hub import ROOT, LocalHub, local_hub
from tests.zero_gpu import ZeroGpu, zero_gpu

GALLERY = "hf:mine/shapes"


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


class RunningSpace:
    """What the Hub does with a Space: takes its files out of the repository and starts app.py."""

    def __init__(self, hub: LocalHub, machine: ZeroGpu, folder: Path) -> None:
        self.hub, self.machine, self.folder = hub, machine, folder / "space"
        self.process: subprocess.Popen | None = None

    def start(self, key: str) -> None:
        if not key.startswith("spaces/"):
            return
        repository = self.hub.repositories[key]
        for name, content in repository.files("main")[1].items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        repository.host = f"http://127.0.0.1:{port}"
        repository.stages = ["BUILDING", "APP_STARTING", "RUNNING"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TWOLENS_")}
        self.process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=self.folder,
            env=inherited
            | self.hub.environment(self.folder.parent / "home-of-the-space")
            | {"SPACE_ID": "mine/demo", "SYSTEM": "spaces", **self.machine.environment}
            | {"TWOLENS_PORT": str(port), "XDG_CACHE_HOME": str(self.folder.parent / "cache")}
            | repository.variables,
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


@pytest.fixture
def running(hub, tmp_path):
    with zero_gpu() as machine:
        space = RunningSpace(hub, machine, tmp_path)
        hub.when_committed = space.start
        yield space
        space.stop()


def test_a_published_space_starts_from_its_files_alone_and_answers(
    hub, running, chromium, tmp_path
):
    shapes = publish_shapes(hub, tmp_path)
    asked = ["publish", "space", "mine/demo", "--gallery", GALLERY]
    done = subprocess.run(
        [sys.executable, "-m", "precompute", *asked],
        cwd=ROOT,
        env={**os.environ, **hub.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert f"{GALLERY} is commit {shapes} now." in done.stderr
    space = hub.repositories["spaces/mine/demo"]
    assert not space.private and space.hardware == "zero-a10g"
    assert space.variables == {
        "TWOLENS_PROFILE": "mini",
        "TWOLENS_GALLERIES": f"{GALLERY}@{shapes}",
    }
    files = space.files("main")[1]
    assert {name.split("/")[0] for name in files} == {
        *("app.py", "core", "assets", "LICENSE", "README.md", "requirements.txt", ".gitattributes")
    }
    about = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (about["sdk"], about["python_version"]) == ("gradio", "3.12")
    assert len(about["short_description"]) <= 60 and about["datasets"] == ["mine/shapes"]
    address = re.search(r"It answers at (\S+): ", done.stdout)
    assert address, done.stdout
    visit = Visit(chromium.new_page(), address[1])
    visit.search("a red bus")
    visit.page.locator(".tl-card:visible .tl-rank").first.wait_for(timeout=60_000)
    # Gradio asks for the Space at the real Hub, which is out of reach and knows none of that name.
    of_gradio = ("net::ERR_", "Space not found")
    assert [each for each in visit.problems if not any(said in each for said in of_gradio)] == []
    assert running.machine.asked == [], "a query rents nothing"
