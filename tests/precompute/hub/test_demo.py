"""``demo-gallery``: its steps are commands, which have tests of their own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from precompute.__main__ import app


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The commands that were run; builds leave their report, publishing fails the first time."""
    ran: list[str] = []
    breaks = ["publish gallery"]

    def run(command, **_):
        words = command[3:]
        ran.append(" ".join(words))
        if words[0] == "build":
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True, exist_ok=True)
            (out / "build_report.json").write_text(json.dumps({"images_per_second": 12.5}))
        broken = " ".join(words[:2]) in breaks
        return SimpleNamespace(returncode=2 if broken and breaks.pop() else 0)

    monkeypatch.setattr("precompute.hub.demo_command.subprocess.run", run)
    return ran


def test_a_preset_becomes_a_space_and_what_broke_goes_on(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["demo-gallery", "coco", "mine", "--private"]
    broken = CliRunner().invoke(app, asked)
    assert broken.exit_code == 2
    assert "Licence: captions CC BY 4.0" in broken.stdout
    assert "5,000 pictures at 12.5 a second take at most 0.11 hours" in broken.stdout
    assert "publish gallery ended with status 2; the same command goes on" in broken.stderr
    build = "build --preset coco --profile full"
    folder = "galleries/coco"
    assert steps == [
        f"{build} --limit 200 --out {folder}-first-200",
        f"{build} --out {folder}",
        f"evaluate {folder}",
        f"publish gallery {folder} mine/twolens-coco --private",
    ]
    del steps[:]
    assert CliRunner().invoke(app, [*asked, "--hardware", "cpu"]).exit_code == 0
    assert steps[-2:] == [
        f"publish gallery {folder} mine/twolens-coco --private",
        "publish space mine/twolens --gallery hf:mine/twolens-coco --profile full --hardware cpu "
        "--private",
    ]
    del steps[:]
    assert CliRunner().invoke(app, ["demo-gallery", "wikiart", "mine", "--hours"]).exit_code == 0
    assert len(steps) == 1 and "--limit 200" in steps[0]
