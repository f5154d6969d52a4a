"""What every measurement shares: figures, galleries and queries, the app and its visitors."""

__all__ = ["figures", "material", "multiplied", "running_app", "small_models", "visitors"]
