"""Presets by name become the dataset, split, columns and commit they stand for."""

from __future__ import annotations

import re

import pytest

from core.errors import SourceError
from precompute.sources.benchmarks import BENCHMARKS, PUBLISHED
from precompute.sources.presets import PRESETS, expand, preset, preset_of
from precompute.sources.types import SourceOptions, find_columns


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco"])
def test_a_name_becomes_a_pinned_dataset(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, standard = expand(SourceOptions(name, limit=7)), PRESETS[name]
    assert (found.source, found.split) == (standard.dataset, "test")
    assert re.fullmatch("[0-9a-f]{40}", found.revision)
    assert (found.image_column, found.caption_column) == (
        standard.image_column,
        standard.caption_column,
    )
    assert found.limit == 7
    assert preset_of(found.source, found.split) is standard
    assert preset_of(found.source, "train") is None


def test_what_was_given_beside_the_name_is_kept():
    found = expand(SourceOptions("flickr8k", split="train", caption_column="mine", revision="a"))
    assert (found.split, found.caption_column, found.revision) == ("train", "mine", "a")
    assert not found.caption_lines


def test_a_folder_of_that_name_and_other_sources_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    for source in ("coco", "someone/else"):
        options = SourceOptions(source)
        assert expand(options) is options


def test_captions_a_line_are_several_references_only_where_that_is_said():
    row, names = {"txt": "a dog\n a  cat\n\n", "jpg": b""}, ["jpg", "txt"]
    options = SourceOptions("x", caption_column="txt")
    lines = expand(SourceOptions("flickr8k"))
    for chosen, expected in ((options, ("a dog a cat",)), (lines, ("a dog", "a cat"))):
        columns = find_columns(names, chosen, "jpg", lambda _: True)
        assert columns.describe((row,), "1.jpg", b"").references == expected


def test_published_figures_are_of_known_benchmarks_and_rise_with_the_rank():
    assert BENCHMARKS == ("flickr8k", "flickr30k", "coco")
    for each in PUBLISHED:
        assert each.benchmark in PRESETS and each.source
        known = [value for value in each.recall if value is not None]
        assert known == sorted(known) and all(0 < value < 100 for value in known)


def test_every_preset_says_what_it_is_and_what_to_try():
    kinds = set(PRESETS) - set(BENCHMARKS)
    assert len(kinds) >= 7
    for name, each in PRESETS.items():
        assert preset(name) is each and preset_of(each.dataset, each.split) is each
        assert each.revision is None or re.fullmatch("[0-9a-f]{40}", each.revision)
        assert len(set(each.queries)) == len(each.queries) == 10, name
        assert each.licence and each.why and 0 < each.read <= each.images
    with pytest.raises(SourceError, match="no preset 'cocoa'. Known are: flickr8k, flickr30k"):
        preset("cocoa")


def test_a_preset_reads_as_many_pictures_as_it_says_unless_told_otherwise():
    assert expand(SourceOptions("wikiart")).limit == 10_000
    assert expand(SourceOptions("wikiart", limit=20)).limit == 20
    assert expand(SourceOptions("coco")).limit is None


def test_licence_and_page_of_a_photo_are_read_where_that_dataset_has_them():
    names = ["jpg", "caption", "licensename", "licenseurl", "pageurl"]
    columns = find_columns(names, expand(SourceOptions("cc-photos")), "jpg", lambda _: True)
    assert (columns.license, columns.source_url) == ("licensename", "pageurl")
