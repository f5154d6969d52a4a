"""Publishing models, galleries and the app to the Hugging Face Hub."""

__all__ = ["command", "demo_command"]
