"""Measures in Chromium how long a page takes to show another gallery, from click to pictures.

Run as ``python -m tests.e2e.switching http://127.0.0.1:7860 "a query"`` over an app with two
galleries or more; each is chosen once before anything is measured.
"""

from __future__ import annotations

import sys
from statistics import median

from playwright.sync_api import expect, sync_playwright

from tests.e2e.conftest import CHROMIUM
from tests.e2e.visiting import DESKTOP, Visit

ROUNDS = 10

_SWITCH = """
place => new Promise((done) => {
  const started = performance.now();
  const shown = (event) => {
    if (!event.detail.matches('.tl-results') || event.detail.offsetParent === null) return;
    removeEventListener('twolens:shown', shown);
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
  };
  addEventListener('twolens:shown', shown);
  document.querySelectorAll('.tl-gallery-item')[place].click();
})
"""


def main(address: str, query: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        visit = Visit(browser.new_page(viewport=DESKTOP), address)
        visit.search(query)
        expect(visit.page.locator(f'.tl-stage:visible[data-asked="{query}"]')).to_be_attached()
        took = []
        for switch in range(2 + ROUNDS):
            visit.page.locator(".tl-gallery-now").click()
            took.append(visit.page.evaluate(_SWITCH, 1 - switch % 2))
            visit.page.wait_for_timeout(300)
        browser.close()
    warm = sorted(took[2:])
    sys.stdout.write(
        f"switch to another gallery: median {median(warm):.0f} ms, slowest {warm[-1]:.0f} ms of "
        f"{ROUNDS}; the first choice of it {took[0]:.0f} ms\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "people on the beach")
