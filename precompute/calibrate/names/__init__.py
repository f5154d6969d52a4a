"""What a captioner's namer knows: the things that labelled photos show."""

__all__ = ["command"]
