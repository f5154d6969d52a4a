"""Captioners: InstructBLIP and BLIP, how they are loaded, asked, decoded and reranked."""

__all__ = [
    "lora",
    "blip",
    "caption_text",
    "decoding",
    "unsure",
    "instructblip",
    "loading",
    "naming",
    "rerank",
    "settings",
]
