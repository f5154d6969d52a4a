"""Numbers fitted to a checkpoint: probe, thresholds of unsure captions and matches, namer."""

__all__ = [
    "composed",
    "hubs_command",
    "match_command",
    "names",
    "probe",
    "rerank_command",
    "threshold_command",
]
