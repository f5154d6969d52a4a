"""What finds candidates in an index that is not flat: FAISS's kinds, their files and training."""

__all__ = ["approximate", "entry", "files", "training"]
