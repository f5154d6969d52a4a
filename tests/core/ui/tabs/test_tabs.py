"""What the tabs answer, as HTML, over a gallery whose rankings are known."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest
from safetensors.numpy import save_file

from core.errors import ModelError, QueryError
from core.models import match_threshold
from core.models.clip import hubs
from core.models.locate import revision_of
from core.models.profiles import PROFILES, Models
from core.records import PLAIN_RRF, Fusion
from core.search.service import SearchService
from core.ui.api import compare_json
from core.ui.galleries.shelf import Shelf
from core.ui.parts.markup import fusion_words
from core.ui.parts.results.similar import similar_state
from core.ui.parts.results.states import answered, start_state
from core.ui.tabs import about, best_of_both, compare
from core.ui.tabs import lens as lens_tab
from core.ui.tabs.about import gallery_description
from tests.core.planted import unit_rows
from tests.core.search.conftest import CountingGallery
from tests.core.ui.parts.results.test_cards import carried
from tests.planted_app import (
    DIM,
    HOSTILE_CAPTION,
    PICTURES,
    image_id,
    planted_profile,
    shelf_of,
    write_planted_gallery,
)


def section(markup: str, kind: str) -> str:
    start = markup.index(f'<section class="tl-lens {kind}"')
    return markup[start : markup.index("</section>", start)]


def ids(markup: str) -> list[str]:
    return [picture["id"] for picture in carried(markup)]


def service_ids(shelf, lens, query, k):
    hits = shelf.entry().service.by_text(query, k=k, lens=lens).hits
    return [hit.id for hit in hits]


def test_compare_shows_what_each_lens_ranks(shelf):
    markup = compare.answer(shelf, "dog beach", 5, "planted")
    for lens in ("captions", "clip"):
        assert ids(section(markup, lens)) == service_ids(shelf, lens, "dog beach", 5)
    assert ids(section(markup, "clip"))[0] == image_id(10)


def test_pictures_found_by_both_are_marked_in_both(shelf):
    markup = compare.answer(shelf, "dog beach", 4, "planted")
    captions, clip = (service_ids(shelf, lens, "dog beach", 4) for lens in ("captions", "clip"))
    common = set(captions) & set(clip)
    assert 0 < len(common) < 4
    assert f"They agree on {len(common)} of 4" in markup
    assert f"by chance it would be {4 * 4 / 12:.1f}" in markup
    assert f"<dt>Overlap</dt><dd><b>{len(common) / 4:.0%}</b>" in markup
    assert markup.index("They agree") < markup.index("<summary>Details") < markup.index("Jaccard")
    for lens in ("captions", "clip"):
        assert section(markup, lens).count("is-both") == len(common)


def test_the_third_row_is_the_fusion_with_each_lens_s_rank(shelf):
    fused = shelf.entry().service.compare("dog beach", k=5).fused
    row = section(compare.answer(shelf, "dog beach", 5, ""), "both wide")
    assert ids(row) == [hit.id for hit in fused]
    places = re.findall(r'tl-place captions">.*?</span>(\d+)</span>', row)
    assert places == [str(hit.sources["captions"].rank) for hit in fused]


def test_a_comparison_has_further_pages(shelf):
    pages = [compare.answer(shelf, "dog beach", 5, "", start=start) for start in (0, 5, 10)]
    service = shelf.entry().service
    everything = service.compare("dog beach", k=12)
    for title, hits in (
        ("captions", everything.captions.hits),
        ("clip", everything.clip.hits),
        ("both wide", everything.fused),
    ):
        shown = [each for page in pages for each in ids(section(page, title))]
        assert shown == [hit.id for hit in hits]
    assert [page.count('class="tl-agree"') for page in pages] == [1, 0, 0]
    assert 'data-first="6"' in pages[1]
    assert "11 to 12 of 12" in pages[2]


def mixed(markup):
    return json.loads(html.unescape(re.search(r'data-mix="([^"]*)"', markup).group(1)))


@pytest.mark.parametrize(
    "default", [PLAIN_RRF, Fusion("zscore", 0.35), Fusion("corrected", 0.37)], ids=str
)
def test_the_page_has_the_row_for_each_weight(shelf, default, tmp_path, monkeypatch):
    """So that it changes while the visitor moves the slider."""
    bank = tmp_path / "hubs.safetensors"
    save_file({revision_of(shelf.profile.clip): unit_rows(50, DIM, seed=14)}, bank)
    monkeypatch.setattr(hubs, "BANK_FILE", bank)
    entry = shelf.entry()
    models = entry.service.models
    own = Models(
        replace(models.profile, fusion=default), sentence=models.sentence, clip=models.clip
    )
    service = SearchService(entry.gallery, own)
    markup = compare.answer(
        Shelf(own.profile, (replace(entry, service=service),)), "dog beach", 3, ""
    )
    mix = mixed(markup)
    kind = default.kind if default.family == "sum" else "zscore"
    assert f'data-sum="{kind}"' in markup
    weights = [stop["weight"] for stop in mix["weights"]]
    assert weights == sorted({*best_of_both.WEIGHTS, default.weight}, reverse=True)
    for stop, fusion in [
        (mix["rank"], PLAIN_RRF),
        *((each, Fusion(kind, each["weight"])) for each in mix["weights"]),
    ]:
        expected = service.compare("dog beach", k=3, fusion=fusion).fused
        assert stop["ids"] == [hit.id for hit in expected]
    row, spare = section(markup, "both wide"), markup[markup.index("<template") :]
    shown = service.compare("dog beach", k=3).fused
    assert ids(row) == [hit.id for hit in shown]
    cards = [*ids(row), *ids(spare)]
    assert len(cards) == len(set(cards))
    assert set(cards) == {each for stop in (mix["rank"], *mix["weights"]) for each in stop["ids"]}
    assert (" checked" in row) == (default == PLAIN_RRF)
    assert html.escape(fusion_words(default).short) in row
    if default != PLAIN_RRF:
        assert weights[int(re.search(r'value="(\d+)"', row).group(1))] == default.weight


def test_a_fusion_is_named_by_what_was_done():
    assert fusion_words(PLAIN_RRF).short == "joined by rank"
    assert "1 / (60 + its rank)" in fusion_words(PLAIN_RRF).long
    assert "1 / (10 + its rank)" in fusion_words(Fusion("rrf", k=10)).long
    weighed = fusion_words(Fusion("zscore", 0.35))
    assert weighed.short == "joined by score, 35% captions and 65% CLIP"
    assert "z-scores" in weighed.long
    assert fusion_words(Fusion("zscore", 0.0)).short == "joined by score, CLIP alone"
    corrected = fusion_words(Fusion("corrected", 0.0))
    assert corrected.short == "joined by score, CLIP alone, corrected"  # no longer CLIP's own order
    assert "50% of how near a picture is to captions of other photos is taken off" in corrected.long


def test_the_api_joins_as_asked(shelf):
    def fused(*how):
        answer = compare_json(shelf.entry(), "dog beach", 3, *how)
        return answer["fusion"], [hit["id"] for hit in answer["fused"]], answer

    for asked, fusion in [
        ((), PLAIN_RRF),
        (("rrf",), PLAIN_RRF),
        (("zscore",), Fusion("zscore", 0.5)),
        (("zscore", 1), Fusion("zscore", 1.0)),
        (("zscore", 0.0), Fusion("zscore", 0.0)),
        (("corrected", 0.25), Fusion("corrected", 0.25)),
    ]:
        expected = shelf.entry().service.compare("dog beach", k=3, fusion=fusion).fused
        assert fused(*asked)[:2] == (str(fusion), [hit.id for hit in expected])
    for asked, why in [
        (("minmax",), "one of default, rrf, zscore, corrected; got 'minmax'"),
        (("zscore", 1.5), "between 0 and 1; got '1.5'"),
        (("zscore", "much"), "between 0 and 1; got 'much'"),
        (("zscore", float("nan")), "between 0 and 1; got 'nan'"),
        (("rrf", 0.5), "goes with the fusions zscore and corrected only"),
    ]:
        with pytest.raises(QueryError, match=why):
            fused(*asked)


def test_the_api_says_where_a_picture_is_whose_it_is_and_what_chance_gives(shelf):
    answer = compare_json(shelf.entry(), "dog frisbee snow", 3)
    hit = next(hit for hit in answer["clip"] if hit["id"] == image_id(2))
    assert hit["image"] == shelf.entry().thumbnail_url(image_id(2))
    assert hit["license"] == "CC BY 2.0"
    assert hit["source"] == "https://example.org/photo/3"
    assert answer["agreement"]["by_chance"] == pytest.approx(3 * 3 / 12)
    assert answer["agreement"]["shared"] == round(3 * answer["agreement"]["overlap"])


def test_about_says_what_the_lenses_share_and_claims_no_more(shelf):
    small = about.lenses_explained(PROFILES["mini"])
    assert "through one image tower" in small
    assert "trained on the captions of Flickr30k and COCO" in small
    assert "usually right" not in small
    full = about.lenses_explained(PROFILES["full"])
    assert "image tower" not in full
    numbers = about.numbers_explained(replace(PROFILES["mini"], fusion=Fusion("zscore", 0.35)))
    assert "Z-score sum, caption weight 0.35" in numbers
    assert "eciprocal" not in numbers


def test_a_lens_that_fails_leaves_the_other_one_answering(shelf):
    markup = compare.answer(shelf, "unplugged dog", 3, "planted")
    assert len(ids(section(markup, "captions"))) == 3
    assert "This lens could not answer." in section(markup, "clip")
    assert "&lt;packages&gt;" in section(markup, "clip")
    assert "tl-lens both" not in markup
    assert "tl-agree" not in markup


def test_an_empty_query_is_the_start(shelf):
    markup = compare.answer(shelf, "   ", 5, "planted")
    assert "Browse all 12" in markup
    assert markup.count("data-query=") == 5
    assert len(ids(markup)) == 10


def test_fewer_pictures_than_asked_for_says_so(shelf):
    markup = compare.answer(shelf, "dog", 5, "three")
    assert len(ids(section(markup, "captions"))) == 3
    assert "the gallery holds 3 pictures" in markup


def test_a_lens_whose_best_hit_is_no_match_says_so_above_its_results(shelf, tmp_path, monkeypatch):
    clip = revision_of(shelf.profile.clip)
    (tmp_path / "match.json").write_text(json.dumps({"clip": {clip: {"below": 0.6}}}))
    monkeypatch.setattr(match_threshold, "MATCH_FILE", tmp_path / "match.json")
    said = "Nothing here matches well."
    weak = compare.answer(shelf, "qwertz uiop", 5, "planted")
    assert said in section(weak, "clip").partition("<ol")[0]
    assert said not in section(weak, "captions")  # no threshold, nothing said
    assert said not in compare.answer(shelf, "dog beach sand", 5, "planted")
    assert said in lens_tab.answer(shelf, "clip", "qwertz uiop", 5, "flat", 2, "planted")
    assert compare_json(shelf.entry(), "qwertz uiop", 5)["matches_well"] == {
        "captions": None,
        "clip": False,
    }


@pytest.mark.parametrize(
    ("k", "why"),
    [(0, "be between 1 and 50"), (51, "be between 1 and 50"), (None, "a whole number")],
)
def test_a_number_of_pictures_out_of_range_is_one_sentence_everywhere(shelf, k, why):
    said = set()
    for ask in (
        lambda: compare.answer(shelf, "dog", k, "planted"),
        lambda: lens_tab.answer(shelf, "clip", "dog", k, "flat", 1, "planted"),
        lambda: compare_json(shelf.entry(), "dog", k),
        lambda: shelf.entry().service.by_text("dog", k),
    ):
        with pytest.raises(QueryError, match=why) as caught:
            ask()
        said.add(str(caught.value))
    assert len(said) == 1


def test_errors_become_states_and_bugs_become_a_request_id(shelf, caplog):
    def refused():
        raise QueryError("Too <b>long</b>.")

    assert "Too &lt;b&gt;long&lt;/b&gt;." in answered(shelf, "planted", refused)
    markup = answered(
        shelf, "planted", lambda: lens_tab.answer(shelf, "clip", "kaboom", 5, "flat", 2, "")
    )
    (request_id,) = re.findall(r"request id ([0-9a-f]{8})", markup.split("tl-notice")[1])
    assert "secret" not in markup
    assert f"request {request_id} failed" in caplog.text
    assert "a bug with a secret" in caplog.text


def test_an_error_in_an_unknown_gallery_is_still_a_state(shelf):
    markup = answered(shelf, "gone", lambda: compare.answer(shelf, "dog", 5, "gone"))
    assert "There is no gallery called &#x27;gone&#x27;." in markup


@pytest.mark.parametrize("lens", ["captions", "clip"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_lens_tab_shows_its_lens_and_no_ivf_where_there_are_few_clusters(shelf, lens, kind):
    markup = lens_tab.answer(shelf, lens, "dog beach", 5, kind, 50, "planted")
    assert ids(section(markup, f"{lens} wide")) == service_ids(shelf, lens, "dog beach", 5)
    assert shelf.entry().gallery.index(lens, "ivf").nlist < lens_tab.WORTH_CLUSTERS
    assert "IVF" not in markup


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """So many pictures that IVF has ten clusters."""
    folder = tmp_path_factory.mktemp("large")
    profile = planted_profile(folder)
    pictures = [
        replace(PICTURES[row % 12], caption=f"picture {row} of a dog", seen=f"dog {row}")
        for row in range(400)
    ]
    write_planted_gallery(folder / "gallery", profile, pictures)
    return shelf_of([folder / "gallery"], profile)


def test_a_lens_tab_searches_each_index_once(large):
    entry = large.entries[0]
    counting = CountingGallery(entry.gallery)
    entry.service.gallery = counting
    flat = lens_tab.answer(large, "clip", "dog", 5, "flat", 1, "")
    assert sorted(counting.searches) == [("captions", "flat"), ("clip", "flat")]
    assert "IVF" not in flat
    counting.searches.clear()
    markup = lens_tab.answer(large, "clip", "dog", 5, "ivf", 99, "")
    assert sorted(counting.searches) == [("captions", "flat"), ("clip", "flat"), ("clip", "ivf")]
    # nprobe is capped at the number of clusters, and IVF over all clusters is exact.
    assert ids(section(markup, "clip wide")) == ids(section(flat, "clip wide"))
    assert "searched 10 of 10 clusters" in markup
    assert "IVF kept 5 of 5" in markup
    assert re.search(r">IVF [\d.]+ ms", markup)
    assert re.search(r">flat [\d.]+ ms", markup)
    counting.searches.clear()
    compare.answer(large, "dog", 5, "")
    assert counting.searches == [("captions", "flat"), ("clip", "flat")]


def test_a_lens_tab_passes_a_model_error_on(shelf):
    with pytest.raises(ModelError):
        lens_tab.answer(shelf, "clip", "unplugged", 5, "flat", 1, "planted")


def test_similar_shows_the_others_and_the_way_back(shelf):
    entry = shelf.entry()
    result = entry.service.similar(image_id(7), k=4, lens="clip")
    markup = similar_state(entry, result, image_id(7), '"><script>x</script>')
    shown = ids(section(markup, "clip wide"))
    assert shown == [hit.id for hit in result.hits]
    assert image_id(7) not in shown
    assert "<script>" not in markup
    assert HOSTILE_CAPTION not in markup


def test_no_gallery_says_what_to_run(shelf):
    empty = type(shelf)(shelf.profile)
    markup = start_state(empty, None)
    assert "python -m precompute build" in markup
    assert compare.answer(empty, "dog", 5, "").count("No gallery is loaded") > 0


def test_about_names_the_gallery_s_models_and_shows_its_manifest(shelf):
    markup = gallery_description(shelf, "three")
    assert "3 pictures, built 2026-11-01" in markup
    assert "Its captions were written by captioner." in markup
    assert "self_sha256" in markup
