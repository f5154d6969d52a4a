"""What an operator needs: health, logs, metrics, limits a visitor, and what strangers are shown."""

__all__ = ["door", "health", "metrics", "preview_picture", "route_names", "strangers", "visitors"]
