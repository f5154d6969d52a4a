"""Fine-tuning an InstructBLIP captioner."""

__all__ = ["batches", "command", "job", "objective", "recipe", "start"]
