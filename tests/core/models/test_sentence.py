"""MiniLM gives what sentence-transformers makes of it: unit rows, in order, from any thread."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.errors import ModelError
from core.models.locate import local_folder
from core.models.profiles import PROFILES
from core.models.sentence.encoder import MiniLmEncoder
from tests.core.models.embeddings import TEXTS, assert_unit_rows


@pytest.fixture(scope="module")
def minilm() -> MiniLmEncoder:
    return MiniLmEncoder(PROFILES["mini"].sentence, device="cpu")


def test_a_wrong_dimension_is_refused_with_both_numbers(minilm):
    with pytest.raises(ModelError, match="length 384, but 512 is expected"):
        MiniLmEncoder(dataclasses.replace(minilm.spec, dim=512), device="cpu").encode_text(["x"])


def test_a_precision_that_it_does_not_run_is_refused():
    sentence = dataclasses.replace(PROFILES["mini"].sentence, precision="int8")
    with pytest.raises(ModelError, match=r"runs in fp32, not in int8\.$"):
        MiniLmEncoder(sentence).encode_text(["a dog"])


def test_minilm_gives_unit_rows_whatever_the_batch(minilm):
    together = minilm.encode_text(TEXTS)
    assert_unit_rows(together, 5, 384)
    np.testing.assert_allclose(minilm.encode_text(TEXTS[::-1]), together[::-1], atol=1e-5)
    np.testing.assert_allclose(minilm.encode_text([TEXTS[1]])[0], together[1], atol=1e-5)
    assert_unit_rows(minilm.encode_text([]), 0, 384)


def test_minilm_is_what_sentence_transformers_makes_of_it(minilm):
    from sentence_transformers import SentenceTransformer

    texts = ["a dog", "", "two people riding horses on the beach at night", "word " * 600, "🎉"]
    reference = SentenceTransformer(str(local_folder(minilm.spec)), device="cpu")
    expected = reference.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(minilm.encode_text(texts), expected, atol=1e-5)


def test_minilm_is_the_trained_model(minilm):
    query, near, far = minilm.encode_text(
        ["a man rides a wave", "a surfer on his board in the sea", "a bowl of fruit on a table"]
    )
    assert query @ near > 0.4 > 0.2 > query @ far


def test_minilm_answers_many_threads(minilm):
    expected = minilm.encode_text(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: minilm.encode_text([TEXTS[n % 5]])[0], range(40)))
    for n, embedding in enumerate(found):
        np.testing.assert_allclose(embedding, expected[n % 5], atol=1e-5)
