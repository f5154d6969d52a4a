"""Builds with several captions an image: what is stored, resumed, and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from core.errors import SourceError
from core.gallery.caption_rows import NEAR_DUPLICATE
from core.gallery.reader import Gallery
from core.models.captioner.settings import DECODING_FILE
from core.models.profiles import Models, Profile
from core.search.service import SearchService
from precompute.build import pipeline
from precompute.build.pipeline import BuildOptions
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo
from tests.tiny_models import save_tiny_instructblip

SAME_BYTES = ("data-00000-of-00001.arrow", "captions.npy", "clip.npy", "captions.flat.faiss")


@pytest.fixture(scope="module")
def varied(tiny, tmp_path_factory) -> Profile:
    """The tiny profile with a captioner that has several things to say."""
    folder = save_tiny_instructblip(tmp_path_factory.mktemp("models") / "varied")
    decoding = {"num_beams": 1, "min_new_tokens": 2, "max_new_tokens": 6, "no_repeat_ngram_size": 1}
    content = {"decoding": {**decoding, "further": {"top_p": 1, "temperature": 20}}}
    (folder / DECODING_FILE).write_text(json.dumps(content))
    return replace(tiny, captioner=replace(tiny.captioner, source=f"path:{folder}"))


@pytest.fixture(scope="module")
def models(varied) -> Models:
    return Models(varied, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(7):
        (folder / f"{number}.png").write_bytes(noise_photo(number))
    return folder


@pytest.fixture
def options(photos, varied, tmp_path) -> BuildOptions:
    return BuildOptions(
        source=SourceOptions(str(photos)),
        out=tmp_path / "several",
        profile=varied,
        batch_size=2,
        shard_size=3,
        captions_per_image=4,
        progress=False,
    )


@pytest.fixture(scope="module")
def built(photos, varied, models, tmp_path_factory):
    """One whole gallery of each way."""
    work = tmp_path_factory.mktemp("built")
    for pooling in ("mean", "best"):
        made = BuildOptions(
            source=SourceOptions(str(photos)),
            out=work / pooling,
            profile=varied,
            batch_size=2,
            shard_size=3,
            captions_per_image=4,
            caption_pooling=pooling,
            progress=False,
        )
        pipeline.build(made, models=models)
    return work


def test_every_caption_is_stored_once_with_its_embedding(built, varied, models):
    gallery = Gallery.open(built / "best", varied)
    assert (gallery.manifest.captions_per_image, gallery.manifest.caption_pooling) == (4, "best")
    counts = [len(record.captions) for record in gallery.records]
    assert len(gallery) == 7
    assert max(counts) == 4
    texts = [caption.text for record in gallery.records for caption in record.captions]
    expected = models.sentence.encode_text(texts)
    assert np.abs(gallery.caption_embeddings - expected).max() < 1e-4
    rows = gallery.caption_rows.first
    for start, stop in zip(rows[:-1], rows[1:], strict=True):
        cosines = expected[start:stop] @ expected[start:stop].T
        np.fill_diagonal(cosines, 0)
        assert cosines.max() < NEAR_DUPLICATE + 1e-4


def test_both_ways_hold_the_same_captions_and_find_by_them(built, varied, models):
    mean, best = (Gallery.open(built / pooling, varied) for pooling in ("mean", "best"))
    assert tuple(mean.records) == tuple(best.records)
    assert np.array_equal(mean.caption_embeddings, best.caption_embeddings)
    record = max(best.records, key=lambda each: len(each.captions))
    asked = record.captions[-1].text
    (first, *_) = SearchService(best, models).by_text(asked, k=1).hits
    assert (first.id, first.caption) == (record.id, len(record.captions) - 1)
    assert first.score == pytest.approx(1, abs=1e-5)
    scores = mean.embeddings("captions") @ models.sentence.encode_text([asked])[0]
    (first, *_) = SearchService(mean, models).by_text(asked, k=1).hits
    assert first.score == pytest.approx(float(scores.max()), abs=1e-5)
    assert first.id == mean.records[int(scores.argmax())].id


def test_the_first_caption_is_that_of_a_build_of_one(options, built, varied, models):
    single = replace(options, out=options.out.with_name("one"), captions_per_image=1)
    pipeline.build(single, models=models)
    one, several = Gallery.open(single.out, varied), Gallery.open(built / "mean", varied)
    assert [r.caption for r in one.records] == [r.caption for r in several.records]
    assert not any(record.more_captions for record in one.records)


class Stop(Exception):
    pass


def interrupted(options, models) -> None:
    """Build until the second shard is kept."""

    class Stopping(pipeline.Workspace):
        def write_shard(self, number, shard, embeddings):
            super().write_shard(number, shard, embeddings)
            if number == 1:
                raise Stop

    kept = pipeline.Workspace
    pipeline.Workspace = Stopping
    try:
        with pytest.raises(Stop):
            pipeline.build(options, models=models)
    finally:
        pipeline.Workspace = kept


def test_a_resumed_build_ends_in_the_same_bytes(options, built, models):
    interrupted(options, models)
    result = pipeline.build(options, models=models)
    assert result.resumed_rows == 6
    for name in SAME_BYTES:
        assert (options.out / name).read_bytes() == (built / "mean" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"captions_per_image": 3}, "captions per image"),
        ({"caption_pooling": "best"}, "caption pooling"),
    ],
)
def test_another_number_or_way_starts_over(options, models, change, named):
    interrupted(options, models)
    said: list[str] = []
    result = pipeline.build(replace(options, **change), models=models, say=said.append)
    assert result.resumed_rows == 0
    assert any(f"had another {named}: starting over" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"captions_per_image": 0}, "--captions-per-image must be 1 or more, not 0"),
        ({"captions_per_image": 21}, "must be 20 or less, not 21"),
        ({"source": "given"}, "is for captions that are generated; these are given"),
    ],
)
def test_what_cannot_be_is_one_sentence(options, models, change, sentence):
    if change == {"source": "given"}:
        change = {"source": replace(options.source, captions_from="text")}
    with pytest.raises(SourceError, match=sentence):
        pipeline.build(replace(options, **change), models=models)
    assert not list(options.out.parent.iterdir())
