"""Where pictures come from: folders, datasets, presets."""

__all__ = [
    "benchmarks",
    "caption_columns",
    "open",
    "pairs",
    "photo_folders",
    "presets",
    "stamps_command",
    "types",
]
