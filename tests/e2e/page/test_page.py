"""The page in a real browser: what a visitor sees, types, clicks and hears."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.visiting import DESKTOP
from tests.planted_app import HOSTILE_CAPTION, image_id, planted_shelf, serving


def test_before_the_first_search_there_are_examples_and_pictures(visit):
    expect(visit.page.get_by_role("tab").first).to_have_text("Compare")
    expect(visit.page.get_by_role("heading", name="planted")).to_contain_text("12 pictures")
    assert visit.cards().count() == 10
    visit.page.get_by_role("button", name="a red bus", exact=True).first.click()
    expect(visit.page.locator(".tl-agree:visible")).to_be_visible()
    expect(visit.page.locator("#compare-query input")).to_have_value("a red bus")


def test_enter_searches_and_five_pictures_stand_under_each_lens(visit, shelf):
    visit.search("dog beach")
    for lens in ("captions", "clip"):
        section = f".tl-lens.{lens}"
        expect(visit.cards(section)).to_have_count(5)
        hits = shelf.entry().service.by_text("dog beach", lens=lens).hits
        shown = visit.page.locator(f"{section} img:visible")
        sources = [shown.nth(place).get_attribute("src") for place in range(5)]
        assert [source.split("/")[-1][:16] for source in sources] == [hit.id for hit in hits]
    expect(visit.cards(".tl-lens.both")).to_have_count(5)
    folded = visit.page.locator(".tl-details:visible")
    expect(folded.get_by_text("Jaccard")).to_be_hidden()
    folded.get_by_text("Details").click()
    expect(folded.get_by_text("Jaccard")).to_be_visible()
    expect(folded).to_contain_text(re.compile(r"CLIP lens[\d.]+ ms"))
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.tl-lens.clip img')].every(i => i.naturalWidth > 0)"
    )


def test_the_button_searches_too_and_the_number_of_pictures_counts(visit):
    visit.page.get_by_label("Pictures per lens").fill("3")
    visit.page.locator("#compare-query input").fill("sea")
    visit.page.get_by_role("button", name="Search").locator("visible=true").click()
    expect(visit.cards(".tl-lens.captions")).to_have_count(3)
    expect(visit.page.get_by_text("sea", exact=False).first).to_be_attached()


def test_a_number_out_of_range_and_a_long_query_are_sentences(visit):
    visit.page.get_by_label("Pictures per lens").fill("99")
    visit.search("dog")
    expect(visit.page.get_by_role("alert")).to_have_text(
        "The number of pictures (k) must be between 1 and 50; got 99."
    )
    visit.page.get_by_label("Pictures per lens").fill("5")
    visit.search("x" * 1001)
    expect(visit.page.get_by_role("alert")).to_contain_text("1,001 characters; at most 1,000")
    visit.search("dog")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)


def test_a_picture_opens_large_and_leads_to_similar_ones(visit, shelf):
    visit.search("dog frisbee snow")
    card = visit.cards(".tl-lens.clip").first
    card.click()
    dialog = visit.page.get_by_role("dialog")
    expect(dialog.locator("blockquote")).to_have_text("a dog jumps for a frisbee")
    expect(dialog).to_contain_text("CC BY 2.0")
    expect(dialog.get_by_role("link", name="example.org")).to_have_attribute(
        "href", "https://example.org/photo/3"
    )
    expect(dialog.locator(".tl-standing.clip")).to_contain_text("1st of 12 · score 1.00")
    expect(dialog.locator(".tl-standing.captions")).to_contain_text("of 12 · score")
    dialog.get_by_role("button", name="similar by CLIP").click()
    expect(dialog).to_be_hidden()
    expect(visit.page.get_by_role("heading", name="Pictures that look the same")).to_be_visible()
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    hits = shelf.entry().service.similar(image_id(2), lens="clip").hits
    first = visit.page.locator(".tl-lens.clip img:visible").first.get_attribute("src")
    assert hits[0].id in first
    visit.page.get_by_role("button", name="← dog frisbee snow").click()
    expect(visit.page.locator(".tl-agree:visible")).to_be_visible()


def test_similar_by_captions(visit, shelf):
    visit.search("dog")
    visit.cards(".tl-lens.captions").first.click()
    visit.page.get_by_role("button", name="similar by captions").click()
    expect(
        visit.page.get_by_role("heading", name="Pictures whose captions say the same")
    ).to_be_visible()
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)


def test_the_keyboard_reaches_everything(visit):
    visit.search("dog beach")
    first = visit.cards(".tl-lens.captions").first
    expect(first).to_be_visible()
    first.focus()
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Shift+Tab")
    outline = first.evaluate(
        "e => getComputedStyle(e).outlineStyle + getComputedStyle(e).outlineWidth"
    )
    assert outline == "solid3px"
    visit.page.keyboard.press("Enter")
    dialog = visit.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    caption = dialog.locator("blockquote").inner_text()
    visit.page.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text("2 of 5")
    assert dialog.locator("blockquote").inner_text() != caption
    visit.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(first).to_be_focused()


def test_what_a_model_wrote_is_text(visit):
    visit.search(HOSTILE_CAPTION)
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    expect(visit.page.locator(".tl-lens.captions .tl-caption").first).to_have_text(HOSTILE_CAPTION)
    visit.cards(".tl-lens.captions").first.click()
    dialog = visit.page.get_by_role("dialog")
    expect(dialog.locator("blockquote")).to_have_text(HOSTILE_CAPTION)
    expect(dialog.locator(".tl-file").get_by_role("link")).to_have_count(0)
    dialog.get_by_role("button", name="similar by CLIP").click()
    expect(visit.page.locator(".tl-anchor p")).to_have_text(HOSTILE_CAPTION)
    assert visit.page.evaluate("window.pwned") is None
    assert visit.page.locator(".gradio-container b").count() == 0


def test_every_picture_has_its_caption_as_alternative_text_and_loads_late(visit):
    visit.search("dog")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    images = visit.page.locator(".tl-card img:visible")
    for place in range(images.count()):
        assert images.nth(place).get_attribute("alt")
        assert images.nth(place).get_attribute("loading") == "lazy"


def test_one_lens_that_fails_leaves_the_other(visit):
    visit.search("unplugged dog")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    expect(visit.page.locator(".tl-lens.clip:visible")).to_contain_text(
        "This lens could not answer."
    )


@pytest.mark.parametrize(("tab", "lens"), [("Captions", "captions"), ("CLIP", "clip")])
def test_a_lens_has_its_own_tab_and_no_choice_of_index_where_there_is_none(visit, tab, lens):
    visit.page.locator("#compare-query input").fill("dog beach")
    visit.open_tab(tab)
    box = visit.page.locator(f"#{lens}-query input")
    expect(box).to_have_value("dog beach")
    box.press("Enter")
    expect(visit.cards(f".tl-lens.{lens}")).to_have_count(5)
    expect(visit.page.get_by_label("IVF: nearest clusters")).to_have_count(0)  # 12 pictures


def test_about_says_which_models_answer(visit):
    visit.page.get_by_role("button", name=re.compile("models")).click()
    expect(visit.page.get_by_role("tab", name="About")).to_have_attribute("aria-selected", "true")
    expect(visit.page.get_by_role("heading", name="The models that answer")).to_be_visible()
    expect(visit.page.get_by_role("row", name="sentence").first).to_contain_text("MIT")
    visit.page.get_by_text("Manifest", exact=True).click()
    expect(visit.page.get_by_text("self_sha256")).to_be_visible()


def test_another_gallery_is_chosen_from_a_list_and_a_broken_one_says_why(visit, shelf):
    shown = visit.page.locator(".tl-gallery-list")
    now = visit.page.get_by_role("button", name="Gallery: planted. Choose another")
    now.focus()
    visit.page.keyboard.press("Enter")
    expect(shown.locator(".tl-gallery-item").first).to_be_focused()
    expect(shown.get_by_role("button")).to_have_text(
        [
            "planted12 pictures · captions by captioner",
            "three3 pictures · captions by captioner",
            "goneCannot be opened: its folder is not there.",
        ]
    )
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.tl-gallery-list img')].every(i => i.naturalWidth > 0)"
    )
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("Enter")
    expect(shown).to_be_hidden()
    expect(visit.page.get_by_role("heading", name="three")).to_contain_text("3 pictures")
    expect(visit.page.get_by_role("button", name="Gallery: three. Choose another")).to_be_focused()
    visit.search("dog")
    expect(visit.cards(".tl-lens.captions")).to_have_count(3)
    expect(visit.page.get_by_text("the gallery holds 3 pictures")).to_be_visible()
    visit.choose_gallery("gone")
    expect(visit.page.get_by_role("alert")).to_have_text(
        "gone cannot be opened: its folder is not there."
    )
    visit.choose_gallery("planted")
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)


def test_a_slow_search_shows_placeholders_where_the_pictures_will_be(visit):
    held = []
    visit.page.route("**/run/predict*", lambda route: held.append(route))
    visit.search("dog beach")
    expect(visit.page.locator(".tl-skeleton .tl-frame:visible").first).to_be_visible()
    expect(visit.page.locator(".tl-answer .tl-card:visible")).to_have_count(0)
    held[0].continue_()
    expect(visit.cards(".tl-lens.captions")).to_have_count(5)
    expect(visit.page.locator(".tl-skeleton .tl-frame:visible")).to_have_count(0)


def test_terms_explain_themselves_on_focus(visit):
    visit.search("dog beach")
    term = visit.page.locator(".tl-term:visible", has_text="by chance")
    tip = term.get_by_role("tooltip")
    expect(tip).to_be_hidden()
    term.focus()
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("in common on average")


def test_the_slider_moves_the_row_at_once_and_stays_for_the_next_search(visit, shelf):
    def order():
        sources = visit.page.locator(".tl-lens.both img:visible").evaluate_all(
            "images => images.map(image => image.getAttribute('src'))"
        )
        return [source.split("/")[-1][:16] for source in sources]

    def by_clip(query):
        return [hit.id for hit in shelf.entry().service.by_text(query, lens="clip").hits]

    service = shelf.entry().service
    visit.search("dog beach")
    expect(visit.cards(".tl-lens.both")).to_have_count(5)
    assert order() == [hit.id for hit in service.compare("dog beach").fused]
    asked = []
    visit.page.on("request", lambda request: asked.append(request.url))
    slider = visit.page.get_by_role("slider", name="From captions alone to CLIP alone")
    slider.focus()
    visit.page.keyboard.press("End")
    how = visit.page.locator(".tl-mix-how:visible")
    expect(how).to_contain_text("joined by score, CLIP alone")
    assert order() == by_clip("dog beach") != [h.id for h in service.compare("dog beach").fused]
    ranks = visit.page.locator(".tl-lens.both .tl-rank:visible")
    assert ranks.all_inner_texts() == ["1", "2", "3", "4", "5"]
    assert not [url for url in asked if "thumbnails" not in url]
    visit.search("boat sea")
    expect(visit.page.locator(".tl-lens.both img:visible").first).to_have_attribute(
        "src", re.compile(image_id(11))
    )
    expect(how).to_contain_text("joined by score, CLIP alone")
    assert order() == by_clip("boat sea")
    visit.page.get_by_label("by rank (RRF)").check()
    expect(how).to_contain_text("joined by rank")
    assert order() == [hit.id for hit in service.compare("boat sea").fused]


def test_a_stroke_reaches_the_field_enter_searches_from_both_and_clear_empties_it(visit):
    box = visit.page.locator("#compare-query input")
    visit.page.locator("body").press("/")
    expect(box).to_be_focused()
    expect(box).to_have_value("")
    clear = visit.page.get_by_role("button", name="Clear").locator("visible=true")
    expect(clear).to_have_count(0)
    box.type("and/or")
    expect(box).to_have_value("and/or")
    expect(clear).to_have_count(1)
    clear.click()
    expect(box).to_have_value("")
    expect(box).to_be_focused()
    box.fill("dog")
    count = visit.page.get_by_label("Pictures per lens")
    count.fill("3")
    count.press("Enter")
    expect(visit.cards(".tl-lens.captions")).to_have_count(3)


def test_without_a_gallery_the_page_says_what_to_run(chromium, tmp_path):
    shelf = planted_shelf(tmp_path)
    with serving(type(shelf)(shelf.profile)) as url:
        page = chromium.new_page(viewport=DESKTOP)
        page.goto(url)
        notice = page.locator(".tl-notice:visible")
        expect(notice).to_contain_text("python -m precompute build", timeout=30_000)
        page.locator("#compare-query input").fill("dog")
        page.locator("#compare-query input").press("Enter")
        page.wait_for_timeout(500)
        expect(notice).to_contain_text("No gallery is loaded")
        page.close()
