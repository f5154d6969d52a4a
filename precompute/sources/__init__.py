"""Where pictures come from: folders, datasets, presets."""
