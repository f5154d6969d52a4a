"""``publish`` and back, by the real client against a Hub on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BitsAndBytesConfig, InstructBlipForConditionalGeneration

from core.errors import ModelError, SourceError
from core.gallery.manifest import Manifest
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.choose import captioner_spec
from precompute.hub.model import publication
from tests.local_hub import LocalHub, local_hub
from tests.precompute.build.builds import rows as gallery_rows
from tests.precompute.conftest import noise_photo
from tests.tiny_clip import build_tiny_clip
from tests.tiny_models import save_tiny_instructblip

ROOT = Path(__file__).resolve().parents[3]
PINNED = re.compile(r"(?P<id>mine/[\w-]+)@(?P<commit>[0-9a-f]{40})")


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


@pytest.fixture
def run(hub, tmp_path):
    def run(*arguments: object, home: str = "home", **environment: str):
        return subprocess.run(
            [sys.executable, "-m", "precompute", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"}
            | hub.environment(tmp_path / home)
            | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def captioner(tmp_path) -> Path:
    folder = save_tiny_instructblip(tmp_path / "tuned")
    quick = {"num_beams": 1, "min_new_tokens": 2, "max_new_tokens": 6}
    (folder / "twolens.json").write_text(json.dumps({"decoding": quick}))
    (folder / "README.md").write_text("---\nlicence: cc0-1.0\n---\nA tiny captioner.\n")
    for left in ("checkpoint/state.pt", "log/events", "features/a.npy", "old.bin"):
        (folder / left).parent.mkdir(exist_ok=True)
        (folder / left).write_bytes(b"not for others")
    return folder


def published(done: subprocess.CompletedProcess) -> tuple[str, str]:
    assert done.returncode == 0, done.stderr
    found = PINNED.search(done.stdout)
    assert found, done.stdout
    return found["id"], found["commit"]


def held(hub: LocalHub, name: str) -> dict[str, bytes]:
    return hub.repositories[name].files("main")[1]


def put_into_8_bits(folder: Path) -> None:
    """Write the weights anew, as ``--eight-bit`` does, in several files."""
    model = InstructBlipForConditionalGeneration.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        device_map={"": "cpu"},
        dtype=torch.float16,
    )
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")


def test_a_captioner_and_a_clip_model_come_back_from_the_hub(run, hub, captioner, tmp_path):
    put_into_8_bits(captioner)
    build_tiny_clip(tmp_path / "clip")
    model, commit = published(run("publish", "model", captioner, "mine/tuned"))
    clip, clip_commit = published(
        run("publish", "model", tmp_path / "clip", "mine/clip", "--public")
    )
    assert hub.repositories[model].private
    assert not hub.repositories[clip].private
    here = {path.name: path.read_bytes() for path in captioner.iterdir() if path.is_file()}
    arrived = held(hub, model)
    assert "old.bin" not in arrived
    assert not any(name.startswith(("checkpoint", "log", "features")) for name in arrived)
    assert len([name for name in arrived if name.endswith(".safetensors")]) > 1
    assert {name: arrived[name] for name in here if name != "old.bin"} == {
        name: content for name, content in here.items() if name != "old.bin"
    }

    (tmp_path / "photos").mkdir()
    for seed in range(3):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(noise_photo(seed))
    built = run(
        *("build", tmp_path / "photos", "--out", tmp_path / "gallery"),
        *("--captioner", model, "--clip", f"{clip}@{clip_commit}", "--device", "cpu"),
        home="elsewhere",
    )
    assert built.returncode == 0, built.stderr
    rows = gallery_rows(tmp_path / "gallery")
    images = [Image.open(tmp_path / "photos" / row["file_name"]).convert("RGB") for row in rows]
    here_too = InstructBlipCaptioner(captioner_spec(str(captioner)), device="cpu").caption(images)
    assert [row["caption"] for row in rows] == [caption.text for caption in here_too]
    manifest = Manifest.read(tmp_path / "gallery")
    assert manifest.captioner is not None
    assert (manifest.captioner.source, manifest.captioner.revision) == (f"hub:{model}", commit)
    assert (manifest.clip.source, manifest.clip.revision) == (f"hub:{clip}", clip_commit)


def test_publishing_again_changes_what_has_changed(run, hub, captioner):
    name, first = published(run("publish", "model", captioner, "mine/tuned"))
    assert published(run("publish", "model", captioner, "mine/tuned")) == (name, first)
    (captioner / "twolens.json").unlink()
    (captioner / "metrics.json").write_text("{}")
    held(hub, name).update({"pictures/cat.png": b"a cat", "data/cats.json": b"[]"})
    held(hub, name)["model-00001-of-00002.safetensors"] = b"of before"
    _, second = published(run("publish", "model", captioner, "mine/tuned"))
    assert second != first
    arrived = held(hub, name)
    assert "twolens.json" not in arrived
    assert arrived["metrics.json"] == b"{}"
    assert "model-00001-of-00002.safetensors" not in arrived
    assert (arrived["pictures/cat.png"], arrived["data/cats.json"]) == (b"a cat", b"[]")


def test_what_the_hub_says_no_to_is_one_sentence(run, hub, captioner):
    cases = {
        "You may not write to mine/tuned. Sign in": {"HF_TOKEN": "hf_of_somebody_else"},
        "HF_HUB_OFFLINE is set": {"HF_HUB_OFFLINE": "1"},
        "could not be published": {"HF_ENDPOINT": "http://127.0.0.1:9"},
    }
    for sentence, environment in cases.items():
        done = run("publish", "model", captioner, "mine/tuned", **environment)
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "is no name of a repository" in run("publish", "model", captioner, "a b/c").stderr
    assert not hub.repositories
    hub.damages_uploads = True
    done = run("publish", "model", captioner, "mine/tuned")
    assert done.returncode == 2, done.stdout
    assert "1 files did not arrive in mine/tuned as they are here, model.safetensors" in done.stderr


def test_a_dry_run_asks_nobody(run, hub, captioner):
    (captioner / "README.md").unlink()
    done = run("publish", "model", captioner, "mine/tuned", "--dry-run", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout
    assert "old.bin" not in done.stdout
    assert "has no README.md" in done.stderr
    assert not hub.repositories


def test_what_could_not_be_loaded_is_not_published(captioner, tmp_path):
    with pytest.raises(SourceError, match="There is no folder"):
        publication(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="neither a captioner, nor an adapter"):
        publication(tmp_path / "empty")
    index = captioner / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match="lacks model-00001-of-00002"):
        publication(captioner)
    index.unlink()
    weights = captioner / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ModelError, match="model.safetensors of tuned is missing or damaged"):
        publication(captioner)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights in safetensors"):
        publication(captioner)


def test_an_adapter_needs_a_base_that_others_have(captioner, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    def trained_on(base: str) -> Path:
        config = {"peft_type": "LORA", "base_model_name_or_path": base}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        return adapter

    with pytest.raises(ModelError, match="a folder of this machine, tuned, which nobody else has"):
        publication(trained_on(str(captioner)))
    what = publication(trained_on("asset:mini-instructblip"))
    assert sorted(what.files) == ["adapter_config.json", "adapter_model.safetensors"]
