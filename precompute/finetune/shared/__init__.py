"""What every training needs: data, features, checkpoints, measures."""
