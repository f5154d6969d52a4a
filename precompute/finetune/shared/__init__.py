"""What every training needs: data, features, checkpoints, measures."""

__all__ = ["features", "loop", "recipes"]
