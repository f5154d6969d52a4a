"""A gallery on disk: its layout, manifest, records, embeddings and indexes; read and written."""

__all__ = [
    "caption_rows",
    "copies",
    "folder",
    "hub_copy",
    "layout",
    "manifest",
    "metrics_charts",
    "metrics_file",
    "picture_set",
    "reader",
    "table",
    "writer",
]
