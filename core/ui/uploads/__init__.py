"""The tab of visitors' own photos, its routes and endpoints."""

__all__ = ["desk", "endpoints", "inbox", "routes", "tab"]
