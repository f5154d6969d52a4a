"""Takes the README's pictures of a running app.

Run as ``python -m tests.e2e.screenshots http://127.0.0.1:7860 "a query"``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.e2e.conftest import CHROMIUM
from tests.e2e.visiting import Visit

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"


def main(address: str, query: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        visit = Visit(page, address)
        for tab, lens, name in (
            ("Compare", "clip", "compare"),
            ("Captions", "captions", "captions"),
        ):
            visit.open_tab(tab)
            visit.search(query)
            expect(visit.cards(f".tl-lens.{lens}")).to_have_count(5, timeout=60_000)
            page.wait_for_function(
                "[...document.querySelectorAll('.tl-card img')]"
                ".every(image => !image.checkVisibility() || image.complete)"
            )
            page.evaluate("document.activeElement.blur()")
            page.screenshot(path=FOLDER / f"{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "people riding horses on the beach")
