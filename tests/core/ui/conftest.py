from __future__ import annotations

import pytest

from core.ui.galleries.shelf import Shelf
from tests.planted_app import planted_shelf


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return planted_shelf(tmp_path_factory.mktemp("shelf"), [("planted", 12), ("three", 3)])
