"""What single models cost: the image tower, the reader of text, the map of a picture's patches."""

__all__ = ["explanations", "image_tower", "read_text"]
