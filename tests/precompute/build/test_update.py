"""The same command on a source that has changed: what is still there is not described again."""

from __future__ import annotations

import json

import pytest

from core.errors import GalleryExistsError
from core.models.profiles import Models
from precompute.build import pipeline
from tests.precompute.build.builds import build, litter, options, photos, rows, same_gallery
from tests.precompute.conftest import noise_photo
from tests.precompute.planted_models import PROFILE, planted_models


class _Counting:
    """A captioner that knows how many pictures it was asked for."""

    def __init__(self, genuine) -> None:
        self.genuine, self.spec, self.asked = genuine, genuine.spec, 0

    def caption(self, images):
        self.asked += sum(image.size != (64, 64) for image in images)  # not the one that tries it
        return self.genuine.caption(images)


@pytest.fixture
def models(tiny) -> Models:
    genuine = Models(tiny, device="cpu").captioner
    return Models(tiny, device="cpu", captioner=_Counting(genuine))


def test_a_source_that_grew_and_shrank(tiny, models, tmp_path):
    source, out = photos(tmp_path / "in", 12), tmp_path / "g"
    (source / "metadata.jsonl").write_text('{"file_name": "005.png", "captions": ["a dog"]}\n')
    pipeline.build(options(source, out, tiny), models=models)
    assert models.captioner.asked == 12
    before = (out / "manifest.json").read_bytes()
    # Nothing has changed: nothing is done.
    assert pipeline.build(options(source, out, tiny), models=models) is None
    assert (out / "manifest.json").read_bytes() == before
    assert litter(tmp_path) == []

    photos(source, 2, first=40)
    (source / "000a.png").write_bytes(noise_photo(50))  # moves all after it to other batches
    (source / "007.png").write_bytes(noise_photo(51))
    (source / "003.png").unlink()
    (source / "010.png").rename(source / "zz.png")
    (source / "metadata.jsonl").write_text('{"file_name": "005.png", "captions": ["a cat"]}\n')
    result = pipeline.build(options(source, out, tiny), models=models)
    assert (result.images, models.captioner.asked) == (14, 12 + 4)
    build(options(source, tmp_path / "new", tiny))
    same_gallery(out, tmp_path / "new")
    names = [row["file_name"] for row in rows(out)]
    assert (names[1], names[-1], "003.png" in names) == ("000a.png", "zz.png", False)
    assert [row["references"] for row in rows(out)][names.index("005.png")] == ["a cat"]


def test_another_source_or_another_way_is_refused(tmp_path):
    source, out, models = photos(tmp_path / "in", 3), tmp_path / "g", planted_models()

    def build(asked):
        return pipeline.build(asked, models=models)

    build(options(source, out, PROFILE))
    elsewhere = photos(tmp_path / "other" / "in", 3, first=20)  # a folder of the same name
    with pytest.raises(GalleryExistsError, match=r"exists\. Add --overwrite"):
        build(options(elsewhere, out, PROFILE))
    with pytest.raises(GalleryExistsError, match="other models, versions or options"):
        build(options(source, out, PROFILE, captions_per_image=2))
    report = json.loads((out / "build_report.json").read_text())
    assert str(tmp_path) not in json.dumps(report)
    # Asked to replace it, a build takes nothing over.
    build(options(source, out, PROFILE, overwrite=True))
    assert models.captioner.asked == 6
    assert litter(tmp_path) == []
