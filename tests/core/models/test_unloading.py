"""Models that nobody uses give their memory back, and answer as before when they are used again."""

from __future__ import annotations

import numpy as np

from core.models.profiles import PROFILES, Models
from core.records import LENSES


def test_idle_models_are_unloaded_and_come_back_the_same():
    models = Models(PROFILES["mini"], device="cpu", query_cache_size=0)
    assert models.unload_idle(0) == []
    before = {lens: models.embed_query(lens, "a dog") for lens in LENSES}
    assert models.loaded() == {"captions": True, "clip": True}
    assert models.unload_idle(3600) == []
    names = [models.profile.sentence.name, models.profile.clip.name]
    assert models.unload_idle(0) == names
    assert models.loaded() == {"captions": False, "clip": False}
    for lens in LENSES:
        np.testing.assert_array_equal(models.embed_query(lens, "a dog"), before[lens])
