"""Where a build may write, and what it never replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import GalleryError, GalleryExistsError, ModelNotFoundError
from core.gallery.reader import Gallery
from core.models.profiles import Models
from precompute.build import pipeline
from tests.precompute.build.builds import build, litter, options, photos, rows


def test_an_existing_gallery_is_replaced_only_on_request_and_only_by_a_whole_one(tiny, tmp_path):
    out = tmp_path / "g"
    build(options(photos(tmp_path / "old", 3), out, tiny))
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    new = photos(tmp_path / "new", 4, first=10)
    with pytest.raises(GalleryExistsError, match="--overwrite"):
        build(options(new, out, tiny))
    broken = replace(tiny, captioner=replace(tiny.captioner, source=f"path:{new}"))
    with pytest.raises(ModelNotFoundError):
        build(options(new, out, broken, overwrite=True))
    for name, content in before.items():
        assert (out / name).read_bytes() == content, name
    build(options(new, out, tiny, overwrite=True))
    assert [row["file_name"] for row in rows(out)] == [f"{i:03d}.png" for i in range(10, 14)]
    assert len(Gallery.open(out, tiny)) == 4
    assert litter(tmp_path) == []


def test_what_is_not_a_gallery_is_never_replaced(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    for content in ("{}", '["thumbnails_sha256"]', '"thumbnails_sha256"', "["):
        (home / "manifest.json").write_text(content)
        with pytest.raises(GalleryError, match="not a gallery's"):
            build(options(source, home, tiny, overwrite=True))
    assert (home / "thesis.tex").read_text() == "years of work"
    with pytest.raises(GalleryError, match="is a file"):
        build(options(source, home / "thesis.tex", tiny, overwrite=True))
    empty = tmp_path / "empty"
    empty.mkdir()
    build(options(source, empty, tiny))
    (empty / "manifest.json").unlink()
    build(options(source, empty, tiny, overwrite=True))
    assert len(Gallery.open(empty, tiny)) == 2


@pytest.mark.parametrize(
    "names",
    [
        [".git"],
        [".bashrc", ".ssh"],
        ["manifest.json"],
        ["manifest.json", ".git"],
        ["thumbnails", ".DS_Store"],
    ],
)
def test_a_folder_without_a_gallery_s_own_files_is_never_replaced(names, tiny, tmp_path):
    out = tmp_path / "out"
    for name in names:
        (out / name).mkdir(parents=True)
        (out / name / "precious").write_text("years of work")
    with pytest.raises(GalleryError, match=f"not a gallery's, such as {min(names)}"):
        build(options(photos(tmp_path / "in", 2), out, tiny, overwrite=True))
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_a_gallery_with_files_of_its_owner_is_not_replaced(tiny, tmp_path):
    source, out = photos(tmp_path / "in", 2), tmp_path / "g"
    build(options(source, out, tiny))
    (out / ".DS_Store").write_bytes(b"left by a system")
    build(options(source, out, tiny, overwrite=True))
    (out / ".git").mkdir()
    with pytest.raises(GalleryError, match="such as .git"):
        build(options(source, out, tiny, overwrite=True))
    assert (out / ".git").is_dir()


def test_places_that_can_be_no_gallery(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    (tmp_path / "loop").symlink_to("loop")
    for out in (Path("/"), Path("/proc/g"), tmp_path / "loop" / "g", Path("~no such user/g")):
        with pytest.raises(GalleryError, match="cannot be"):
            build(options(source, out, tiny, overwrite=True))


@pytest.mark.parametrize("where", ["in", "in/g", "."])
def test_source_and_gallery_lie_apart(tiny, tmp_path, where):
    source = photos(tmp_path / "in", 2)
    with pytest.raises(GalleryError, match="inside each other"):
        build(options(source, tmp_path / where, tiny, overwrite=True))
    assert sorted(p.name for p in source.iterdir()) == ["000.png", "001.png"]


def test_two_builds_of_one_gallery_do_not_meet(tiny, tmp_path):
    from precompute.build.workspace import Workspace

    source = photos(tmp_path / "in", 2)
    out = tmp_path / "g"
    with (
        Workspace(out).locked(),
        pytest.raises(GalleryError, match="Another build of .* is running"),
    ):
        build(options(source, out, tiny))
    assert build(options(source, out, tiny)).images == 2


def test_a_place_that_cannot_be_written(tiny, tmp_path):
    source = photos(tmp_path / "in", 2)
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file" / "g", tmp_path / ("n" * 300)):
        with pytest.raises(GalleryError, match="cannot be written"):
            build(options(source, out.resolve(), tiny))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in"]


def test_only_what_failed_in_writing_is_said_to_be_that(tiny, tmp_path):
    """An error without a number, as image and model libraries raise them, says nothing of disks."""

    class Torn:
        spec = tiny.captioner

        def caption(self, images):
            raise OSError("the weights end early")

    source = photos(tmp_path / "in", 2)
    with pytest.raises(OSError, match="the weights end early"):
        pipeline.build(
            options(source, tmp_path / "g", tiny),
            models=Models(tiny, device="cpu", captioner=Torn()),
        )
