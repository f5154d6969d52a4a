"""Keeping captions that tell which pictures are hubs, and choosing how much that takes off."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.errors import SourceError
from core.models.clip import hubs
from core.models.locate import revision_of
from core.models.profiles import Models
from precompute.calibrate.hubs_command import choose, measure, spread_captions, table, write_bank
from tests.core.planted import PlantedEncoder, gallery_on_disk, profile, records, unit_rows


def test_captions_come_evenly_from_the_photos_one_of_each(tmp_path):
    path = tmp_path / "captions.jsonl"
    lines = [{"captions": [f"{row} one", f"{row} two"], "image": str(row)} for row in range(10)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert spread_captions(path, 4) == ["0 one", "3 two", "6 one", "9 two"]
    assert len(spread_captions(path, 1000)) == 10
    for text, trouble in (("no json", "not valid JSON"), ('{"image": "0"}', "no list of captions")):
        path.write_text(text)
        with pytest.raises(SourceError, match=trouble):
            spread_captions(path, 4)


def test_a_bank_is_written_beside_those_of_other_models(tmp_path, monkeypatch):
    models = Models(profile(tmp_path / "models"))
    path = tmp_path / "hubs.safetensors"
    save_file({"another": np.ones((2, 4), np.float16)}, path)
    for seed in (1, 2):
        bank = unit_rows(5, 6, seed).astype(np.float16)
        write_bank(path, models, bank)
    assert load_file(path).keys() == {"another", revision_of(models.profile.clip)}
    monkeypatch.setattr(hubs, "BANK_FILE", path)
    found = hubs.text_bank(models.profile.clip)
    assert found == pytest.approx(bank.astype(np.float32))


def test_the_least_that_is_as_good_as_the_best_is_chosen():
    about = np.repeat(np.arange(100), 5)
    inverse = np.full((4, 8, 500), 0.5)
    inverse[2:, 3:] += 0.1
    inverse[3, 7] += 0.0005  # this one is best
    inverse[2, 3] += np.repeat((-1.0) ** np.arange(100), 5) / 100  # and not by more than luck here
    assert choose(inverse, about) == (0.5, 0.15)
    assert table(inverse, about).endswith("the least: share 0.5, caption weight 0.15.")
    inverse[3, 7] += 0.01
    assert choose(inverse, about) == (0.75, 0.4)


def test_a_hub_costs_less_the_more_of_its_hubness_is_taken_off(tmp_path):
    """One picture lies where all queries do; what each query means, it has by itself."""
    models = profile(tmp_path / "models", 8, 16)
    common, own = unit_rows(1, 16, 3)[0], unit_rows(13, 16, 4)
    pictures = [0.5 * common + row for row in own[:12]] + [2 * common + 0.2 * own[12]]
    rows = np.stack([row / np.linalg.norm(row) for row in pictures]).astype(np.float32)
    said = [replace(each, references=(f"query {row}",)) for row, each in enumerate(records(13))]
    queries = [2 * common + row for row in own[:12]] + [common]
    texts = {f"query {row}": each / np.linalg.norm(each) for row, each in enumerate(queries)}
    bank = np.stack([0.8 * common + row for row in unit_rows(60, 16, 5)])
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    gallery_on_disk(tmp_path / "hubs", models, unit_rows(13, 8), rows, pictures=said)
    encoders = Models(
        models,
        sentence=PlantedEncoder(models.sentence, {t: unit_rows(1, 8)[0] for t in texts}),
        clip=PlantedEncoder(models.clip, {t: r.astype(np.float32) for t, r in texts.items()}),
    )
    found, about = measure([tmp_path / "hubs"], encoders, bank)
    assert found.shape == (4, 8, 13) and sorted(about.tolist()) == list(range(13))
    clip_alone = found[:, 0, :12].mean(axis=1)
    assert (np.diff(clip_alone) > 0).all()
