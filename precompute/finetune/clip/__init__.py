"""Fine-tuning an open_clip model."""

__all__ = ["command"]
