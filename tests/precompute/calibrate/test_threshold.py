"""``threshold`` on tiny real models: what it chooses, writes, and then does to a description."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from core.describing import Describer
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import DECODING_FILE
from core.models.clip import hubs
from core.models.clip.encoder import ClipEncoder
from core.models.locate import revision_of
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from core.models.spec import ModelSpec
from core.records import UNSURE
from precompute.__main__ import app
from precompute.calibrate.out_of_distribution import made_pictures, sample_files
from tests.core.planted import unit_rows
from tests.tiny_clip import build_tiny_clip
from tests.tiny_models import save_tiny_instructblip

PHOTOS = 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(3)
    lines = []
    for row in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 255, (3, 4, 3), dtype=np.uint8))
        coarse.resize((60, 40)).save(folder / f"{row:02}.png")
        lines.append(json.dumps({"file_name": f"{row:02}.png", "captions": ["a dog", "a cat"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def captioner(tmp_path):
    folder = save_tiny_instructblip(tmp_path / "captioner")
    decoding = {"num_beams": 2, "min_new_tokens": 3, "max_new_tokens": 6, "repetition_penalty": 1.0}
    (folder / DECODING_FILE).write_text(json.dumps({"decoding": decoding, "kept": 1}))
    return folder


def run(*words: object):
    return CliRunner().invoke(app, ["threshold", *map(str, words), "--device", "cpu"])


def test_a_share_of_the_photos_is_called_unsure_afterwards(
    captioner, photos, tmp_path, monkeypatch
):
    others = tmp_path / "unlike"
    others.mkdir()
    for number, (_, picture) in enumerate(made_pictures(each=1)):
        picture.save(others / f"{number}.png")
    (others / "notes.txt").write_text("no picture")
    clip = build_tiny_clip(tmp_path / "clip")
    words = [
        captioner,
        "--data",
        photos,
        "--out-of-distribution",
        others,
        "--clip",
        tmp_path / "clip",
    ]
    before = (captioner / DECODING_FILE).read_text()
    tried = run(*words, "--share", "0.25", "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert (captioner / DECODING_FILE).read_text() == before
    done = run(*words, "--share", "0.25")
    assert done.exit_code == 0, done.output
    assert "20 photos: 25.0% of the captions are called unsure." in done.output
    assert "7 out-of-distribution pictures" in done.output
    assert "ROC AUC" in done.output
    content = json.loads((captioner / DECODING_FILE).read_text())
    assert {key: content[key] for key in ("decoding", "kept")} == json.loads(before)
    assert content["unsure"]["called_unsure"] == 0.25
    usual = content["unsure"]["usual"]
    assert 1 <= len(usual) == len(set(usual)) <= PHOTOS

    models = Describer(
        InstructBlipCaptioner(ModelSpec("tiny", f"path:{captioner}", licence="none"), device="cpu"),
        MiniLmEncoder(PROFILES["mini"].sentence, device="cpu"),
        ClipEncoder(clip, device="cpu"),
    )
    described = models.describe([Image.open(path) for path in sorted(photos.glob("*.png"))])
    assert sum(UNSURE in said[0].flags for said in described.captions) == PHOTOS // 4
    assert content["unsure"]["hubness_weight"] == 0.0

    bank = unit_rows(30, models.clip.encode_text(["a dog"]).shape[1])
    save_file({revision_of(clip): bank}, tmp_path / "bank.safetensors")
    monkeypatch.setattr(hubs, "BANK_FILE", tmp_path / "bank.safetensors")
    assert run(*words, "--share", "0.5").exit_code == 0
    content = json.loads((captioner / DECODING_FILE).read_text())
    assert content["unsure"]["hubness_weight"] == 2.0
    described = models.describe([Image.open(path) for path in sorted(photos.glob("*.png"))])
    assert sum(UNSURE in said[0].flags for said in described.captions) == PHOTOS // 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no-such-model", "--data", "x"], "neither a folder nor"),
        (["{captioner}", "--data", "no-such-folder"], "no-such-folder"),
        (["{captioner}", "--data", "{photos}", "--out-of-distribution", "{empty}"], "no picture"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(captioner, photos, tmp_path, words, sentence):
    (tmp_path / "empty").mkdir()
    places = {"captioner": captioner, "photos": photos, "empty": tmp_path / "empty"}
    before = (captioner / DECODING_FILE).read_text()
    done = run(*(word.format(**places) for word in words))
    assert done.exit_code == 2
    assert sentence in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert (captioner / DECODING_FILE).read_text() == before


def test_made_pictures_are_the_same_for_a_seed_and_differ_otherwise():
    first, again, other = (list(made_pictures(2, seed)) for seed in (0, 0, 1))
    assert len(first) == 14
    assert len({kind for kind, _ in first}) == 7
    assert [image.tobytes() for _, image in first] == [image.tobytes() for _, image in again]
    pixels = [image.tobytes() for _, image in (*first, *other)]
    assert len(set(pixels)) == len(pixels)


def test_the_samples_are_pictures():
    paths = sample_files()
    assert len(paths) >= 10
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 1
