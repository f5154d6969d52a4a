"""Folders of photos: which files count, and the tables and side files that hold captions."""

__all__ = ["folder", "folder_kind", "metadata_tables", "system_files"]
