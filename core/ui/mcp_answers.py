"""What agents get over MCP: JSON, as text and as structured content, and plain descriptions.

Gradio's own server answers with Python's spelling of a dictionary, and joins the lines of a
docstring with commas.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import gradio as gr


def description_of(endpoint: Callable[..., Any]) -> str:
    """Return an endpoint's description for its users: what it does and what it returns.

    Args:
        endpoint: Has a Google docstring; its ``Args`` are described one by one elsewhere.
    """
    text = inspect.getdoc(endpoint) or ""
    does, *rest = re.split(r"\n\s*(?=Args:|Returns:|Raises:)", text)
    returned = next((part for part in rest if part.startswith("Returns:")), "")
    return " ".join(f"{does} {returned}".split())


def answer_agents_in_json(page: gr.Blocks) -> None:
    """Let the MCP server of a launched page, if it has one, answer in JSON."""
    served: Any = page.mcp_server_obj
    if served is None:
        return

    def as_json(data: Any, root_url: str) -> list[Any]:  # noqa: ANN401 - whatever a tool returned
        text = (json.dumps(value, ensure_ascii=False) for value in data)
        return [served.types.TextContent(type="text", text=each) for each in text]

    served.postprocess_output_data = as_json
    handlers = served.mcp_server.request_handlers
    call = handlers[served.types.CallToolRequest]

    async def structured(request: Any) -> Any:  # noqa: ANN401 - types of a package that may lack
        result = await call(request)
        answer = result.root
        if not answer.isError and len(answer.content) == 1:
            value = json.loads(answer.content[0].text)
            # The protocol wants an object; a list is one under a name.
            answer.structuredContent = value if isinstance(value, dict) else {"result": value}
        return result

    handlers[served.types.CallToolRequest] = structured
