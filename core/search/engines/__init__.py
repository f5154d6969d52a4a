"""Approximate FAISS indexes, their files and training; Milvus; what is asked of any index."""

__all__ = ["approximate", "entry", "files", "milvus", "protocol", "training", "writing"]
