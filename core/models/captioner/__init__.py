"""Captioners: InstructBLIP and BLIP, how they are loaded, asked, decoded and reranked."""

__all__ = ["adapters", "blip", "fit", "instructblip", "loading", "rerank", "settings"]
