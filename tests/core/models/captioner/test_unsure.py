"""Captions that hardly fit their pictures are called unsure, by a rule beside the captioner."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from core.describing import Describer
from core.errors import ModelError
from core.models.captioner.unsure import (
    UnsureRule,
    fits,
    read_unsure_rule,
    sureness,
    with_doubts,
)
from core.models.clip import hubs
from core.models.locate import revision_of
from core.records import UNSURE, Caption, SeenCaption
from tests.core.planted import unit_rows
from tests.tiny_uploads import colour_models

USUAL = ("colour 111", "colour 222")


@pytest.fixture
def models(tmp_path):
    return colour_models(tmp_path)


def write(models, rule: object) -> None:
    folder = models.profile.captioner.source.partition(":")[2]
    with open(f"{folder}/twolens.json", "w", encoding="utf-8") as file:
        json.dump({"decoding": {}, "unsure": rule} if rule is not None else {"decoding": {}}, file)


def rule_of(models, below: float) -> dict[str, object]:
    revision = revision_of(models.profile.clip)
    return {"below": below, "usual": list(USUAL), "clip_revision": revision, "auc": 0.9}


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (16 * row, 40, 200)) for row in range(8)]


def test_the_fit_is_how_much_nearer_the_caption_is_than_the_usual_ones(models):
    texts = [f"caption {row}" for row in range(5)]
    images = models.clip.encode_image(pictures()[:5])
    expected = [
        image @ models.clip.encode_text([text])[0]
        - np.mean([image @ models.clip.encode_text([usual])[0] for usual in USUAL])
        for text, image in zip(texts, images, strict=True)
    ]
    assert fits(models.clip, texts, images, USUAL) == pytest.approx(np.array(expected), abs=1e-6)


def test_pictures_near_to_nothing_that_people_say_fit_worse(models, tmp_path, monkeypatch):
    texts = [f"caption {row}" for row in range(8)]
    images = models.clip.encode_image(pictures())
    dim = images.shape[1]
    bank = np.repeat(images[:1], 12, axis=0) + 0.01 * unit_rows(12, dim)  # of what the first shows
    save_file({revision_of(models.profile.clip): bank.astype(np.float32)}, tmp_path / "bank")
    monkeypatch.setattr(hubs, "BANK_FILE", tmp_path / "bank")
    plain = fits(models.clip, texts, images, USUAL)
    near = hubs.hubness(images, bank)
    assert near.argmax() == 0
    found = fits(models.clip, texts, images, USUAL, 2.0)
    assert found == pytest.approx(plain + 2 * near, abs=1e-5)
    below = float(np.sort(found)[3])
    rule = UnsureRule(below, USUAL, "", 2.0)
    judged = with_doubts([Caption(text) for text in texts], images, models.clip, rule)
    assert [UNSURE in each.flags for each in judged] == (found < below).tolist()
    write(models, {**rule_of(models, 0.25), "hubness_weight": 2.0})
    captioner, clip = models.profile.captioner, models.profile.clip
    assert read_unsure_rule(captioner, clip).hubness_weight == 2.0
    monkeypatch.setattr(hubs, "BANK_FILE", tmp_path / "none")  # then the fit cannot be measured
    assert read_unsure_rule(captioner, clip) is None


def test_a_caption_is_surer_where_a_classifier_sees_what_it_mentions(models):
    images = models.clip.encode_image(pictures())
    captions = [SeenCaption(f"caption {row}", seen=row / 10) for row in range(8)]
    plain = fits(models.clip, [each.text for each in captions], images, USUAL)
    rule = UnsureRule(0.0, USUAL, "", seen_weight=2.0)
    found = sureness(captions, images, models.clip, rule)
    assert found == pytest.approx(plain + 2 * np.arange(8) / 10, abs=1e-5)
    below = float(np.median(found))
    judged = with_doubts(captions, images, models.clip, replace(rule, below=below))
    assert [UNSURE in each.flags for each in judged] == (found < below).tolist()
    assert (found < below).tolist() != (plain < below).tolist()
    assert {type(each) for each in judged} == {Caption}  # a record keeps nothing of it
    write(models, {**rule_of(models, 0.25), "seen_weight": 2.0})
    assert read_unsure_rule(models.profile.captioner, models.profile.clip).seen_weight == 2.0


def test_only_captions_below_the_threshold_are_flagged(models):
    texts = [f"caption {row}" for row in range(8)]
    images = models.clip.encode_image(pictures())
    found = fits(models.clip, texts, images, USUAL)
    below = float(np.sort(found)[3])
    captions = [Caption(text, ("retried",), 0.5) for text in texts]
    judged = with_doubts(captions, images, models.clip, UnsureRule(below, USUAL, ""))
    for caption, before, fit in zip(judged, captions, found, strict=True):
        flags = ("retried", UNSURE) if fit < below else ("retried",)
        assert caption == replace(before, flags=flags)
    assert sum(UNSURE in caption.flags for caption in judged) == 3


def test_a_rule_is_read_from_beside_the_captioner(models):
    captioner, clip = models.profile.captioner, models.profile.clip
    assert read_unsure_rule(captioner, clip) is None
    write(models, None)
    assert read_unsure_rule(captioner, clip) is None
    write(models, rule_of(models, 0.25))
    assert read_unsure_rule(captioner, clip) == UnsureRule(0.25, USUAL, revision_of(clip))


def test_a_rule_for_another_clip_model_is_not_used(models):
    write(models, {**rule_of(models, 0.25), "clip_revision": "another"})
    assert read_unsure_rule(models.profile.captioner, models.profile.clip) is None


@pytest.mark.parametrize("rule", [{}, [], {"below": "low", "usual": [], "clip_revision": ""}])
def test_a_rule_that_cannot_be_read(models, rule):
    write(models, rule)
    with pytest.raises(ModelError, match="twolens.json of captioner has no rule"):
        read_unsure_rule(models.profile.captioner, models.profile.clip)


def test_describing_flags_what_the_captioner_wrote_and_not_what_was_given(models):
    """The planted captioner says what the planted CLIP sees: every fit is as good as can be."""
    describer = Describer(models.captioner, models.sentence, models.clip)
    images = pictures()
    assert not any(said[0].flags for said in describer.describe(images).captions)
    write(models, rule_of(models, 3.0))
    described = describer.describe(images)
    assert all(said[0].flags == (UNSURE,) for said in described.captions)
    given = [Caption("something else") for _ in images]
    assert not any(said[0].flags for said in describer.describe(images, given).captions)
    write(models, rule_of(models, -3.0))
    assert not any(said[0].flags for said in describer.describe(images).captions)


def test_a_rule_that_was_chosen_anew_counts_at_once(models):
    captioner, clip = models.profile.captioner, models.profile.clip
    write(models, rule_of(models, below=0.25))
    assert read_unsure_rule(captioner, clip).below == 0.25
    write(models, rule_of(models, below=0.5))
    assert read_unsure_rule(captioner, clip).below == 0.5


def test_a_clip_model_that_was_let_go_leaves_memory(models):
    images = models.clip.encode_image(pictures()[:1])

    class Passing:
        encode_text = staticmethod(models.clip.encode_text)

    clip = Passing()
    fits(clip, ["caption 1"], images, USUAL)
    gone = weakref.ref(clip)
    del clip
    assert gone() is None
