"""One visit of the page in a browser, and what can be measured there."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, expect

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

SMALL_TARGETS = """
inside => [...document.querySelectorAll(
    inside + ':is(button, summary, a, [role=tab], .tl-query input)'
  )]
  .filter(e => e.offsetParent)
  .filter(e => e.closest('.tl-results, .tl-search, .tl-header, .tl-dialog, [role=tab]'))
  .map(e => [e.textContent || e.id, e.getBoundingClientRect()])
  .filter(([_, box]) => box.height < 43.5 || box.width < 43.5)
  .map(([name, box]) => `${name} ${box.width} x ${box.height}`)
"""

LOW_CONTRAST = """
inside => {
  const parts = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = (css) => {
    const [r, g, b] = parts(css).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const css = getComputedStyle(e).backgroundColor;
      if ((parts(css)[3] ?? 1) > 0.99) return css;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const root of document.querySelectorAll(inside))
    for (const e of root.querySelectorAll('*')) {
      const style = getComputedStyle(e);
      if (!e.offsetParent || style.visibility === 'hidden') continue;
      if (e.closest('footer, :disabled, .tl-sr, .sr-only, .tl-tip')) continue;
      if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
      const [a, b] = [light(style.color), light(ground(e))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) found.push(`${e.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
    }
  return found;
}
"""


class Visit:
    """A page that remembers what went wrong in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        host = urlsplit(address).netloc
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._console)
        page.on("request", lambda request: self._request(request.url, host))
        page.goto(address)
        expect(self.cards().first).to_be_visible(timeout=30_000)

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _request(self, url: str, host: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != host:
            self.elsewhere.append(url)

    def cards(self, inside: str = ""):
        return self.page.locator(f"{inside} .tl-card:visible")

    def search(self, words: str) -> None:
        box = self.page.locator(".tl-query input:visible")
        box.fill(words)
        box.press("Enter")

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def choose_gallery(self, name: str) -> None:
        self.page.locator(".tl-gallery-now").click()
        self.page.locator(".tl-gallery-item", has_text=name).click()

    def holding_first(self, words: str) -> list[Route]:
        """Hold back the first event with some words in it; it will be the one in the list."""
        held: list[Route] = []

        def pass_on(route: Route) -> None:
            if not held and words in (route.request.post_data or ""):
                held.append(route)
            else:
                route.continue_()

        self.page.route("**/run/predict*", pass_on)
        return held

    def let_go(self, held: list[Route]) -> None:
        """Let it reach the server, and wait for the answer."""
        with self.page.expect_response(lambda answer: answer.request == held[0].request):
            held[0].continue_()

    def overflow(self) -> int:
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def small_targets(self, inside: str = "") -> list[str]:
        """Our own buttons, links, folds, tabs and fields that are under 44 px high or wide."""
        return self.page.evaluate(SMALL_TARGETS, inside)

    def low_contrast(self, inside: str = "main") -> list[str]:
        """Texts of ours whose contrast with the nearest opaque ground is under 4.5 to 1."""
        return self.page.evaluate(LOW_CONTRAST, inside)
