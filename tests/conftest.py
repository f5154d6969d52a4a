"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core; before anything imports torch
    for _library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

_LONGEST = {
    *("test_app", "test_default_gallery", "test_space", "test_tuning", "test_contrastive"),
    *("test_executors", "test_sample_captions", "test_command_line", "test_model"),
    *("test_pretraining", "test_system_errors"),
}
"""Files that begin first, so that no worker is left with one of them when the other is done."""

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photos with captions that lies beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data, the photos with captions, is not beside this checkout")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in _LONGEST)
