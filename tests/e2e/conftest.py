from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ui.parts.shelf import Shelf
from tests.planted_app import planted_shelf, serving

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return planted_shelf(tmp_path_factory.mktemp("served"), [("planted", 12), ("three", 3)])


@pytest.fixture(scope="session")
def address(shelf: Shelf) -> Iterator[str]:
    """Where the app answers over the planted galleries."""
    with serving(shelf) as url:
        yield url


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
