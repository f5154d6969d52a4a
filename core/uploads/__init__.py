"""Visitors' own photos: sessions, intake, limits, captioning and exports."""
