"""A gallery on disk: its layout, manifest, records, embeddings and indexes; read and written."""

__all__ = [
    "caption_rows",
    "copies",
    "cover",
    "dataset",
    "folder",
    "hub_copy",
    "index_files",
    "layout",
    "manifest",
    "metrics_charts",
    "metrics_file",
    "parts",
    "picture_set",
    "reader",
    "writer",
]
