"""A composed query is the weighted sum of its parts' unit embeddings, in each lens's own space."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import QueryError, UnknownImageError
from core.records import LENSES
from core.search.query_language.parse import SUBTRACTED
from core.search.service import SearchService
from tests.core.planted import brute_force
from tests.core.search.conftest import planted_texts


def ids(service: SearchService) -> list[str]:
    return [record.id for record in service.gallery.records]


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_subtracted_words_and_pictures_rank_as_brute_force(service, lens, index):
    texts = planted_texts(8, 11) if lens == "captions" else planted_texts(6, 12)
    rows = service.gallery.embeddings(lens)
    shown = ids(service)[3]
    query = f'"a dog"^2 -犬 like:{shown}'
    wanted = unit(2 * texts["a dog"] - SUBTRACTED * texts["犬"] + rows[3])
    found = service.by_text(query, k=10, lens=lens, index=index, nprobe=99)
    expected = brute_force(rows, ids(service), wanted, 11)
    expected = [entry for entry in expected if entry[0] != shown][:10]
    assert [hit.id for hit in found.hits] == [image_id for image_id, _ in expected]
    assert [hit.score for hit in found.hits] == pytest.approx(
        [score for _, score in expected], abs=1e-6
    )
    assert [hit.rank for hit in found.hits] == list(range(1, 11))
    assert not found.plain
    compared = service.compare(query, k=10)
    assert getattr(compared, lens).hits == found.hits


def test_plain_words_are_embedded_once_as_they_were(service, sentence):
    assert service.by_text("a dog").plain
    service.by_text("a dog -犬")
    assert sentence.encoded == ["a dog", "犬"]


def test_parts_that_cancel_each_other_out_are_told_once(service):
    with pytest.raises(QueryError, match="cancel each other out"):
        service.compare(f"犬 -犬^{1 / SUBTRACTED:.6f}")


def test_a_picture_that_is_not_there_is_told(service):
    with pytest.raises(UnknownImageError):
        service.compare("like:0123456789abcdef")
