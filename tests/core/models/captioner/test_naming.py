"""A captioner whose captions begin with what a classifier is sure of, on tiny real checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import ModelError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.naming import (
    NAMER_FILE,
    Name,
    Namer,
    Naming,
    Sighting,
    build_network,
    read_namer,
)
from core.models.captioner.rerank import RerankProbe, write_probe
from core.models.captioner.settings import Decoding
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from core.models.spec import ModelSpec
from tests.tiny_models import save_tiny_instructblip

SENTENCE = PROFILES["mini"].sentence
SEARCH = Decoding(
    num_beams=2, min_new_tokens=4, max_new_tokens=7, no_repeat_ngram_size=1, candidates=4
)
BIRD, BIKE = Name("a red bird"), Name("an bike", ("wave",))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 255, (50, 40, 3), dtype=np.uint8)) for _ in range(2)]


def save_namer(folder: Path, images, sure: bool = True) -> Path:
    """Write a namer that sees a bird in the first image and a bike in the second, or nothing."""
    torch.manual_seed(0)
    naming = Naming("test_efficientnet", 64, (BIRD, BIKE), (0, 1, -1))
    blank = Namer(naming, build_network(naming.architecture), torch.zeros(3, 1), torch.zeros(3))
    first, second = (torch.from_numpy(row) for row in blank.features(images))
    apart = 50 * (first - second) / (first - second).square().sum()
    weight = torch.stack([apart, -apart, torch.zeros_like(apart)])
    middle = float(apart @ (first + second) / 2)
    bias = torch.tensor([-middle, middle, -99.0 if sure else 99.0])
    (folder / NAMER_FILE).write_bytes(Namer(naming, blank.network, weight, bias).to_bytes())
    return folder


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec("tiny", f"path:{folder}", licence="none")


def captioner_of(folder: Path, sentence=None) -> InstructBlipCaptioner:
    return InstructBlipCaptioner(spec_of(folder), device="cpu", decoding=SEARCH, sentence=sentence)


def test_a_name_is_said_by_all_its_words_or_by_one_like_it():
    hot_dog = Name("a hot dog", ("sandwich",))
    assert hot_dog.said_in("Two hot dogs on a plate")
    assert hot_dog.said_in("a man eats a sandwich")
    assert not hot_dog.said_in("a dog on a plate")
    assert not Name("an ant").said_in("a man and a giant")


def test_captions_begin_with_what_is_sure(tmp_path, images):
    folder = save_tiny_instructblip(tmp_path / "tiny")
    before = [caption.text for caption in captioner_of(folder).caption(images)]
    assert not before[0].startswith("a red bird")
    save_namer(folder, images)
    together = captioner_of(folder).caption(images)
    assert together[0].text.startswith("a red bird ")
    assert BIKE.said_in(together[1].text)
    assert all(caption.seen > 0.9 for caption in together)
    assert captioner_of(folder).caption(images[:1])[0].text == together[0].text
    save_namer(folder, images, sure=False)
    unnamed = captioner_of(folder).caption(images)
    assert [caption.text for caption in unnamed] == before
    assert all(caption.seen < 0.1 for caption in unnamed)


def test_a_name_gives_way_where_its_caption_is_further_from_what_is_predicted(tmp_path, images):
    thing, people = "a photo of a desk", "two men in a room"
    assert Sighting(BIRD, 0.9).outweighs(thing, 0.0)
    assert not Sighting(BIRD, 0.9).outweighs(thing, -0.2)
    assert Sighting(BIRD, 0.6).outweighs(thing, 0.0)
    assert not Sighting(BIRD, 0.6).outweighs(people, 0.0)
    assert Sighting(BIRD, 0.6).outweighs(people, 0.1)
    assert not Sighting(BIRD, 0.6).outweighs(thing, -0.1)
    assert Sighting(BIRD, 0.4).outweighs(thing, 0.1)
    assert not Sighting(BIRD, 0.4).outweighs(thing, 0.0)
    assert not Sighting(BIRD, 1.0).outweighs(thing, -0.5)
    folder = save_tiny_instructblip(tmp_path / "tiny")
    sentence = MiniLmEncoder(SENTENCE, device="cpu")
    before = [caption.text for caption in captioner_of(folder).caption(images)]
    save_namer(folder, images)
    named = captioner_of(folder).caption(images[:1])[0].text
    assert named.startswith("a red bird")
    # Whatever the photo, the prediction lies towards what was said before, away from the name.
    first, second = sentence.encode_text([before[0], named])
    away = (first - second) / np.linalg.norm(first - second)
    probe = RerankProbe(np.zeros(32, np.float32), np.zeros((32, 384), np.float32), away)
    write_probe(folder, probe, SENTENCE)
    assert not captioner_of(folder, sentence).caption(images[:1])[0].text.startswith("a red bird")


def test_the_named_caption_is_the_first_of_several_and_chosen_by_the_probe(tmp_path, images):
    folder = save_namer(save_tiny_instructblip(tmp_path / "tiny"), images)
    random = np.random.default_rng(0)
    weight = random.standard_normal((32, 384)).astype(np.float32)
    write_probe(
        folder, RerankProbe(np.zeros(32, np.float32), weight, np.zeros(384, np.float32)), SENTENCE
    )
    captioner = captioner_of(folder, MiniLmEncoder(SENTENCE, device="cpu"))
    one = captioner.caption(images)
    several = captioner.caption_several(images, 4)
    assert one[0].text.startswith("a red bird ")
    assert [own[0].text for own in several] == [caption.text for caption in one]
    assert all(len({caption.text for caption in own}) == len(own) for own in several)
    assert [own[0].seen for own in several] == [caption.seen for caption in one]
    seen = [caption.seen > 0.9 for caption in several[0]]
    assert seen == [BIRD.said_in(caption.text) for caption in several[0]]


def test_a_captioner_without_the_file_has_no_namer(tmp_path):
    assert read_namer(spec_of(tmp_path), "cpu") is None


@pytest.mark.parametrize("damage", ["cut off", "another network", "a name that is not there"])
def test_a_damaged_namer_is_one_sentence(tmp_path, images, damage):
    path = save_namer(tmp_path, images) / NAMER_FILE
    content = path.read_bytes()
    replaced = {
        "cut off": content[: len(content) // 2],
        "another network": content.replace(b"test_efficientnet", b"test_efficientxxx"),
        "a name that is not there": content.replace(b"[0, 1, -1]", b"[0, 7, -1]"),
    }[damage]
    assert replaced != content
    path.write_bytes(replaced)
    with pytest.raises(ModelError, match=NAMER_FILE):
        read_namer(spec_of(tmp_path), "cpu")
