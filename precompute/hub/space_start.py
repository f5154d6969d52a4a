"""Waiting for a published Space: its build, its health, and its answer to a query."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from core.errors import HubError
from precompute.hub.upload import reaching_the_hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

QUERY = "a person outdoors"
_LOG_LINES = 25
_MOST_LOG_LINES = 20_000
_POLL_S = 2.0
_UNDER_WAY = ("BUILDING", "RUNNING_BUILDING", "APP_STARTING", "RUNNING_APP_STARTING")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a Space answered.

    Attributes:
        address: Where it is.
        captions: File name of the caption lens's first picture.
        clip: Of the CLIP lens's.
        query_ms: Milliseconds of the query, through the network.
    """

    address: str
    captions: str
    clip: str
    query_ms: float


def wait_for(name: str, commit: str, timeout_s: float, say: Callable[[str], None]) -> Answer:
    """Follow a Space until it answers a query.

    Args:
        name: ``OWNER/NAME``.
        commit: What it shall run.
        timeout_s: Longest wait for the build, and again for the first answer.
        say: Is told each stage, and the last lines of the log where one fails.

    Raises:
        HubError: It does not build, does not start or does not answer.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with reaching_the_hub(name):
        stage = _last_stage(hub, name, commit, timeout_s, say)
        if stage != "RUNNING":
            build = stage == "BUILD_ERROR"
            lines = list(islice(hub.fetch_space_logs(name, build=build), _MOST_LOG_LINES))
            for line in lines[-_LOG_LINES:]:
                say(line.rstrip())
            raise HubError(
                f"The Space {name} is in the stage {stage}; the last lines of its "
                f"{'build' if build else 'run'} log are above, the rest is at "
                f"{hub.endpoint}/spaces/{name}?logs={'build' if build else 'container'}."
            )
        found = hub.space_info(name)
    address = str(found.host or "").rstrip("/")
    if not address:
        raise HubError(f"The Space {name} runs, and the Hub does not say where.")
    headers = _sign_in() if found.private else {}
    _wait_until_healthy(address, headers, timeout_s, say)
    return _ask(address, headers)


def _last_stage(
    hub: HfApi, name: str, commit: str, timeout_s: float, say: Callable[[str], None]
) -> str:
    said, deadline = "", time.monotonic() + timeout_s
    while True:
        runtime = hub.get_space_runtime(name)
        stage = str(runtime.stage)
        current = runtime.raw.get("sha") in (None, commit)
        if stage != said:
            say(f"{name}: {stage}")
            said = stage
        if stage not in _UNDER_WAY and (current or stage != "RUNNING"):
            return stage
        if time.monotonic() > deadline:
            raise HubError(f"The Space {name} is still {stage} after {timeout_s:.0f} s.")
        time.sleep(_POLL_S)


def _wait_until_healthy(
    address: str, headers: dict[str, str], timeout_s: float, say: Callable[[str], None]
) -> None:
    from huggingface_hub import errors, get_session

    said, deadline = "", time.monotonic() + timeout_s
    while True:
        try:
            answer = get_session().get(f"{address}/health", headers=headers, timeout=30)
            if answer.status_code in (200, 404):
                return
            reason = "; ".join(_reasons(answer)) or f"status {answer.status_code}"
        except (OSError, errors.HTTPError) as error:
            reason = " ".join(str(error).split())[:150] or type(error).__name__
        if reason != said:
            say(f"{address}/health: {reason}")
            said = reason
        if time.monotonic() > deadline:
            raise HubError(f"{address} is not ready after {timeout_s:.0f} s: {reason}.")
        time.sleep(_POLL_S)


def _reasons(answer: Any) -> list[str]:  # noqa: ANN401 - of the client's HTTP library
    try:
        return [str(reason) for reason in answer.json().get("reasons", [])]
    except (ValueError, AttributeError):
        return []


def _sign_in() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask(address: str, headers: dict[str, str]) -> Answer:
    from gradio_client import Client

    try:
        client = Client(address, headers=headers, verbose=False, analytics_enabled=False)
        started = time.perf_counter()
        found = client.predict(QUERY, 1, api_name="/compare")
        query_ms = (time.perf_counter() - started) * 1000
        first = [found[lens][0]["file_name"] for lens in ("captions", "clip")]
    except Exception as error:  # whatever a client of this library meets, the Space did not answer
        raise HubError(
            f"{address} runs and does not answer the query {QUERY!r} "
            f"({' '.join(str(error).split())[:200] or type(error).__name__})."
        ) from error
    return Answer(address, first[0], first[1], query_ms)
