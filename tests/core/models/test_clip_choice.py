"""CLIP models named by a folder or a Hub id, and what build, evaluate and the app make of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app import open_models
from core.config import Settings
from core.errors import ManifestMismatchError, ModelError
from core.gallery.reader import Gallery
from core.models.choose_clip import clip_spec, with_clip
from core.models.clip.encoder import ClipEncoder
from core.models.profiles import PROFILES, Models
from precompute.__main__ import app
from precompute.evaluate.evaluation import Plan, profile_of
from tests.tiny_clip import TINY_DIM, build_tiny_clip


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


def test_a_folder_and_the_profiles_own_model(tiny):
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
def test_what_is_not_there_is_one_sentence(given, sentence):
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
