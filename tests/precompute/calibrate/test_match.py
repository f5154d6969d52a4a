"""Choosing when nothing matches: at most a share of the good queries, whatever else is caught."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from core.errors import SourceError
from core.models import match_threshold
from core.models.locate import revision_of
from core.models.profiles import PROFILES
from precompute.__main__ import app
from precompute.calibrate.match import as_typed, choose_thresholds, write_thresholds
from tests.planted_app import PICTURES, planted_profile, shelf_of, write_planted_gallery


@pytest.fixture
def served(tmp_path):
    """A planted gallery with five references a picture, the last of them far off."""
    profile = planted_profile(tmp_path)
    shelf = shelf_of([write_planted_gallery(tmp_path / "gallery", profile)], profile)
    gallery = shelf.entry().gallery
    gallery.records = tuple(
        replace(record, references=(*4 * (f"{said.caption} {said.seen}",), f"{said.seen} xyzzy"))
        for record, said in zip(gallery.records, PICTURES, strict=True)
    )
    return shelf.entry()


def test_at_most_the_share_of_good_queries_lies_below_and_nonsense_does(served):
    models = served.service.models
    for choice in choose_thresholds(served.gallery, models, ["plugh"], 0.2):
        queries = [text for record in served.gallery.records for text in record.references]
        queries += map(as_typed, queries[:])
        best = [served.service.by_text(text, 1, choice.lens).hits[0].score for text in queries]
        assert 0 < sum(score < choice.below for score in best) <= 0.2 * len(best)
        assert choice.good == 120
        assert choice.caught["nonsense"] > 0.9
        assert choice.caught["another domain"] == 1
        without = choice.caught["photo removed"]
        assert sum(score < choice.below for score in best) / len(best) < without < 1


def test_a_caption_is_cut_short_as_visitors_type():
    assert as_typed("A brown dog is running on the beach with a ball.") == "brown dog running"
    assert as_typed("it is") == "it is"


def test_a_threshold_belongs_to_a_model_and_the_others_stay(served, tmp_path, monkeypatch):
    models = served.service.models
    choices = choose_thresholds(served.gallery, models, [], 0.2)
    path = tmp_path / "match.json"
    path.write_text(json.dumps({"clip": {"another": {"below": 0.5}}}))
    monkeypatch.setattr(match_threshold, "MATCH_FILE", path)
    write_thresholds(path, choices, models, "planted")
    assert json.loads(path.read_text())["clip"]["another"] == {"below": 0.5}
    found = match_threshold.match_threshold("clip", models.profile.clip)
    assert found == choices[1].below
    assert served.matches_well(served.service.by_text("dog beach", lens="clip")) is True
    assert served.matches_well(served.service.by_text("qwertz uiop asdf", lens="clip")) is False
    (tmp_path / "models" / "clip" / "model.safetensors").write_bytes(b"trained again")
    revision_of.cache_clear()
    assert match_threshold.match_threshold("clip", models.profile.clip) is None
    assert served.matches_well(served.service.by_text("qwertz uiop asdf", lens="clip")) is None


def test_a_gallery_without_references_cannot_choose(served):
    served.gallery.records = tuple(replace(r, references=()) for r in served.gallery.records)
    with pytest.raises(SourceError, match="planted has 0 reference captions; 40 are needed"):
        choose_thresholds(served.gallery, served.service.models, [], 0.05)


def test_the_command_says_what_is_missing(tmp_path):
    result = CliRunner().invoke(app, ["match", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "There is no gallery folder" in result.output


def test_the_shipped_thresholds_flag_few_good_queries():
    assert 0 < match_threshold.match_threshold("captions", PROFILES["mini"].sentence) < 1
    for lens in match_threshold.read_thresholds(match_threshold.MATCH_FILE).values():
        for chosen in lens.values():
            assert chosen["good_flagged"] < 0.08
            assert chosen["caught"]["nonsense"] > 0.5
