"""From a preset to a Space that starts from its files alone, and answers in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from precompute.sources.presets import PRESETS
from tests.e2e.visiting import Visit
from tests.local_hub import ROOT, LocalHub, Repository, local_hub
from tests.precompute.conftest import noise_photo
from tests.zero_gpu import ZeroGpu, zero_gpu

GALLERY = "hf:mine/twolens-rsicd"


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
            | {"SPACE_ID": "mine/twolens", "SYSTEM": "spaces", **self.machine.environment}
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


def small_aerial_photos(hub: LocalHub, folder: Path) -> None:
    """Put what stands for the preset's dataset onto a hub, as its viewer's parquet files are."""
    from datasets import Dataset, Features, Image, List, Value

    photos = [noise_photo(seed, 240, 200, "JPEG") for seed in range(6)]
    rows = {
        "image": [{"bytes": photo, "path": None} for photo in photos],
        "captions": [[f"aerial photo {seed}", f"roofs {seed}"] for seed in range(6)],
    }
    features = Features({"image": Image(), "captions": List(Value("string"))})
    Dataset.from_dict(rows, features).to_parquet(folder / "rows.parquet")
    dataset = hub.repositories[f"datasets/{PRESETS['rsicd'].dataset}"] = Repository(False)
    dataset.commit({"data/test-00000-of-00001.parquet": (folder / "rows.parquet").read_bytes()})


def test_a_preset_becomes_a_space_that_answers_and_what_broke_goes_on(
    hub, running, chromium, tmp_path
):
    small_aerial_photos(hub, tmp_path)
    galleries = tmp_path / "galleries"
    asked = ["demo-gallery", "rsicd", "mine", "--profile", "mini", "--measured", "2"]

    def command() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "precompute", *asked, "--folder", galleries],
            cwd=ROOT,
            env={**os.environ, **hub.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=1200,
        )

    hub.puts_left = 1
    broken = command()
    assert broken.returncode == 2
    assert "Licence: not stated on the Hub; published for research." in broken.stdout
    assert broken.stderr.strip().endswith(
        "publish gallery ended with status 2; the same command goes on from there."
    )
    speed = json.loads((galleries / "rsicd-first-2/build_report.json").read_text())
    hours = 1_093 / speed["images_per_second"] / 3600
    assert f"1,093 pictures at {speed['images_per_second']:.1f} a second" in broken.stdout
    assert f"at most {hours:.2f} hours on this machine" in broken.stdout
    built = (galleries / "rsicd/manifest.json").stat().st_mtime_ns
    assert json.loads((galleries / "rsicd/metrics.json").read_text())["queries"] == 12

    hub.puts_left = None
    done = command()
    assert done.returncode == 0, done.stderr
    assert (galleries / "rsicd/manifest.json").stat().st_mtime_ns == built
    gallery = hub.repositories["datasets/mine/twolens-rsicd"]
    space = hub.repositories["spaces/mine/twolens"]
    assert not gallery.private and not space.private and space.hardware == "zero-a10g"
    commit = gallery.files("main")[0]
    assert f"{GALLERY} is commit {commit} now." in done.stderr
    assert space.variables == {
        "TWOLENS_PROFILE": "mini",
        "TWOLENS_GALLERIES": f"{GALLERY}@{commit}",
    }
    files = space.files("main")[1]
    assert {name.split("/")[0] for name in files} == {
        *("app.py", "core", "assets", "LICENSE", "README.md", "requirements.txt", ".gitattributes")
    }
    about = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (about["sdk"], about["python_version"]) == ("gradio", "3.12")
    assert len(about["short_description"]) <= 60 and about["datasets"] == ["mine/twolens-rsicd"]
    address = re.search(r"It answers at (\S+): ", done.stdout)
    assert address, done.stdout
    visit = Visit(chromium.new_page(), address[1])
    visit.search("a red bus")
    visit.page.locator(".tl-card:visible .tl-rank").first.wait_for(timeout=60_000)
    # Gradio asks for the Space at the real Hub, which is out of reach and knows none of that name.
    of_gradio = ("net::ERR_", "Space not found")
    assert [each for each in visit.problems if not any(said in each for said in of_gradio)] == []
    assert running.machine.asked == [], "a query rents nothing"
