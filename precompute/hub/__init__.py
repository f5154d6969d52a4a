"""Publishing to the Hugging Face Hub."""

__all__ = ["publish"]
