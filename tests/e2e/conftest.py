from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from core.ui.galleries.shelf import Shelf
from tests.e2e import raw_requests
from tests.e2e.visiting import DESKTOP, Visit
from tests.planted_app import launched, planted_shelf, serving
from tests.tiny_uploads import colour_uploads

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("served")
    return planted_shelf(folder, [("planted", 12), ("three", 3)], absent=["gone"])


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


@pytest.fixture(scope="session")
def idle_contexts() -> dict[str, list[BrowserContext]]:
    """Contexts that no test uses, by their options: all that is left in them is the HTTP cache."""
    return {}


@pytest.fixture
def new_page(chromium: Browser, idle_contexts) -> Iterator[Callable[..., Page]]:
    """Opens pages, each as a visitor of its own; gradio's scripts come from the cache."""
    used = []

    def open_page(**options: object) -> Page:
        idle = idle_contexts.setdefault(repr(sorted(options.items())), [])
        context = idle.pop() if idle else chromium.new_context(**options)
        used.append((context, idle))
        return context.new_page()

    yield open_page
    for context, idle in used:
        for page in context.pages:
            page.close()
        context.clear_permissions()
        context.set_storage_state({"cookies": [], "origins": []})
        idle.append(context)


@pytest.fixture
def visit(new_page, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A page of its own over the planted galleries, on which nothing may go wrong."""
    page = new_page(**{"viewport": DESKTOP, **getattr(request, "param", {})})
    page.set_default_timeout(15_000)
    visit = Visit(page, address)
    yield visit
    page.close()
    assert visit.problems == []
    assert visit.elsewhere == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The app with small limits: its address, page and uploads."""
    folder = tmp_path_factory.mktemp("guarded")
    uploads = colour_uploads(
        folder,
        max_upload_bytes=raw_requests.UPLOAD_BYTES,
        max_image_bytes=raw_requests.UPLOAD_BYTES,
        max_connections=raw_requests.CONNECTIONS,
        request_timeout_s=raw_requests.SECONDS,
    )
    with launched(planted_shelf(folder), uploads) as page:
        address = page.local_url.rstrip("/")
        yield SimpleNamespace(address=address, page=page, uploads=uploads, inbox=uploads.inbox)


@pytest.fixture
def quiet(capfd, caplog) -> Iterator[None]:
    """Nothing that anybody sends leaves a traceback in the log."""
    yield
    written = capfd.readouterr()
    assert "Traceback" not in written.err + written.out + caplog.text
