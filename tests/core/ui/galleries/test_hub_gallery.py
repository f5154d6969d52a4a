"""A gallery of the Hub that is not the first of an app: listed by its manifest, fetched later."""

from __future__ import annotations

import pytest

from core.errors import GalleryError
from core.models.profiles import Models
from core.ui.galleries.locations import HubPlace
from core.ui.galleries.shelf import Shelf
from tests.core import planted
from tests.hub_client import Client
from tests.local_hub import local_hub


def test_it_is_listed_before_it_is_fetched_and_served_when_the_hub_is_gone(tmp_path):
    models = planted.profile(tmp_path / "models")
    folders = [tmp_path / name for name in ("first", "birds")]
    for folder in folders:
        rows = planted.unit_rows(5, 8), planted.unit_rows(5, 6, 1)
        planted.gallery_on_disk(folder, models, *rows, folder.name)
    with local_hub() as hub, Client(hub, tmp_path / "home").reaching():
        client = Client(hub, tmp_path / "home")
        assert client.precompute("publish", "gallery", folders[1], "mine/of-birds").returncode == 0
        del hub.asked[:]
        places = [
            folders[0],
            HubPlace("hf:mine/of-birds", tmp_path / "cache", models),
            HubPlace("hf:mine/bees", tmp_path / "cache", models),
        ]
        shelf = Shelf.open(places, models, Models(models), max_query_chars=100)
        assert shelf.names == ["first", "birds", "bees"]
        assert shelf.find("birds").manifest.counts.images == 5
        assert not any("clip.npy" in path or ".arrow" in path for path in hub.asked)
        assert shelf.find("birds").cover() is None
        redrawn = []
        shelf.when_replaced = lambda: redrawn.append(1)
        shelf.fetch_others()
        assert redrawn == [1] and len(shelf.entries) == 1, "fetched, and not opened"
        assert shelf.find("birds").cover().startswith(b"RIFF")
        hub.is_down = True
        assert len(shelf.entry("birds").gallery) == 5
        with pytest.raises(GalleryError, match=r"^bees cannot be opened: There is no dataset"):
            shelf.entry("bees")
