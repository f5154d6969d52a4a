"""A folded panel that writes filters into the query; the query itself is where they are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.search.query_language.filters import (
    SHAPES,
    Filter,
    allowed_rows,
    licences,
    sides,
    sure_captions,
)
from core.search.query_language.parse import ParsedQuery
from core.ui.galleries.shelf import ShelvedGallery
from core.ui.parts.markup import escape

_MEGAPIXELS = ("0.25", "0.5", "1", "2", "4", "8", "12", "24")
_MOST_LICENCES = 20
_LABELS = {
    "licence": "Licence",
    "shape": "Shape",
    "megapixels": "Size",
    "sure": "Sureness",
    "caption": "Caption says",
}


@dataclass(frozen=True, slots=True)
class _Choices:
    """What may be chosen of a gallery: for each filter its values and what they are called."""

    values: dict[str, tuple[tuple[str, str], ...]]


def filter_panel(entry: ShelvedGallery, query: ParsedQuery) -> str:
    """Return the panel over a query's answer; its fields are those that tell pictures apart."""
    choices = entry.gallery.column("filter choices", lambda: _choices(entry))
    chosen: dict[str, Filter] = {}
    for each in query.filters:
        if not each.negated:
            chosen.setdefault(each.key, each)
    fields = [_select(key, options, chosen.get(key)) for key, options in choices.values.items()]
    words = escape(chosen["caption"].value) if "caption" in chosen else ""
    return (
        f'<details class="tl-filters"><summary>Filters</summary><form class="tl-filter-form" '
        f'data-base="{escape(query.without(*chosen.values()))}">{"".join(fields)}'
        f'<label><span>{_LABELS["caption"]}</span><input type="text" name="caption" '
        f'value="{words}" maxlength="80" placeholder="a word" autocomplete="off"></label>'
        '<button type="submit" class="tl-chip">Apply</button></form></details>'
    )


def _select(key: str, options: tuple[tuple[str, str], ...], chosen: Filter | None) -> str:
    value = chosen.value if chosen else ""
    listed = [*options]
    if value and value not in dict(options):
        listed.append((value, value))  # typed by hand
    items = "".join(
        f'<option value="{escape(each)}"{" selected" if each == value else ""}>{escape(name)}'
        "</option>"
        for each, name in (("", "any"), *listed)
    )
    return (
        f'<label><span>{_LABELS[key]}</span><select name="{key}" autocomplete="off">{items}'
        "</select></label>"
    )


def _choices(entry: ShelvedGallery) -> _Choices:
    gallery = entry.gallery

    def some(key: str, value: str) -> bool:
        met = allowed_rows(gallery, [Filter(key, value)])
        return met is not None and bool(met.any()) and not bool(met.all())

    found: dict[str, tuple[tuple[str, str], ...]] = {}
    names, of_rows = licences(gallery)
    if len(names) > 1:
        order = np.argsort(-np.bincount(of_rows), kind="stable")[:_MOST_LICENCES]
        common = [names[at] for at in order.tolist()]
        found["licence"] = tuple((name or "none", name or "none given") for name in common)
    shapes = tuple((shape, shape) for shape in SHAPES if some("shape", shape))
    if shapes:
        found["shape"] = shapes
    pixels = sides(gallery).prod(axis=1)
    least, most = (int(pixels.min()), int(pixels.max())) if len(pixels) else (0, 0)
    between = [size for size in _MEGAPIXELS if least < float(size) * 1e6 <= most]
    sizes = tuple((size, f"{size} MP or more") for size in between)
    if sizes:
        found["megapixels"] = sizes
    sure = sure_captions(gallery)
    if sure.any() and not sure.all():
        found["sure"] = (("yes", "sure ones only"), ("no", "unsure ones only"))
    return _Choices(found)
