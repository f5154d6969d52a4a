"""The page and the endpoints, one file a tab: only this and ``app.py`` import gradio."""

__all__ = ["galleries", "launch", "operation"]
