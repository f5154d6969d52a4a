"""A search answers, or says in one sentence why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.errors import (
    IndexUnavailableError,
    ModelNotFoundError,
    QueryError,
    TwoLensError,
    UnknownImageError,
)
from core.gallery.reader import Gallery
from core.models.profiles import PROFILES, Models, Profile
from core.models.spec import ModelSpec
from core.records import INDEX_KINDS, INDEX_PAIR, LENSES, PLAIN_RRF, Hit
from core.search.agreement import agreement
from core.search.fusion import fuse
from core.search.query import normalise_query
from core.search.results import FUSION_DEPTH
from core.search.service import SearchService
from tests.core.planted import PlantedEncoder, brute_force, gallery_on_disk, profile, unit_rows
from tests.core.search.conftest import QUERIES, RED, CountingGallery, ids, planted_texts
from tests.tiny_clip import build_tiny_clip


class BrokenEncoder(PlantedEncoder):
    """Raises what it is given; a stand-in for a model whose files are gone or that crashes."""

    def __init__(self, spec, error):
        super().__init__(spec, {})
        self.error = error

    def encode_text(self, texts):
        raise self.error


def expected(service, lens, embedding, k):
    gallery = service.gallery
    ranked = brute_force(gallery.embeddings(lens), ids(gallery), embedding, k)
    return [
        Hit(id=id_, score=pytest.approx(score, abs=1e-6), rank=rank)
        for rank, (id_, score) in enumerate(ranked, start=1)
    ]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("index", INDEX_PAIR)
def test_by_text_ranks_as_brute_force(service, query, lens, index):
    result = service.by_text(query, k=50, lens=lens, index=index, nprobe=99)
    embedding = planted_texts(8, 11)[query] if lens == "captions" else planted_texts(6, 12)[query]
    assert list(result.hits) == expected(service, lens, embedding, 50)
    assert (result.lens, result.index, result.cached) == (lens, index, False)
    assert result.encode_ms > 0
    assert result.search_ms > 0


def test_k_is_five_unless_asked_and_capped_at_the_size(tmp_path):
    models = profile(tmp_path / "models")
    gallery_on_disk(tmp_path / "small", models, unit_rows(3, 8), unit_rows(3, 6))
    small = Gallery.open(tmp_path / "small", models)
    texts = PlantedEncoder(models.sentence, planted_texts(8, 1))
    pictures = PlantedEncoder(models.clip, planted_texts(6, 2))
    service = SearchService(small, Models(models, sentence=texts, clip=pictures))
    assert len(service.by_text("a dog").hits) == 3
    compared = service.compare("a dog", k=50)
    assert [len(r) for r in (compared.captions.hits, compared.clip.hits, compared.fused)] == [3] * 3
    assert (compared.agreement.overlap, compared.agreement.jaccard) == (1.0, 1.0)
    assert len(service.similar(ids(small)[0], k=50).hits) == 2


def test_a_gallery_without_pictures_answers_with_none(tmp_path):
    models = profile(tmp_path / "models")
    gallery_on_disk(tmp_path / "empty", models, unit_rows(0, 8), unit_rows(0, 6))
    texts = PlantedEncoder(models.sentence, planted_texts(8, 1))
    pictures = PlantedEncoder(models.clip, planted_texts(6, 2))
    empty = Gallery.open(tmp_path / "empty", models)
    service = SearchService(empty, Models(models, sentence=texts, clip=pictures))
    compared = service.compare("a dog", index="ivf")
    assert (compared.captions.hits, compared.clip.hits, compared.fused) == ((), (), ())
    assert service.by_text("a dog", lens="clip", index="ivf").hits == ()


@pytest.mark.parametrize(
    ("typed", "searched"),
    [
        ("  a dog \n", "a dog"),
        ("a\tdog", "a dog"),
        ("a\r\n\x00\x07  dog\x1b", "a dog"),
        ("a\u00a0dog\u3000", "a dog"),
        ("un cafe\u0301", "un café"),
        ("\ud83d a dog", "a dog"),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("کتاب\u200cخانه", "کتاب\u200cخانه"),
        ("!?", "!?"),
        ("x" * 1000, "x" * 1000),
        (" " * 5000 + "a dog" + " " * 5000, "a dog"),
    ],
)
def test_queries_are_normalised(typed, searched):
    assert normalise_query(typed) == searched


@pytest.mark.parametrize("query", ["", " ", "\n\t \r", "\u200b", "\x00\x01", "\u3000", "\ud800"])
def test_a_query_without_content_is_refused(service, query):
    for search in (service.by_text, service.compare):
        with pytest.raises(QueryError) as caught:
            search(query)
        assert str(caught.value) == "Type what you are looking for: the query is empty."


def test_a_query_that_is_too_long_is_refused_with_the_numbers(service, gallery):
    with pytest.raises(QueryError, match="has 10,000 characters; at most 1,000 are searched"):
        service.compare("x" * 10_000)
    with pytest.raises(QueryError, match="has 6 characters; at most 5"):
        SearchService(gallery, service.models, max_query_chars=5).by_text("dogged")
    with pytest.raises(QueryError, match="must be a text"):
        service.by_text(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "The number of pictures (k) must be between 1 and 50; got 0."),
        ({"k": -3}, "The number of pictures (k) must be between 1 and 50; got -3."),
        ({"k": 51}, "The number of pictures (k) must be between 1 and 50; got 51."),
        ({"k": 2.5}, "The number of pictures (k) must be a whole number; got '2.5'."),
        ({"k": "5"}, "The number of pictures (k) must be a whole number; got '5'."),
        ({"k": True}, "The number of pictures (k) must be a whole number; got 'True'."),
        ({"k": None}, "The number of pictures (k) must be a whole number; got 'None'."),
        ({"k": float("nan")}, "The number of pictures (k) must be a whole number; got 'nan'."),
        ({"k": float("inf")}, "The number of pictures (k) must be a whole number; got 'inf'."),
        ({"lens": "blip"}, "Lens must be one of captions, clip; got 'blip'."),
        ({"lens": ["clip"]}, "Lens must be one of captions, clip; got \"['clip']\"."),
        ({"index": "hnsw"}, "This gallery has no hnsw index; it has flat and ivf."),
        ({"index": "tree"}, f"Index must be one of {', '.join(INDEX_KINDS)}; got 'tree'."),
        ({"nprobe": 0}, "nprobe must be 1 or more; got 0."),
        ({"nprobe": "many"}, "nprobe must be a whole number; got 'many'."),
    ],
)
def test_requests_out_of_range_are_refused(service, gallery, arguments, message):
    with pytest.raises(QueryError) as caught:
        service.by_text("a dog", **arguments)
    assert str(caught.value) == message
    with pytest.raises(QueryError) as caught:
        service.similar(ids(gallery)[0], **arguments)
    assert str(caught.value) == message
    assert service.models.sentence.encoded == []


def test_a_slider_may_send_whole_floats(service):
    assert service.by_text("a dog", k=5.0, nprobe=2.0).hits == service.by_text("a dog", k=5).hits


def test_by_image_ranks_by_the_clip_embedding(service):
    result = service.by_image(Image.new("RGB", (4, 4), RED), k=7)
    assert list(result.hits) == expected(service, "clip", unit_rows(1, 6, seed=13)[0], 7)
    assert (result.lens, result.cached) == ("clip", False)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("index", INDEX_PAIR)
def test_similar_ranks_the_others_and_loads_no_model(service, gallery, lens, index):
    for image_id in ids(gallery)[::13]:
        result = service.similar(image_id, k=6, lens=lens, index=index, nprobe=99)
        ranked = expected(service, lens, gallery.embedding(lens, image_id), 7)
        assert ranked[0].id == image_id
        assert list(result.hits) == [replace(hit, rank=hit.rank - 1) for hit in ranked[1:]]
    assert service.models.sentence.encoded == service.models.clip.encoded == []
    with pytest.raises(UnknownImageError, match="No picture has the id 'nothing'"):
        service.similar("nothing", lens=lens)


def test_similar_leaves_out_the_image_among_its_equals(tmp_path):
    """All pictures are alike, and the one asked for is not among the first by row."""
    models = profile(tmp_path / "models")
    gallery_on_disk(
        tmp_path / "alike",
        models,
        np.repeat(unit_rows(1, 8), 9, 0),
        np.repeat(unit_rows(1, 6), 9, 0),
    )
    alike = Gallery.open(tmp_path / "alike", models)
    service = SearchService(alike, Models(models))
    rows = ids(alike)
    assert [hit.id for hit in service.similar(rows[8], k=3).hits] == rows[:3]
    assert [hit.id for hit in service.similar(rows[1], k=3).hits] == [rows[0], rows[2], rows[3]]
    assert [hit.rank for hit in service.similar(rows[1], k=3).hits] == [1, 2, 3]


def test_compare_shows_k_of_each_and_fuses_deeper(service):
    compared = service.compare("  a  dog ", k=4)
    captions = expected(service, "captions", planted_texts(8, 11)["a dog"], FUSION_DEPTH)
    pictures = expected(service, "clip", planted_texts(6, 12)["a dog"], FUSION_DEPTH)
    assert compared.query == "a dog"
    assert list(compared.captions.hits) == captions[:4]
    assert list(compared.clip.hits) == pictures[:4]
    fused = fuse(PLAIN_RRF, {"captions": captions, "clip": pictures})[:4]
    assert [(hit.id, hit.score, hit.rank) for hit in compared.fused] == [
        (hit.id, hit.score, hit.rank) for hit in fused
    ]
    assert compared.agreement == agreement(
        [hit.id for hit in captions[:4]], [hit.id for hit in pictures[:4]]
    )
    assert compared.failures == {}
    shallow = fuse(PLAIN_RRF, {"captions": captions[:4], "clip": pictures[:4]})[:4]
    assert [hit.id for hit in shallow] != [hit.id for hit in compared.fused]
    deepest = max(source.rank for hit in compared.fused for source in hit.sources.values())
    assert deepest > 4


def test_compare_goes_on_with_one_lens(planted_original, gallery, sentence, tmp_path):
    """The CLIP model is the real class, and its folder is gone."""
    spec = replace(planted_original.profile.clip, source=f"path:{tmp_path / 'gone'}")
    models = Models(replace(planted_original.profile, clip=spec), sentence=sentence)
    service = SearchService(gallery, models)
    with pytest.raises(ModelNotFoundError) as caught:
        service.by_text("a dog", lens="clip")
    compared = service.compare("a dog")
    assert compared.clip is None
    assert compared.agreement is None
    assert compared.failures == {"clip": str(caught.value)}
    assert str(caught.value).startswith("The model clip could not be found.")
    assert list(compared.captions.hits) == expected(
        service, "captions", planted_texts(8, 11)["a dog"], 5
    )
    assert [hit.id for hit in compared.fused] == [hit.id for hit in compared.captions.hits]
    assert [set(hit.sources) for hit in compared.fused] == [{"captions"}] * 5


def test_compare_hides_the_words_of_an_unforeseen_error(
    planted_original, gallery, sentence, clip, caplog
):
    models = planted_original.profile
    crashed = BrokenEncoder(models.sentence, RuntimeError("/secret/path: CUDA error"))
    compared = SearchService(gallery, Models(models, sentence=crashed, clip=clip)).compare("a dog")
    assert "secret" not in compared.failures["captions"]
    assert "CUDA error" in caplog.text
    assert len(compared.clip.hits) == 5
    both = Models(models, sentence=crashed, clip=BrokenEncoder(models.clip, RuntimeError("too")))
    nothing = SearchService(gallery, both).compare("a dog")
    assert (nothing.captions, nothing.clip, nothing.fused) == (None, None, ())
    assert set(nothing.failures) == {"captions", "clip"}


def test_a_wrong_embedding_is_an_error_and_not_an_answer(planted_original, gallery, clip):
    models = planted_original.profile
    wrong = PlantedEncoder(models.sentence, {"a dog": np.full(8, np.nan)})
    service = SearchService(gallery, Models(models, sentence=wrong, clip=clip))
    with pytest.raises(TwoLensError, match="not finite"):
        service.by_text("a dog")
    assert "not finite" in service.compare("a dog").failures["captions"]


def test_ivf_with_one_probe_loses_some_and_with_all_none(tmp_path):
    models = profile(tmp_path / "models")
    gallery_on_disk(tmp_path / "big", models, unit_rows(400, 8), unit_rows(400, 6))
    big = Gallery.open(tmp_path / "big", models)
    pictures = PlantedEncoder(models.clip, planted_texts(6, 2))
    service = SearchService(big, Models(models, clip=pictures))
    flat, narrow, whole = (
        {hit.id for hit in service.by_text("a dog", 50, "clip", kind, nprobe).hits}
        for kind, nprobe in (("flat", None), ("ivf", 1), ("ivf", 10))
    )
    assert 0 < len(flat & narrow) < 50
    assert whole == flat


def test_an_index_server_that_is_away_leaves_the_other_lens(service):
    class Away(CountingGallery):
        def index(self, lens, kind):
            if lens == "captions":
                raise IndexUnavailableError("http://10.0.0.1:19530")
            return super().index(lens, kind)

    whole = service.compare("a dog", k=4)
    service.gallery = Away(service.gallery)
    compared = service.compare("a dog", k=4)
    sentence = "The index server does not answer; try again in a moment."
    assert compared.failures == {"captions": sentence}
    assert compared.captions is None
    assert compared.clip.hits == whole.clip.hits


def test_a_comparison_keeps_where_each_lens_ranks_the_pictures(service):
    compared = service.compare("a dog", k=4)
    for lens in LENSES:
        assert compared.rankings[lens] == service.by_text("a dog", FUSION_DEPTH, lens).hits


def test_a_gallery_of_real_encoders_is_searched_by_them(tmp_path):
    """MiniLM as it ships and a tiny open_clip model, from pictures and captions to hits."""
    models = Profile(
        name="tiny",
        captioner=ModelSpec(name="none", source=f"path:{tmp_path}", licence="MIT"),
        sentence=PROFILES["mini"].sentence,
        clip=build_tiny_clip(tmp_path / "clip"),
    )
    encoders = Models(models, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    texts = [
        "a brown dog runs through the snow",
        "two children build a castle on the beach",
        "a red bus stops at a crossing",
        "a man climbs a steep rock",
        "a bowl of soup on a table",
        "a cat sleeps on a sofa",
        "a plane lands at night",
    ]
    embeddings = encoders.clip.encode_image(pictures)
    gallery_on_disk(tmp_path / "tiny", models, encoders.sentence.encode_text(texts), embeddings)
    service = SearchService(Gallery.open(tmp_path / "tiny", models), encoders)
    rows = ids(service.gallery)
    for query, row in [("kids playing in the sand", 1), ("public transport", 2), ("a kitten", 5)]:
        compared = service.compare(query, k=7)
        assert compared.captions.hits[0].id == rows[row]
        embedding = encoders.clip.encode_text([query])[0]
        assert list(compared.clip.hits) == expected(service, "clip", embedding, 7)
        assert compared.failures == {}
    assert service.by_image(pictures[4], k=1).hits[0] == Hit(
        id=rows[4], score=pytest.approx(1.0, abs=1e-5), rank=1
    )
    for query in ("🐕", "собака", "犬", "!?", "x" * 1000, "\ud800 a dog"):
        assert len(service.compare(query, k=7).fused) == 7
