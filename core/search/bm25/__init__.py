"""Lenses of words, ranked by BM25: over all captions, and over the text in pictures."""

__all__ = ["picture_text", "word_index", "word_lens"]
