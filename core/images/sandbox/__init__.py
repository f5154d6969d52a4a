"""Processes with limits of time and memory, the only ones in which a decoder meets a file."""

__all__ = ["decoder_pool"]
