"""What an operator needs: health, logs, metrics, limits a visitor, and link previews."""

__all__ = [
    "front_door",
    "health",
    "link_preview",
    "prometheus",
    "preview_picture",
    "route_names",
    "visitors",
]
