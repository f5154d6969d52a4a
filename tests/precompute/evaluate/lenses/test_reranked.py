"""What evaluate makes of a reranking model, and of the text in the pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.gallery.manifest import ModelRef
from core.gallery.reader import Gallery
from core.models.choose import with_matcher
from core.models.matcher import ImageTextMatcher
from core.models.profiles import Models
from precompute.evaluate.gallery_metrics import evaluate
from precompute.evaluate.lenses.reranked import reranked_scorer
from precompute.evaluate.qrels import from_references
from precompute.evaluate.queries import AskedQueries
from tests.precompute.evaluate.test_evaluate import EACH, IMAGES, Planted
from tests.tiny_matchers import save_tiny_matcher


def test_the_first_twenty_of_clip_are_ranked_by_the_matching_model_and_the_others_stay(tmp_path):
    planted = Planted(tmp_path)
    profile = with_matcher(planted.profile, str(save_tiny_matcher(tmp_path / "itm", "blip")))
    gallery = Gallery.open(planted.folder, planted.profile)
    queries = from_references(gallery.records, captions_given=False)
    asked = AskedQueries.embed(gallery, queries, planted.models)
    matcher = ImageTextMatcher(profile.matcher, device="cpu")
    everything = slice(0, IMAGES * EACH)
    clip, found = (
        np.argsort(-scorer(everything), axis=1, kind="stable")
        for scorer in (asked.scorer("clip"), reranked_scorer(asked, matcher))
    )
    np.testing.assert_array_equal(found[:, 20:], clip[:, 20:])
    np.testing.assert_array_equal(np.sort(found[:, :20]), np.sort(clip[:, :20]))
    assert (found[:, :20] != clip[:, :20]).any()

    models = Models(
        profile, sentence=planted.models.sentence, clip=planted.models.clip, device="cpu"
    )
    metrics = evaluate(planted.plan(rerank="itm"), models)
    placed = 1 + np.argmax(found == np.repeat(np.arange(IMAGES), EACH)[:, None], axis=1)
    assert metrics.lenses["clip_reranked"].mrr == pytest.approx((1 / placed).mean(), abs=1e-6)
    compared = {(test.first, test.second, test.metric) for test in metrics.tests}
    assert ("clip_reranked", "clip", "MRR") in compared


def test_text_in_the_pictures_is_measured_where_it_was_read(tmp_path):
    planted = Planted(tmp_path)
    assert "text" not in evaluate(planted.plan(), planted.models).lenses
    read = [
        replace(record, text_in_picture=f"QUERYY {row}", text_confidence=0.9)
        for row, record in enumerate(planted.records)
    ]
    planted.folder = tmp_path / "read"
    planted.folder.mkdir()
    reader = ModelRef(name="drawn", source="package:rapidocr", revision="1")
    planted.write(records=read, text_reader=reader)
    metrics = evaluate(planted.plan(), planted.models)
    # A query names the number of its picture.
    assert metrics.lenses["text"].r_at_5 > 0.5
    assert metrics.lenses["fused_text"].mrr > metrics.lenses["fused"].mrr
