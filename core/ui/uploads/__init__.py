"""The tab of visitors' own photos, its routes and endpoints."""
