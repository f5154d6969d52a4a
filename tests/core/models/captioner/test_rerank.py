"""A captioner that chooses among its own captions by what it saw, on tiny real checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import ModelError
from core.models.captioner.caption_text import clean_caption
from core.models.captioner.decoding import search_arguments
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.rerank import (
    PROBE_FILE,
    RerankProbe,
    best_caption,
    read_probe,
    select_captions,
    write_probe,
)
from core.models.captioner.settings import Decoding
from core.models.locate import revision_of
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from core.models.spec import ModelSpec
from core.text import words_of
from tests.tiny_models import save_tiny_instructblip

SENTENCE = PROFILES["mini"].sentence
SEARCH = Decoding(
    num_beams=2, min_new_tokens=3, max_new_tokens=6, no_repeat_ngram_size=1, candidates=6
)


@pytest.fixture(scope="module")
def sentence() -> MiniLmEncoder:
    return MiniLmEncoder(SENTENCE, device="cpu")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(4)]


def unit_rows(rows: list[list[float]]) -> np.ndarray:
    found = np.array(rows, dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec("tiny", f"path:{folder}", licence="none")


def captioner_of(folder: Path, sentence=None, **decoding) -> InstructBlipCaptioner:
    return InstructBlipCaptioner(
        spec_of(folder), device="cpu", decoding=replace(SEARCH, **decoding), sentence=sentence
    )


def toward(text: str, sentence: MiniLmEncoder, width: int) -> RerankProbe:
    """Return a probe that sees the same in every picture."""
    dim = SENTENCE.dim or 0
    nothing = np.zeros((width, dim), dtype=np.float32)
    return RerankProbe(np.zeros(width, dtype=np.float32), nothing, sentence.encode_text([text])[0])


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save_tiny_instructblip(tmp_path / "tiny")


def candidates_of(folder: Path, images) -> list[list[str]]:
    """What the same search says, all of it: a checkpoint without a probe, asked for its beams."""
    loaded = captioner_of(folder).load()
    inputs = loaded.processor(
        images=images, text=[SEARCH.prompt] * len(images), return_tensors="pt"
    )
    search = {**search_arguments(SEARCH), "num_beams": 6, "num_return_sequences": 6}
    found = loaded.model.generate(**inputs, **search, suppress_tokens=loaded.suppressed)
    written = loaded.processor.batch_decode(found.sequences, skip_special_tokens=True)
    texts = [clean_caption(text) for text in written]
    return [texts[start : start + 6] for start in range(0, len(texts), 6)]


def test_what_counts_is_likelihood_and_probe_by_weight():
    seen = np.array([1.0, 0.0], dtype=np.float32)
    rows = unit_rows([[0, 1], [0.6, 0.8], [1, 0]])
    surprise = [0.5, 0.6, 2.0]
    assert [best_caption(rows, surprise, seen, weight) for weight in (0, 1, 2, 9)] == [0, 1, 1, 2]


def test_captions_are_ordered_so_that_their_mean_is_near_what_was_seen():
    seen = np.array([1.0, 0.0], dtype=np.float32)
    rows = unit_rows([[1, 1], [1, 0.9], [1, -1], [-1, 1]])
    # After the first, its mirror image is worth more than what is nearer by itself; then there is
    # nothing left to gain.
    assert select_captions(rows, seen, first=0) == [0, 2]
    assert select_captions(rows[[0, 1, 3]], seen, first=0) == [0, 1]
    assert select_captions(rows[:1], seen, first=0) == [0]


def test_the_caption_nearest_to_what_is_seen_is_chosen(checkpoint, images, sentence):
    own = captioner_of(checkpoint).caption(images)
    candidates = candidates_of(checkpoint, images)
    wanted = [texts[-1] for texts in candidates]
    assert all(texts[0] != last for texts, last in zip(candidates, wanted, strict=True))
    width = captioner_of(checkpoint).class_tokens(images[:1]).shape[1]
    for row, text in enumerate(wanted):
        write_probe(checkpoint, toward(text, sentence, width), SENTENCE)
        chosen = captioner_of(checkpoint, sentence, rerank_weight=1000).caption([images[row]])[0]
        assert chosen.text == text
        assert 0 < (chosen.confidence or 0) < 1
        ignored = captioner_of(checkpoint, sentence, rerank_weight=0).caption([images[row]])[0]
        assert ignored.text == candidates[row][0]
        # Nobody to embed captions: the likeliest one of the narrow search.
        assert captioner_of(checkpoint).caption([images[row]])[0].text == own[row].text


def test_several_captions_begin_with_the_only_one_and_go_on_by_what_is_seen(
    checkpoint, images, sentence
):
    width = captioner_of(checkpoint).class_tokens(images[:1]).shape[1]
    write_probe(checkpoint, toward("two dogs run through the snow", sentence, width), SENTENCE)
    captioner = captioner_of(checkpoint, sentence)
    several = captioner.caption_several(images, 4)
    assert [said[0] for said in several] == captioner.caption(images)
    aim = sentence.encode_text(["two dogs run through the snow"])[0]
    beams = candidates_of(checkpoint, images)
    for said, searched in zip(several, beams, strict=True):
        assert len({words_of(one.text) for one in said}) == len(said)
        rows = sentence.encode_text([one.text for one in said])
        assert select_captions(rows, aim, first=0) == list(range(len(said)))
        means = rows.cumsum(axis=0)
        nearness = means @ aim / np.linalg.norm(means, axis=1)
        assert (np.diff(nearness) > 0).all()
        # No caption of the search was left out that would have helped.
        for text in searched:
            total = means[-1] + sentence.encode_text([text])[0]
            if words_of(text) not in {words_of(one.text) for one in said}:
                assert total @ aim / np.linalg.norm(total) <= nearness[-1] + 1e-6
    assert max(map(len, several)) > 1
    assert captioner.caption_several(images[::-1], 4) == several[::-1]


def test_class_tokens_are_what_the_image_tower_says(checkpoint, images):
    captioner = captioner_of(checkpoint)
    tokens = captioner.class_tokens(images)
    loaded = captioner.load()
    inputs = loaded.processor(images=images, text=[""] * len(images), return_tensors="pt")
    tower = loaded.model.vision_model(inputs["pixel_values"])
    assert tokens.dtype == np.float32
    assert tokens == pytest.approx(tower.last_hidden_state[:, 0].detach().numpy(), abs=1e-5)


def test_a_probe_for_another_tower_is_one_sentence_at_the_load(checkpoint, sentence):
    write_probe(checkpoint, toward("a dog", sentence, width=5), SENTENCE)
    with pytest.raises(ModelError, match="towers 5 wide.* Run the command rerank again"):
        captioner_of(checkpoint, sentence).load()


def test_a_probe_is_read_back_for_its_own_sentence_encoder_alone(checkpoint):
    random = np.random.default_rng(0)
    dim = SENTENCE.dim or 0
    shapes = ((5,), (5, dim), (dim,))
    probe = RerankProbe(*(random.random(shape, np.float32) for shape in shapes))
    spec = spec_of(checkpoint)
    assert read_probe(spec, SENTENCE) is None
    write_probe(checkpoint, probe, SENTENCE)
    found = read_probe(spec, SENTENCE)
    assert found is not None
    tokens = random.random((3, 5), np.float32)
    assert found(tokens) == pytest.approx(probe(tokens), abs=1e-3)
    assert np.linalg.norm(found(tokens), axis=1) == pytest.approx(1)
    other = replace(SENTENCE, source="hub:somewhere/else", revision="abc")
    assert revision_of(other) != revision_of(SENTENCE)
    assert read_probe(spec, other) is None
    with pytest.raises(ModelError, match="rerank_probe.safetensors of tiny does not lead to"):
        read_probe(spec, replace(SENTENCE, dim=7))


def test_a_damaged_probe_is_one_sentence(checkpoint, sentence):
    (checkpoint / PROBE_FILE).write_bytes(b"nonsense")
    read_probe.cache_clear()
    with pytest.raises(ModelError, match="rerank_probe.safetensors of tiny is damaged"):
        captioner_of(checkpoint, sentence).load()


@pytest.mark.parametrize("values", [{"candidates": 0}, {"rerank_weight": -1.0}])
def test_choices_that_are_not_possible(values):
    with pytest.raises(ModelError, match="is not possible"):
        replace(SEARCH, **values)


def test_captioners_at_work_in_two_threads_see_their_own_pictures(checkpoint, images, sentence):
    width = captioner_of(checkpoint).class_tokens(images[:1]).shape[1]
    random = np.random.default_rng(3)
    # What is seen depends on the picture, so that another's class token picks another caption.
    weight = random.normal(size=(width, SENTENCE.dim)).astype(np.float32)
    aims = RerankProbe(np.zeros(width, np.float32), weight, np.zeros(SENTENCE.dim, np.float32))
    write_probe(checkpoint, aims, SENTENCE)
    captioner = captioner_of(checkpoint, sentence, rerank_weight=1000)
    alone = [captioner.caption([image])[0].text for image in images]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert [
                one[0].text for one in pool.map(lambda i: captioner.caption([i]), images)
            ] == alone


def test_the_image_tower_sees_each_picture_once_however_many_captions(checkpoint, images, sentence):
    captioner = captioner_of(checkpoint, sentence, prompt="a dog", retry_prompt="a cat")
    seen = []
    tower = captioner.load().model.vision_model
    watch = tower.register_forward_hook(lambda _, __, out: seen.append(len(out[0])))
    captioner.caption_several(images, 4)
    watch.remove()
    assert seen == [len(images)]
