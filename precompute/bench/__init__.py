"""Speed and memory of the running product."""

__all__ = ["command"]
