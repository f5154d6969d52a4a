"""Numbers fitted to a checkpoint: probe, thresholds of unsure captions and matches, namer."""

__all__ = [
    "probe",
    "match_command",
    "names",
    "rerank_command",
    "subtraction_command",
    "threshold_command",
]
