"""What several tabs share: cards, markup, states, the search box, the galleries served."""

__all__ = ["events", "markup", "query", "results", "share", "thumbnails"]
