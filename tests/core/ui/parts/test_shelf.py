from __future__ import annotations

import pytest

from core.errors import GalleryNotFoundError, QueryError
from core.models.profiles import Models
from core.search.service import SearchService
from core.ui.parts.shelf import Shelf
from tests.planted_app import image_id, planted_profile, write_planted_gallery


@pytest.fixture
def profile(tmp_path):
    return planted_profile(tmp_path)


def opened(folders, profile):
    return Shelf.open(folders, profile, Models(profile), max_query_chars=1000)


def test_equal_names_become_distinct_and_addresses_are_plain(tmp_path, profile):
    folders = [
        write_planted_gallery(tmp_path / str(n), profile, name="Été & <b>Zoo</b>".replace("/", "-"))
        for n in range(3)
    ]
    shelf = opened(folders, profile)
    assert len(set(shelf.names)) == 3
    assert shelf.names[1] == shelf.names[0] + " (2)"
    slugs = [entry.slug for entry in shelf.entries]
    assert slugs == ["t-b-zoo-b", "t-b-zoo-b-2", "t-b-zoo-b-3"]
    assert [shelf.entry(name) for name in shelf.names] == list(shelf.entries)
    assert [shelf.entry(slug) for slug in slugs] == list(shelf.entries)


def test_a_folder_given_twice_is_served_once(tmp_path, profile):
    folder = write_planted_gallery(tmp_path / "one", profile)
    assert len(opened([folder, tmp_path / "." / "one"], profile).entries) == 1


def test_the_first_gallery_answers_when_none_is_named(shelf):
    assert shelf.entry("").name == shelf.entry(None).name == "planted"


def test_unknown_and_missing_galleries_are_one_sentence(shelf, profile):
    with pytest.raises(QueryError, match=r"There is no gallery called 'x+'\."):
        shelf.entry("x" * 500)
    with pytest.raises(QueryError, match="No gallery is loaded"):
        Shelf(profile).entry()


def test_a_gallery_that_cannot_be_served_is_refused(tmp_path, profile):
    good = write_planted_gallery(tmp_path / "good", profile)
    with pytest.raises(GalleryNotFoundError):
        opened([good, tmp_path / "absent"], profile)


def test_a_thumbnail_s_address_changes_with_the_gallery(shelf):
    planted, three = shelf.entries
    first, second = (entry.thumbnail_url(image_id(0)) for entry in (planted, three))
    assert first.startswith(f"thumbnails/planted/{image_id(0)}.webp?v=")
    assert first.split("?")[1] != second.split("?")[1]


def test_each_gallery_is_made_ready_the_first_one_before_the_others(shelf, monkeypatch):
    asked, compare = [], SearchService.compare

    def noting(service, query, **how):
        asked.append(service.gallery.name)
        return compare(service, query, **how)

    monkeypatch.setattr(SearchService, "compare", noting)
    shelf.warm_up()
    shelf.warm_up_others()
    assert asked == shelf.names
