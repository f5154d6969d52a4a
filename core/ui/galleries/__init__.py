"""The galleries that can be chosen: where they are, the list in the page, pictures for it."""

__all__ = ["chooser", "listed", "locations", "shelf"]
