"""Both lenses joined in a search: by rank, by sums of scores, and with hubs taken off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.models.clip.hubs import correction, hubness
from core.records import LENSES, PLAIN_RRF, Fusion
from core.search import hub_scores
from core.search.explain import joined_parts
from core.search.fusion import normalised
from core.search.hub_scores import hub_penalties
from core.search.picture_ranks import with_caption
from tests.core.search.conftest import CountingGallery, ids, planted_texts


def test_other_fusions_of_a_comparison_need_no_more_searches(service):
    service.gallery = CountingGallery(service.gallery)
    compared = service.compare("a dog", k=4)
    assert service.gallery.searches == [("captions", "flat"), ("clip", "flat")]
    fusions = [PLAIN_RRF, Fusion("zscore", 1.0), Fusion("zscore", 0.3), Fusion("zscore", 0.0)]
    by_rank, captions, between, clip = service.fuse_again(compared, fusions, k=4)
    assert len(service.gallery.searches) == 2
    assert by_rank == compared.fused
    assert [hit.id for hit in captions] == [hit.id for hit in compared.captions.hits]
    assert [hit.id for hit in clip] == [hit.id for hit in compared.clip.hits]
    assert between == service.compare("a dog", k=4, fusion=Fusion("zscore", 0.3)).fused


@pytest.mark.parametrize("fusion", [Fusion("zscore", 0.3), Fusion("cosine", 0.6)], ids=str)
def test_a_sum_ranks_as_if_all_scores_of_all_pictures_were_there(service, fusion):
    compared = service.compare("a dog", k=4, fusion=fusion)
    queries = {"captions": planted_texts(8, 11)["a dog"], "clip": planted_texts(6, 12)["a dog"]}
    said = [
        normalised((service.gallery.embeddings(lens) @ query)[None].astype(float), fusion.kind)[0]
        for lens, query in queries.items()
    ]
    scores = fusion.fuse(*said)
    best = np.argsort(-scores)[:4]
    assert [hit.id for hit in compared.fused] == [ids(service.gallery)[row] for row in best]
    assert [hit.score for hit in compared.fused] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert compared.fusion == fusion


def test_a_corrected_sum_takes_hubs_off_wherever_it_is_worked_out(service, bank):
    """In a search, in what each lens adds to it, and in a picture's place among all."""
    fusion, query, gallery = Fusion("corrected", 0.3), "a dog", service.gallery
    owed = 0.5 * hubness(gallery.embeddings("clip"), bank)
    both = {
        lens: gallery.embeddings(lens).astype(float) @ service.models.embed_query(lens, query)
        for lens in LENSES
    }
    off = both["clip"] - both["clip"].mean() - owed
    parts = {
        "captions": 0.3 * normalised(both["captions"][None], "zscore")[0],
        "clip": 0.7 * off / both["clip"].std(),
    }
    scores = parts["captions"] + parts["clip"]
    compared = service.compare(query, k=4, fusion=fusion)
    best = np.argsort(-scores)[:4].tolist()
    assert [hit.id for hit in compared.fused] == [ids(gallery)[row] for row in best]
    assert [hit.score for hit in compared.fused] == pytest.approx(scores[best].tolist(), abs=1e-5)
    plain = service.compare(query, k=4, fusion=Fusion("zscore", 0.3))
    assert [hit.id for hit in plain.fused] != [hit.id for hit in compared.fused]
    assert compared.clip == replace(plain.clip, encode_ms=compared.clip.encode_ms,
                                    search_ms=compared.clip.search_ms)  # fmt: skip
    first = {lens: float(both[lens][best[0]]) for lens in LENSES}
    found = joined_parts(service.models, gallery, query, ids(gallery)[best[0]], first, fusion)
    assert found == pytest.approx({lens: own[best[0]] for lens, own in parts.items()}, abs=1e-5)
    edited = with_caption(service.models, gallery, query, ids(gallery)[best[2]], "two dogs", fusion)
    assert (edited.fused[0].rank, edited.fused[0].score) == (3, pytest.approx(scores[best[2]]))


def test_what_a_picture_owes_to_being_a_hub_is_worked_out_once(service, bank, monkeypatch):
    gallery, met = service.gallery, []

    def counted(rows, clip):
        met.append(len(rows))
        return correction(rows, clip)

    monkeypatch.setattr(hub_scores, "correction", counted)
    monkeypatch.setattr(hub_scores, "BLOCK", 7)
    expected = 0.5 * hubness(gallery.embeddings("clip"), bank)
    some = [ids(gallery)[row] for row in (5, 3, 5, 0)]
    assert hub_penalties(service.models, gallery, some) == pytest.approx(expected[[5, 3, 5, 0]])
    assert hub_penalties(service.models, gallery) == pytest.approx(expected)
    assert hub_penalties(service.models, gallery, some) == pytest.approx(expected[[5, 3, 5, 0]])
    assert sum(met) == len(gallery) and max(met) == 7
    assert hub_penalties(service.models, gallery, []).shape == (0,)
