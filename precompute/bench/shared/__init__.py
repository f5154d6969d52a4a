"""What every measurement shares: figures, galleries and queries, the app and its visitors."""

__all__ = ["figures", "material", "running_app", "visitors"]
