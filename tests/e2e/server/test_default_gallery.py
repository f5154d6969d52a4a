"""The gallery of a first start: built once while the page is served, and ended with the app."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
import psutil
import pytest
from gradio_client import Client

from core.config import get_settings
from core.gallery.figures.metrics_file import METRICS_FILE
from core.gallery.layout import MANIFEST_FILE
from core.models.profiles import PROFILES
from tests.e2e.running_app import need_mini, running_app

BUILD_LIMIT_S = 600

KINDS_OF_THREE = {
    "count": ("two_pictures", 2),
    "roles": ("two_texts", 1),
    "colour": ("two_texts", 1),
    "abstract": ("first_five", 1),
    "style": ("first_five", 3),
}
"""What is asked about a cheetah, a lion and a tower."""

T = TypeVar("T")


@pytest.fixture(autouse=True)
def needs_models() -> None:
    need_mini(PROFILES["mini"].captioner)


def test_the_default_gallery_is_built_once_while_the_page_is_served(tmp_path):
    few = {"TWOLENS_CACHE_DIR": str(tmp_path), "TWOLENS_SAMPLE_PHOTOS": "3"}
    with running_app(**few) as address:
        client = Client(address, verbose=False)
        (listed,) = _until(lambda: client.predict(api_name="/galleries"))
        assert (listed["name"], listed["images"]) == ("sample-photos", 3)
        (metrics,) = _until(lambda: list(tmp_path.glob(f"galleries/*/*/{METRICS_FILE}")))
    found = json.loads(metrics.read_text())
    assert found["queries"] == 15
    assert "TwoLens team wrote" in found["provenance"]["query_origin"]
    asked = {each["kind"]: (each["test"], each["queries"]) for each in found["kinds"]}
    assert asked == KINDS_OF_THREE
    assert all(0 <= n <= each["queries"] for each in found["kinds"] for n in each["right"].values())
    written = metrics.with_name(MANIFEST_FILE).stat().st_mtime_ns
    old = found | {"provenance": {**found["provenance"]}}
    del old["kinds"], old["provenance"]["written_sha256"]
    metrics.write_text(json.dumps(old))
    with running_app(**few) as address:  # one of before these queries were asked gets them
        assert len(Client(address, verbose=False).predict(api_name="/galleries")) == 1
        _until(lambda: json.loads(metrics.read_text()).get("kinds"))
    assert json.loads(metrics.read_text())["kinds"] == found["kinds"]
    measured = metrics.stat().st_mtime_ns
    with running_app(**few) as address:
        assert len(Client(address, verbose=False).predict(api_name="/galleries")) == 1
    assert metrics.stat().st_mtime_ns == measured
    assert metrics.with_name(MANIFEST_FILE).stat().st_mtime_ns == written
    assert get_settings().cache_dir != tmp_path


def test_the_app_ends_with_what_it_started_to_build_its_gallery(tmp_path):
    def builders() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if {"build", "precompute"} <= set(process.info["cmdline"] or ())
            and any(str(tmp_path) in word for word in process.info["cmdline"])
        ]

    with running_app(TWOLENS_CACHE_DIR=str(tmp_path), TWOLENS_SAMPLE_PHOTOS="2") as address:
        assert httpx.get(f"{address}/health").json()["status"] == "starting"
        _until(builders)
    assert builders() == []


def _until(look: Callable[[], list[T]]) -> list[T]:
    """Return what ``look`` returns once that is not empty."""
    deadline = time.monotonic() + BUILD_LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
    return found
