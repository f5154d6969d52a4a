"""Hubs are the pictures that many texts are near to; which they are, a model's own bank tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.errors import ModelError
from core.models.clip import hubs
from core.models.clip.hubs import correction, hubness, text_bank
from core.models.locate import revision_of
from core.models.profiles import PROFILES
from core.records import Fusion
from tests.core.planted import profile, unit_rows


def test_hubness_is_the_mean_cosine_to_the_ten_nearest_texts(monkeypatch):
    images, bank = unit_rows(9, 6, 1), unit_rows(40, 6, 2)
    expected = [np.sort(bank @ image)[-10:].mean() for image in images]
    assert hubness(images, bank) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(hubs, "BLOCK", 4)
    assert hubness(images, bank) == pytest.approx(expected, abs=1e-6)
    few = [(bank[:3] @ image).mean() for image in images]
    assert hubness(images, bank[:3]) == pytest.approx(few, abs=1e-6)


def test_a_bank_belongs_to_the_model_that_embedded_it(tmp_path, monkeypatch):
    models = profile(tmp_path / "models")
    bank, images = unit_rows(20, 6, 2), unit_rows(3, 6, 1)
    path = tmp_path / "hubs.safetensors"
    save_file({revision_of(models.clip): bank.astype(np.float16)}, path)
    monkeypatch.setattr(hubs, "BANK_FILE", path)
    assert correction(images, models.clip) == pytest.approx(0.5 * hubness(images, bank), abs=1e-3)
    assert text_bank(models.sentence) is None
    assert correction(images, models.sentence).tolist() == [0.0] * 3
    served = replace(models, fusion=Fusion("corrected", 0.15))
    assert served.served_fusion == served.fusion
    (tmp_path / "models" / "clip" / "model.safetensors").write_bytes(b"trained again")
    revision_of.cache_clear()
    assert served.served_fusion == Fusion("zscore", 0.15)


def test_a_damaged_bank_is_named(tmp_path, monkeypatch):
    (tmp_path / "hubs.safetensors").write_bytes(b"8 bytes, and no more")
    monkeypatch.setattr(hubs, "BANK_FILE", tmp_path / "hubs.safetensors")
    with pytest.raises(ModelError, match="hubs.safetensors holds no embeddings"):
        text_bank(PROFILES["mini"].clip)


def test_the_shipped_clip_model_has_a_bank_and_the_small_profile_uses_it():
    bank = text_bank(PROFILES["mini"].clip)
    assert bank is not None and bank.shape == (2000, 512) and bank.dtype == np.float32
    assert np.linalg.norm(bank, axis=1) == pytest.approx(np.ones(2000), abs=2e-3)
    assert len(np.unique(bank, axis=0)) > 1900
    assert PROFILES["mini"].served_fusion == Fusion("corrected", 0.1)
