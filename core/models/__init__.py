"""What a model is, where it lies, and the models of a profile, each loaded once when needed."""

__all__ = [
    "captioner",
    "choose",
    "clip",
    "devices",
    "eight_bit",
    "locate",
    "match_threshold",
    "matcher",
    "profiles",
    "sentence",
    "spec",
    "tensors",
    "text_reader",
]
