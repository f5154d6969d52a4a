"""Visitors' own photos: sessions, intake, limits, captioning and exports."""

__all__ = [
    "captioner",
    "exports",
    "intake",
    "limits",
    "registry",
    "session",
    "snapshot",
    "zero_gpu",
]
