"""Captioners: InstructBLIP and BLIP, how they are loaded, asked, decoded and reranked."""

__all__ = [
    "adapters",
    "blip",
    "caption_text",
    "fit",
    "instructblip",
    "loading",
    "naming",
    "rerank",
    "settings",
]
