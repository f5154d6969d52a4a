"""What a body that is no upload may hold: JSON that gradio can take, and no file of elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BY_NAME = "/gradio_api/call/v2/"
"""Calls below this address give their arguments by name, not as a list."""
_DEEPEST = 32
_SESSION_CHARS = 64
_LARGEST_NUMBER = 2**63
_UNREAD = 64


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        status: Of HTTP, 4xx or 503.
    """

    def __init__(self, status: int, sentence: str) -> None:
        """Keep the status; the sentence is what the caller is told."""
        self.status = status
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Function:
    """What the guard knows of a function behind the page.

    Attributes:
        name: Of the API.
        takes_files: Whether it does.
        counts: How many values it takes; None leaves that to gradio, which ignores what is too much
            and tells what is missing in its stream.
    """

    name: str | None
    takes_files: bool
    counts: range | None = None


def check_size(size: int, most: int) -> None:
    """Refuse a body of too many bytes.

    Raises:
        Refusal: It is larger than the limit.
    """
    if size > most:
        raise Refusal(413, f"The request is larger than the limit of {_in_words(most)}.")


def check_body(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return what a body says.

    Raises:
        Refusal: It is not JSON, holds what is no value here, or tells the server to fetch a file.
    """
    value = _read(body)
    _check_values(value)
    return value


def check_call(
    path: str,
    value: Any,  # noqa: ANN401 - any JSON
    functions: Mapping[int, Function],
    unread: Callable[[str], int],
) -> bool:
    """Return whether a call may name files.

    Args:
        path: Of the request; its last part may be the function's name.
        value: What the body says.
        functions: By the number that gradio gave them.
        unread: Number of calls of a session whose answers wait for it.

    Raises:
        Refusal: There is no such function, it is not called like this, or the session does not
            read its answers.
    """
    if not isinstance(value, dict):
        raise Refusal(400, "The body must be a JSON object.")
    function = _function(path, value, functions)
    if not path.startswith(BY_NAME) and not isinstance(value.get("data"), list):
        raise Refusal(400, "data must be the list of the function's arguments.")
    tab = value.get("session_hash")
    if tab is not None and (not isinstance(tab, str) or len(tab) > _SESSION_CHARS):
        raise Refusal(400, f"session_hash is a text of at most {_SESSION_CHARS} characters.")
    if tab and unread(tab) >= _UNREAD:
        raise Refusal(429, f"{_UNREAD} answers of this session wait to be read; please read them.")
    _check_count(function, value.get("data", ()), path)
    return function.takes_files


def _check_count(function: Function, values: Sequence[object], path: str) -> None:
    counts = function.counts
    if counts is None or path.startswith(BY_NAME) or len(values) in counts:
        return
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    raise Refusal(400, f"{function.name} takes {span} values; got {len(values)}.")


def _function(path: str, value: dict[str, Any], functions: Mapping[int, Function]) -> Function:
    number = value.get("fn_index")
    if number is not None and "/call/" not in path:
        if isinstance(number, int) and number in functions:
            return functions[number]
        raise Refusal(404, f"There is no function number {str(number)[:20]}.")
    if path.endswith("/queue/join"):
        raise Refusal(400, "fn_index, the number of the function, is missing.")
    name = path.rstrip("/").rpartition("/")[2]
    for function in functions.values():
        if function.name == name:
            return function
    raise Refusal(404, f"There is no function called {name[:40]!r}.")


def _read(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    def refuse(constant: str) -> None:
        raise Refusal(400, f"JSON has no number {constant}.")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise Refusal(400, "The JSON is nested too deep.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not JSON: {str(error)[:80]}.") from None


def _check_values(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Refuse what is nested too deep, numbers that are none, and files at another server."""
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > _DEEPEST:
                raise Refusal(400, f"The JSON is nested more than {_DEEPEST} deep.")
            if isinstance(value, dict):
                _check_file(value)
                value = value.values()
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, (int, float)) and not -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
            raise Refusal(400, "A number of the request is too large.")


def _check_file(value: dict[str, Any]) -> None:
    """Refuse a file that lies elsewhere: gradio would download it before any handler runs."""
    path, address = value.get("path"), value.get("url")
    if _is_elsewhere(path) or (not path and _is_elsewhere(address)):
        raise Refusal(400, "Files are not fetched from addresses; please send the file itself.")


def _is_elsewhere(path: object) -> bool:
    return isinstance(path, str) and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def _in_words(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size // 1024:,} KB"
