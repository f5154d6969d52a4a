"""Fine-tuning an open_clip model."""
