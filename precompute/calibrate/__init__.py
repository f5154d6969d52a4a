"""Numbers fitted to a checkpoint: the rerank probe and the threshold of unsure captions."""

__all__ = ["contrastive", "match_command", "rerank_command", "threshold_command"]
