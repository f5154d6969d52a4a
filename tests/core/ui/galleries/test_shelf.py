from __future__ import annotations

import shutil

import pytest

from core.errors import GalleryError, GalleryNotFoundError, QueryError
from core.gallery.reader import Gallery
from core.models.profiles import Models
from core.ui.galleries.shelf import Shelf
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
    slugs = [listed.slug for listed in shelf.listed]
    assert slugs == ["t-b-zoo-b", "t-b-zoo-b-2", "t-b-zoo-b-3"]
    by_name = [shelf.entry(name) for name in shelf.names]
    assert by_name == list(shelf.entries) == [shelf.entry(slug) for slug in slugs]


def test_a_folder_given_twice_is_served_once(tmp_path, profile):
    folder = write_planted_gallery(tmp_path / "one", profile)
    assert len(opened([folder, tmp_path / "." / "one"], profile).listed) == 1


def test_the_first_gallery_answers_when_none_is_named(shelf):
    assert shelf.entry("").name == shelf.entry(None).name == "planted"


def test_unknown_and_missing_galleries_are_one_sentence(shelf, profile):
    with pytest.raises(QueryError, match=r"There is no gallery called 'x+'\."):
        shelf.entry("x" * 500)
    with pytest.raises(QueryError, match="No gallery is loaded"):
        Shelf(profile).entry()


def test_the_first_gallery_is_opened_and_each_other_one_when_it_is_chosen(
    tmp_path, profile, monkeypatch
):
    folders = [
        write_planted_gallery(tmp_path / name, profile, name=name) for name in ("one", "two", "bad")
    ]
    (folders[2] / "clip.npy").write_bytes(b"")
    looked, open_gallery = [], Gallery.open

    def noting(folder, models):
        looked.append(folder)
        return open_gallery(folder, models)

    monkeypatch.setattr(Gallery, "open", noting)
    shelf = opened([*folders, tmp_path / "absent"], profile)
    assert looked == folders[:1] and shelf.names == ["one", "two", "bad", "absent"]
    assert [each.manifest and each.manifest.counts.images for each in shelf.listed] == [
        *(12, 12, 12, None)
    ]
    covers = [each.cover() for each in shelf.listed]
    assert covers[1] == covers[0] is not None and covers[3] is None
    assert looked == folders[:1], "a list opens nothing"

    assert shelf.entry("two") is shelf.entry("two") and looked == folders[:2]
    assert [entry.name for entry in shelf.entries] == ["one", "two"]
    for _ in range(2):
        with pytest.raises(GalleryError, match="^bad cannot be opened: clip.npy is not the file"):
            shelf.entry("bad")
    assert looked == folders, "a visitor does not make the app read a broken one again and again"
    with pytest.raises(GalleryError) as absent:
        shelf.entry("absent")
    assert str(absent.value) == "absent cannot be opened: its folder is not there."
    shutil.rmtree(folders[2])
    write_planted_gallery(folders[2], profile, name="bad")
    monkeypatch.setattr("core.ui.galleries.listed.AGAIN_S", 0)
    assert len(shelf.entry("bad").gallery) == 12 and not shelf.find("bad").trouble


def test_the_first_gallery_must_be_there(tmp_path, profile):
    good = write_planted_gallery(tmp_path / "good", profile)
    with pytest.raises(GalleryNotFoundError):
        opened([tmp_path / "absent", good], profile)


def test_a_thumbnail_s_address_changes_with_the_gallery(shelf):
    entries = shelf.entry("planted"), shelf.entry("three")
    first, second = (entry.thumbnail_url(image_id(0)) for entry in entries)
    assert first.startswith(f"thumbnails/planted/{image_id(0)}.webp?v=")
    assert first.split("?")[1] != second.split("?")[1]
