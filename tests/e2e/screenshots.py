"""Takes the README's pictures of a running app.

Run as ``python -m tests.e2e.screenshots http://127.0.0.1:7860 "a query"``.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.conftest import CHROMIUM
from tests.e2e.visiting import DESKTOP, PHONE, Visit

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
QUALITY = 80


def main(address: str, query: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = answered(browser, address, query, viewport=DESKTOP, color_scheme=scheme)
            keep(page, f"compare-{scheme}", full_page=True)
            page = answered(
                browser,
                address,
                query,
                viewport=PHONE,
                color_scheme=scheme,
                has_touch=True,
                device_scale_factor=2,
            )
            keep(page, f"phone-{scheme}")
        page.locator(".tl-lens.clip .tl-card:visible").first.tap()
        page.get_by_text("Why this picture?").tap()
        expect(page.locator(".tl-why-map")).to_be_visible(timeout=60_000)
        page.locator(".tl-why").evaluate("e => e.scrollIntoView()")
        keep(page, "phone-why")
        browser.close()


def answered(browser: Browser, address: str, query: str, **options: object) -> Page:
    """Return a page that has answered a query, all of its pictures there."""
    page = browser.new_page(**options)
    visit = Visit(page, address)
    visit.search(query)
    expect(page.locator(f'.tl-stage[data-asked="{query}"]:visible')).to_be_visible(timeout=60_000)
    expect(visit.cards(".tl-lens.clip")).to_have_count(5)
    page.evaluate("document.activeElement.blur()")
    return page


def keep(page: Page, name: str, *, full_page: bool = False) -> None:
    page.wait_for_function(
        "[...document.querySelectorAll('.tl-card img')]"
        ".every(image => !image.checkVisibility() || image.loading === 'lazy' || image.complete)"
    )
    page.screenshot(full_page=full_page)  # lazy pictures begin to load
    page.wait_for_timeout(1500)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=full_page)))
    shot.convert("RGB").save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)
    print(name, shot.size)  # noqa: T201 - for whoever runs it


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "something that flies")
