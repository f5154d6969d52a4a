"""What pins a model: every file that is read of it, and no other."""

from __future__ import annotations

import pytest

from core.models.captioner.rerank import read_probe
from core.models.captioner.unsure import read_unsure_rule
from core.models.locate import revision_of
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec

READ = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "qformer_tokenizer/vocab.txt",
)
NOT_READ = (
    "metrics.json",
    "README.md",
    "report.md",
    "pytorch_model.bin",
    "checkpoint/training.safetensors",
    "features/views.json",
    "log/events.txt",
    "._config.json",
    ".cache/huggingface/x.json",
    "@eaDir/config.json",
)


@pytest.fixture
def folder(tmp_path):
    for name in (*READ, *NOT_READ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def revision(folder) -> str:
    revision_of.cache_clear()
    return revision_of(ModelSpec("model", f"path:{folder}", licence="MIT"))


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_read_is_pinned(folder, name):
    before = revision(folder)
    (folder / name).write_text("another content")
    changed = revision(folder)
    (folder / name).unlink()
    assert len({before, changed, revision(folder)}) == 3


@pytest.mark.parametrize("name", NOT_READ)
def test_a_file_that_is_not_read_changes_nothing(folder, name):
    before = revision(folder)
    (folder / name).write_text("another content")
    assert revision(folder) == before
    (folder / name).unlink()
    assert revision(folder) == before


def test_two_files_that_change_places_are_another_model(folder):
    before = revision(folder)
    first, second = folder / "vocab.txt", folder / "qformer_tokenizer" / "vocab.txt"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert revision(folder) != before


def test_what_is_kept_beside_the_shipped_captioner_is_for_the_models_beside_it():
    """Both name a revision, and are passed over without a word where it is another one."""
    revision_of.cache_clear()
    read_probe.cache_clear()
    mini = PROFILES["mini"]
    assert read_probe(mini.captioner, mini.sentence) is not None
    assert read_unsure_rule(mini.captioner, mini.clip) is not None
