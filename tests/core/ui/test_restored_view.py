from __future__ import annotations

from dataclasses import replace

from core.ui.parts.share import View
from core.ui.restored_view import index_settings
from core.ui.tabs.lens import IndexOffer


def test_the_index_of_an_address_is_restored_where_the_gallery_has_it():
    view = View("clip", "a dog", "planted", "5", "ivf", "3")
    offer = IndexOffer(("flat", "ivf"), 20, 2)
    assert index_settings(view, offer) == ("ivf", 3)
    assert index_settings(replace(view, index="hnsw", nprobe="lots"), offer) == ("flat", 2)
