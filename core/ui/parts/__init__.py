"""What several tabs share: cards, markup, states, the search box, the galleries served."""

__all__ = [
    "cards",
    "charts",
    "events",
    "markup",
    "paging",
    "picture_query",
    "query_chips",
    "search_box",
    "share",
    "shelf",
    "similar",
    "states",
    "sureness",
    "thumbnails",
    "word_row",
]
