"""Recipes that made the shipped checkpoints in ``assets/``."""
