"""The tabs of the page, one file each."""

__all__ = ["about", "compare", "duel", "evaluation", "lens", "break_a_lens", "map", "map_routes"]
