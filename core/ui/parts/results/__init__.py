"""What a search shows: cards, pages, states, and what is searched onward from them."""

__all__ = ["cards", "measured", "paging", "similar", "states", "sureness", "word_row"]
