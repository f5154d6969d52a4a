"""A gallery on disk: its layout, manifest, records, embeddings and indexes; read and written."""

__all__ = [
    "caption_rows",
    "copies",
    "dataset",
    "figures",
    "folder",
    "hub_copy",
    "index_files",
    "layout",
    "manifest",
    "parts",
    "picture_set",
    "reader",
    "writer",
]
