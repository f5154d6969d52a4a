"""Captioners named by a folder or a Hub id: checkpoints, adapters, and what the app makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import InstructBlipForConditionalGeneration

from core.config import Settings
from core.errors import ModelNotFoundError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.loading import decoding_of
from core.models.captioner.settings import DECODING_FILE
from core.models.choose_captioner import captioner_spec, with_captioner
from core.models.profiles import PROFILES
from core.models.weights import revision_of
from core.uploads.captioner import upload_captioner
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
def test_what_is_not_there_is_one_sentence(hub, given, sentence):
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
    from app import _settings, open_models

    settings = _settings(["--captioner", f"me/adapter@{COMMITS[1]}"])
    models = open_models(settings)
    assert models.profile.captioner.base.source == "hub:me/base"
    chosen = upload_captioner(models.profile, settings, models.captioner)
    assert chosen is models.captioner
    unset = upload_captioner(models.profile, Settings(device="cpu"), models.captioner)
    assert unset is not models.captioner
