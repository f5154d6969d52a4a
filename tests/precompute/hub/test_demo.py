"""``demo-gallery``: which options reach which step; the whole of it runs in tests/e2e/server."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from precompute.__main__ import app


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The commands that were run; builds leave their report."""
    ran: list[str] = []

    def run(command, **_):
        words = command[3:]
        ran.append(" ".join(words))
        if words[0] == "build":
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True, exist_ok=True)
            (out / "build_report.json").write_text(json.dumps({"images_per_second": 12.5}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("precompute.hub.demo_command.subprocess.run", run)
    return ran


def test_options_reach_their_steps_and_hours_builds_the_first_pictures_only(
    steps, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = ["demo-gallery", "coco", "mine", "--private", "--hardware", "cpu"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0
    assert "5,000 pictures at 12.5 a second take at most 0.11 hours" in done.stdout
    build = "build --preset coco --profile full"
    folder = "galleries/coco"
    assert steps == [
        f"{build} --limit 200 --out {folder}-first-200",
        f"{build} --out {folder}",
        f"evaluate {folder}",
        f"publish gallery {folder} mine/twolens-coco --private",
        "publish space mine/twolens --gallery hf:mine/twolens-coco --profile full --hardware cpu "
        "--private",
    ]
    del steps[:]
    assert CliRunner().invoke(app, ["demo-gallery", "wikiart", "mine", "--hours"]).exit_code == 0
    assert len(steps) == 1 and "--limit 200" in steps[0]
