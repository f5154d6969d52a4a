"""Where pictures come from: folders, datasets, presets."""

__all__ = ["benchmarks", "caption_columns", "open", "pairs", "presets", "system_files", "types"]
