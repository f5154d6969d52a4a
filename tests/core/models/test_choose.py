"""Captioners and CLIP models named by a folder or a Hub id, and what is made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import InstructBlipForConditionalGeneration
from typer.testing import CliRunner

from app import open_models
from core.config import Settings
from core.errors import ManifestMismatchError, ModelError, ModelNotFoundError
from core.gallery.reader import Gallery
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import decoding_of
from core.models.captioner.settings import DECODING_FILE
from core.models.choose import captioner_spec, clip_spec, with_captioner, with_clip
from core.models.clip.encoder import ClipEncoder
from core.models.locate import revision_of
from core.models.profiles import PROFILES, Models
from core.uploads.captioner import upload_captioner
from precompute.__main__ import app
from precompute.evaluate.gallery_metrics import Plan, profile_of
from tests.tiny_clip import TINY_DIM, build_tiny_clip
from tests.tiny_models import save_tiny_instructblip

COMMITS = ("0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef")
PICTURES = [Image.new("RGB", (40, 40), name) for name in ("red", "lime", "blue", "gray", "pink")]


def write_decoding(folder: Path, **values) -> None:
    quick = {"num_beams": 1, "min_new_tokens": 2, "max_new_tokens": 6, **values}
    (folder / DECODING_FILE).write_text(json.dumps({"decoding": quick}))


def save_adapter(folder: Path, base: Path, named: str, revision: str | None = None) -> Path:
    """Write an adapter with random weights, which changes what its base says."""
    torch.manual_seed(3)
    model = InstructBlipForConditionalGeneration.from_pretrained(base)
    config = LoraConfig(r=2, target_modules=r"language_model\..*\.(q|v)", init_lora_weights=False)
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path, config.revision = named, revision
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_tiny_instructblip(tmp_path_factory.mktemp("choice") / "base")
    write_decoding(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base) -> Path:
    return save_adapter(base.parent / "adapter", base, str(base))


@pytest.fixture
def hub(base, adapter, tmp_path, monkeypatch) -> Path:
    """A Hub cache that holds the base and the adapter, each at one commit, and no connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--me--base" / "snapshots" / COMMITS[0]
    shutil.copytree(base, snapshot)
    snapshot = tmp_path / "models--me--adapter" / "snapshots" / COMMITS[1]
    shutil.copytree(adapter, snapshot)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "me/base", "revision": COMMITS[0]}
    (snapshot / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def said(given: str) -> list[str]:
    captioner = InstructBlipCaptioner(captioner_spec(given), device="cpu")
    return [caption.text for caption in captioner.caption(PICTURES)]


def test_a_folder_and_an_adapter_of_it(base, adapter):
    spec = captioner_spec(str(adapter))
    assert spec.base == captioner_spec(str(base))
    assert spec.base.base is None
    assert revision_of(spec).endswith(f"+{revision_of(spec.base)}")
    assert said(str(adapter)) != said(str(base))


def test_an_adapter_asks_for_its_bases_decoding_or_its_own(base, adapter, tmp_path):
    assert decoding_of(captioner_spec(str(adapter))).max_new_tokens == 6
    own = shutil.copytree(adapter, tmp_path / "own")
    write_decoding(own, max_new_tokens=4)
    assert decoding_of(captioner_spec(str(own))).max_new_tokens == 4


def test_an_adapter_and_its_base_from_the_hub_at_their_commits(hub, adapter):
    spec = captioner_spec(f"me/adapter@{COMMITS[1]}")
    assert (spec.revision, spec.base.revision) == (COMMITS[1], COMMITS[0])
    assert (spec.name, spec.base.name) == ("me/adapter", "me/base")
    assert revision_of(spec) == f"{COMMITS[1]}+{COMMITS[0]}"
    assert decoding_of(spec).max_new_tokens == 6
    captioner = InstructBlipCaptioner(spec, device="cpu")
    assert [caption.text for caption in captioner.caption(PICTURES)] == said(str(adapter))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("me/base", "Offline, name its commit"),
        (f"me/absent@{COMMITS[0]}", "me/absent could not be found"),
        ("/no/such/folder", "neither a folder nor"),
        ("asset:absent", "does not exist"),
    ],
)
def test_a_captioner_that_is_not_there_is_one_sentence(hub, given, sentence):
    with pytest.raises(ModelNotFoundError, match=sentence) as raised:
        captioner_spec(given)
    assert "\n" not in str(raised.value)


