"""Captioners: InstructBLIP and BLIP, how they are loaded, asked, decoded and reranked."""
