"""Several captions an image: how they are asked for, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.describing import Describer, record_of
from core.errors import ModelError
from core.images.decode import DecodedImage
from core.models.captioner.blip import BlipCaptioner
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import DECODING_FILE, Decoding, FurtherCaptions, read_decoding
from core.models.spec import ModelSpec
from core.records import Caption
from core.text import words_of
from tests.core.planted import unit_rows
from tests.tiny_models import WORDS, save_tiny_blip, save_tiny_instructblip

QUICK = Decoding(num_beams=2, min_new_tokens=2, max_new_tokens=6, no_repeat_ngram_size=1)
PROMPTS = ("a short image caption", "write a short description for the image")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, images) -> Path:
    """A random model that has several things to say of a picture.

    Which seed makes one depends on the version of torch.
    """
    for seed in range(8):
        folder = tmp_path_factory.mktemp("models") / "tiny-instructblip"
        save_tiny_instructblip(folder, seed=seed)
        said = captioner_of(folder, method="sample").caption_several(images, 4)
        if max(map(len, said)) >= 3:
            return folder
    raise AssertionError("no seed makes such a model")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (40, 60, 3), dtype=np.uint8) for _ in range(4)]
    return [*map(Image.fromarray, pixels), Image.new("RGB", (50, 50), "navy")]


def captioner_of(folder: Path, **further) -> InstructBlipCaptioner:
    spec = ModelSpec("tiny", f"path:{folder}", licence="none")
    decoding = replace(QUICK, further=FurtherCaptions(**further))
    return InstructBlipCaptioner(spec, device="cpu", decoding=decoding)


@pytest.mark.parametrize(
    "further",
    [
        {"method": "sample"},
        {"method": "sample", "prompts": PROMPTS, "temperature": 0.8},
        {"method": "beams"},
        {"method": "beams", "prompts": PROMPTS, "candidates": 1},
    ],
)
def test_captions_are_different_undoubted_and_begin_with_the_only_one(checkpoint, images, further):
    captioner = captioner_of(checkpoint, **further)
    first = captioner.caption(images)
    said = captioner.caption_several(images, 4)
    assert [captions[0] for captions in said] == first
    assert max(len(captions) for captions in said) >= 3
    for captions in said:
        words = [words_of(caption.text) for caption in captions]
        assert len(set(words)) == len(words)
        assert set().union(*words) <= set(WORDS)
        assert not any(caption.flags for caption in captions[1:])
        sure = [caption.confidence for caption in captions[1:]]
        assert sure == sorted(sure, reverse=True)
        assert all(0.0 < each <= 1.0 for each in sure)


def test_one_caption_is_the_only_one(checkpoint, images):
    captioner = captioner_of(checkpoint)
    assert captioner.caption_several(images, 1) == [(one,) for one in captioner.caption(images)]
    assert captioner.caption_several([], 3) == []


def test_a_picture_gets_the_same_draws_in_any_batch_and_others_from_another_seed(
    checkpoint, images
):
    captioner = captioner_of(checkpoint, top_p=1.0)

    def texts(said):
        return [[caption.text for caption in captions] for captions in said]

    together = texts(captioner.caption_several(images, 4))
    assert texts(captioner.caption_several(images, 4)) == together
    assert texts(captioner.caption_several(images[::-1], 4)) == together[::-1]
    assert [texts(captioner.caption_several([image], 4))[0] for image in images] == together
    other = texts(captioner_of(checkpoint, top_p=1.0, seed=1).caption_several(images, 4))
    assert [said[0] for said in other] == [said[0] for said in together]
    assert other != together


def test_draws_follow_the_probabilities_of_the_likeliest_tokens():
    """20,000 rows of one distribution: 0.5, 0.3, 0.15, 0.05; the last is outside of top-p 0.9."""
    import torch

    from core.models.captioner.decoding import SeededSampling

    rows = 20_000
    chances = torch.tensor([0.05, 0.5, 0.15, 0.3])
    draws = np.random.default_rng(0).random((rows, 1))
    choose = SeededSampling(draws, FurtherCaptions(temperature=1, top_p=0.9))
    scores = choose(torch.zeros(rows, 1, dtype=torch.long), chances.log().repeat(rows, 1))
    assert torch.isfinite(scores).sum(dim=1).eq(1).all()
    counts = np.bincount(scores.argmax(dim=1).numpy(), minlength=4) / rows
    assert counts == pytest.approx([0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95], abs=0.015)


def test_the_ends_of_the_range_draw_possible_tokens():
    import torch

    from core.models.captioner.decoding import SeededSampling

    scores = torch.tensor([[0.0, 1.0, -torch.inf], [-torch.inf, 1.0, 0.0]]).repeat(2, 1)
    draws = np.array([0.0, 0.0, 1 - 1e-16, 1 - 1e-16])[:, None]
    chosen = SeededSampling(draws, FurtherCaptions(top_p=1.0))(torch.zeros(4, 1).long(), scores)
    assert torch.isfinite(chosen.gather(1, chosen.argmax(1, keepdim=True))).all()
    assert torch.isfinite(scores.gather(1, chosen.argmax(1, keepdim=True))).all()


def test_blip_writes_several_too(tmp_path, images):
    spec = ModelSpec("tiny", f"path:{save_tiny_blip(tmp_path / 'blip')}", licence="none")
    captioner = BlipCaptioner(spec, device="cpu", decoding=replace(QUICK, prompt=""))
    said = captioner.caption_several(images[:2], 3)
    assert [captions[0] for captions in said] == captioner.caption(images[:2])
    assert all(len({c.text for c in captions}) == len(captions) > 1 for captions in said)


class Told:
    """A captioner, a sentence encoder and CLIP that say what a test told them."""

    def __init__(self, said, vectors) -> None:
        self.spec = ModelSpec("told", "path:/", licence="none")
        self._said, self._vectors = said, vectors

    def caption_several(self, images, count):
        return self._said

    def encode_text(self, texts):
        return np.stack([self._vectors[text] for text in texts])

    def encode_image(self, images):
        return unit_rows(len(images), 4)


def test_near_duplicates_are_dropped_and_embeddings_stand_in_the_order_of_the_captions():
    a, b, c, d = (np.eye(4, dtype=np.float32)[row] for row in range(4))
    near_a = np.array([0.999, np.sqrt(1 - 0.999**2), 0, 0], np.float32)
    vectors = {"a": a, "an a": near_a, "b": b, "c": c, "d": d}
    said = [
        tuple(Caption(text, (), 0.5) for text in texts)
        for texts in (("a", "an a", "b", "c", "d"), ("d", "a", "an a"), ("c",))
    ]
    told = Told(said, vectors)
    described = Describer(told, told, told, captions_per_image=3).describe([None] * 3)
    texts = [[caption.text for caption in captions] for captions in described.captions]
    assert texts == [["a", "b", "c"], ["d", "a"], ["c"]]
    assert np.array_equal(described.caption_embeddings, np.stack([a, b, c, d, a, c]))
    picture = DecodedImage(Image.new("RGB", (2, 2)), "0" * 64, 2, 2)
    record = record_of(picture, "a.png", described.captions[0])
    assert record.captions == described.captions[0]
    assert (record.caption, record.confidence) == ("a", 0.5)


def test_a_checkpoint_says_how_further_captions_are_found(tmp_path):
    path = tmp_path / DECODING_FILE
    path.write_text(
        '{"decoding": {"num_beams": 3, "further": {"method": "beams", "prompts": ["x", "y"]}}}'
    )
    further = FurtherCaptions(method="beams", prompts=("x", "y"))
    assert read_decoding(tmp_path) == Decoding(num_beams=3, further=further)


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ('{"nucleus": 0.9}', "unknown settings: nucleus"),
        ('{"method": "guess"}', "by sample or beams, not 'guess'"),
        ('{"top_p": 0}', "top-p 0 are not possible"),
        ('{"candidates": 0.5}', "0.5 candidates"),
        ('"sample"', "cannot be read"),
    ],
)
def test_settings_that_no_search_can_honour(tmp_path, further, sentence):
    (tmp_path / DECODING_FILE).write_text(f'{{"decoding": {{"further": {further}}}}}')
    with pytest.raises(ModelError, match=sentence):
        read_decoding(tmp_path)