def test_a_profiles_own_captioner_keeps_its_description():
    full = PROFILES["full"].captioner
    assert captioner_spec(f"Salesforce/instructblip-flan-t5-xl@{full.revision}") == full
    assert captioner_spec("Salesforce/instructblip-flan-t5-xl") == full
    assert captioner_spec("asset:mini-instructblip") == PROFILES["mini"].captioner
    assert with_captioner(PROFILES["mini"], None) is PROFILES["mini"]


def test_the_app_describes_uploads_with_the_captioner_it_was_given(hub, adapter):
    from app import open_models, settings_from

    settings = settings_from(["--captioner", f"me/adapter@{COMMITS[1]}"])
    models = open_models(settings)
    assert models.profile.captioner.base.source == "hub:me/base"
    chosen = upload_captioner(models.profile, settings, models.captioner)
    assert chosen is models.captioner
    unset = upload_captioner(models.profile, Settings(device="cpu"), models.captioner)
    assert unset is not models.captioner


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice") / "tiny"
    build_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, tiny):
    source = tmp_path_factory.mktemp("source")
    lines = []
    for name in ("red", "lime", "blue"):
        Image.new("RGB", (40, 40), name).save(source / f"{name}.png")
        lines.append(json.dumps({"file_name": f"{name}.png", "caption": f"a {name} wall"}))
    (source / "metadata.jsonl").write_text("\n".join(lines))
    out = tmp_path_factory.mktemp("galleries") / "walls"
    options = ["--captions-from", "caption", "--clip", str(tiny), "--device", "cpu"]
    done = CliRunner().invoke(app, ["build", str(source), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    return out


def test_a_clip_folder_and_the_profiles_own_clip_model(tiny):
    spec = clip_spec(str(tiny))
    assert (spec.name, spec.source, spec.dim) == ("tiny", f"path:{tiny.resolve()}", TINY_DIM)
    mini = PROFILES["mini"]
    assert with_clip(mini, None) is mini
    assert clip_spec("asset:mini-clip").licence == mini.clip.licence
    assert with_clip(mini, str(tiny)).captioner == mini.captioner


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("no such thing", "neither a folder nor a Hugging Face id"),
        ("asset:nothing", "Its folder nothing does not exist"),
        ("asset:mini-instructblip", "has no open_clip_config.json"),
    ],
)
def test_a_clip_model_that_is_not_there_is_one_sentence(given, sentence):
    with pytest.raises(ModelError, match=sentence):
        clip_spec(given)
    done = CliRunner().invoke(app, ["build", ".", "--out", "nowhere", "--clip", given])
    assert done.exit_code == 2
    assert sentence in done.output


def test_a_gallery_remembers_its_model_and_is_searched_with_no_other(gallery, tiny):
    profile = with_clip(PROFILES["mini"], str(tiny))
    opened = Gallery.open(gallery, profile)
    assert opened.manifest.clip.name == "tiny"
    assert opened.manifest.clip.source == "path:tiny"
    with pytest.raises(ManifestMismatchError, match="clip"):
        Gallery.open(gallery, PROFILES["mini"])
    assert profile_of(Plan(gallery, clip=str(tiny))) == profile


def test_the_app_searches_with_the_model_it_was_given(gallery, tiny):
    models = open_models(Settings(clip=str(tiny), device="cpu"))
    opened = Gallery.open(gallery, models.profile)
    expected = ClipEncoder(clip_spec(str(tiny)), device="cpu").encode_text(["a red wall"])[0]
    found = models.embed_query("clip", "a red wall")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(opened.records) == 3
    assert isinstance(models, Models)
