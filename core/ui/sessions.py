"""What gradio remembers of a tab: that it is there, and nothing that was typed.

Gradio keeps, for each of the last 10,000 tabs, a copy of every component with the last value sent
or shown, for links that restore a page. TwoLens has no such links, and its own desk knows which
upload is whose.
"""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gradio.state_holder import SessionState, StateHolder

if TYPE_CHECKING:
    import gradio as gr

MOST_SESSIONS = 2_000


class Sessions(StateHolder):
    """Gradio's sessions without copies of what its components hold.

    Args:
        page: Whose sessions they are; it must have been launched with
            ``state_session_capacity=MOST_SESSIONS``.
    """

    def __init__(self, page: gr.Blocks) -> None:
        """Start without any."""
        super().__init__()
        self.set_blocks(page)

    def __getitem__(self, session_id: str) -> SessionState:
        """Return a session, new if need be."""
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        self.update(session_id)
        self.time_last_used[session_id] = datetime.datetime.now()
        return self.session_data[session_id]


class _Session(SessionState):
    """The values of a tab's ``gr.State``, without those of its other components."""

    def __init__(self, page: gr.Blocks) -> None:
        # No blocks, no copies of their values; everything else comes from the default config.
        super().__init__(SimpleNamespace(default_config=page.default_config, blocks={}))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:  # noqa: ANN401 - whatever a State holds
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Keep no copy of a component."""

    def _update_value_in_config(self, key: int, value: Any) -> None:  # noqa: ANN401
        """Keep no copy of a value."""
