"""Numbers fitted to a checkpoint: the rerank probe, thresholds of unsure captions and matches."""

__all__ = [
    "contrastive",
    "match_command",
    "rerank_command",
    "subtraction_command",
    "threshold",
    "threshold_command",
]
