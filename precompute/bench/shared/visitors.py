"""Visitors of a running app on loopback: those who search, and those who upload."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from precompute.bench.shared.running_app import REQUEST_LIMIT_S, AppError

if TYPE_CHECKING:
    import httpx

RUN_LIMIT_S = 600.0
"""Longest that one upload may take before its visitor gives up."""

_FILES_A_REQUEST = 20
_LENSES = ("captions", "clip")
_ASKED = 5
_TOLERANCE = 1e-4
# A text embedded in a batch differs from the same text embedded alone by about 1e-6.

Ranking = list[tuple[str, float]]
"""Image ids with their scores, best first."""


@dataclass
class Searches:
    """What one visitor's searches came to.

    Attributes:
        took_ms: Milliseconds of each request that was answered.
        failed: Sentences of those that were not.
        wrong: Queries whose answer was not the expected one.
    """

    took_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def search_until(
    address: str,
    queries: Sequence[str],
    expected: Mapping[str, Mapping[str, Ranking]],
    pause_s: float,
    stop: threading.Event,
) -> Searches:
    """Ask ``/compare`` again and again, each time something new, until told to stop.

    Args:
        address: Of the app.
        queries: Asked in order; there are no more requests than these.
        expected: For each query and lens, the right ranking, deeper than is asked for.
        pause_s: Seconds between an answer and the next question.
        stop: Ends it.
    """
    import httpx

    done = Searches()
    with httpx.Client(timeout=REQUEST_LIMIT_S) as http:
        for query in queries:
            if stop.wait(pause_s):
                break
            body = {"data": [query, _ASKED, ""]}
            started = time.perf_counter()
            try:
                reply = http.post(f"{address}/gradio_api/run/compare", json=body)
                reply.raise_for_status()
                answer = reply.json()["data"][0]
            except (httpx.HTTPError, ValueError, KeyError) as error:
                done.failed.append(f"{query}: {error}")
                continue
            done.took_ms.append((time.perf_counter() - started) * 1000)
            if not all(_is_right(answer[lens], expected[query][lens]) for lens in _LENSES):
                done.wrong.append(query)
    return done


def _is_right(hits: Sequence[Mapping[str, Any]], expected: Ranking) -> bool:
    """Tell whether hits are the first of a ranking; pictures of equal score may change places."""
    scores = dict(expected)
    return len(hits) == min(_ASKED, len(expected)) and all(
        abs(scores.get(hit["id"], 2.0) - score) < _TOLERANCE
        for hit, (_, score) in zip(hits, expected, strict=False)
    )


@dataclass
class Described:
    """What one visitor's upload came to.

    Attributes:
        pictures: How many can be searched.
        sent_s: Seconds to send the files.
        waited_s: Seconds from the press of the button to the first report of the run.
        took_s: Seconds of the run itself.
        places: Places in the queue that the visitor was told, 1 is the next.
        own_found: Whether a search for its first caption found a picture of this upload alone.
    """

    pictures: int = 0
    sent_s: float = 0.0
    waited_s: float = 0.0
    took_s: float = 0.0
    places: list[int] = field(default_factory=list)
    own_found: bool = False


class UploadVisitor:
    """One tab of the page that sends photos and has them described.

    Args:
        address: Of the app.
    """

    def __init__(self, address: str) -> None:
        """Open a session; nothing is sent yet."""
        import httpx

        self._address = address
        self._tab = uuid.uuid4().hex
        self._http: httpx.Client = httpx.Client(timeout=RUN_LIMIT_S)

    def close(self) -> None:
        """Have everything forgotten and leave."""
        self._run("upload_forget")
        self._http.close()

    def send(self, photos: Mapping[str, bytes]) -> float:
        """Send photos and return the seconds that took.

        Raises:
            AppError: One of them was not taken.
        """
        started = time.perf_counter()
        names = list(photos)
        for start in range(0, len(names), _FILES_A_REQUEST):
            chunk = names[start : start + _FILES_A_REQUEST]
            parts = [("files", (name, photos[name])) for name in chunk]
            reply = self._http.post(f"{self._address}/gradio_api/upload", files=parts)
            reply.raise_for_status()
            sent = [
                {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
                for path, name in zip(reply.json(), chunk, strict=True)
            ]
            facts = self._run("upload_add", sent)
            if facts["notices"]:
                raise AppError(f"A photo was not taken: {facts['notices'][0]}.")
        return time.perf_counter() - started

    def describe(self) -> Described:
        """Press the button, wait for a turn and then for the end of the run.

        Raises:
            AppError: The run failed.
        """
        done = Described()
        pressed = time.perf_counter()
        body = {"data": [], "fn_index": self._event(), "session_hash": self._tab}
        self._http.post(f"{self._address}/gradio_api/queue/join", json=body).raise_for_status()
        stream = f"{self._address}/gradio_api/queue/data?session_hash={self._tab}"
        began = pressed
        with self._http.stream("GET", stream) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                kind = message.get("msg")
                if kind == "estimation":
                    done.places.append(message["rank"] + 1)
                elif kind == "process_starts":
                    began = time.perf_counter()
                elif kind == "process_completed":
                    if not message["success"]:
                        raise AppError(f"An upload failed: {message['output']}.")
                    break
        done.waited_s = began - pressed
        done.took_s = time.perf_counter() - began
        return self._checked(done)

    def _checked(self, done: Described) -> Described:
        pictures = self._run("upload_stop")["pictures"]
        done.pictures = len(pictures)
        if pictures:
            ours = {picture["id"] for picture in pictures}
            found = self._run("upload_compare", pictures[0]["caption"] or "a photo", 5)
            hits = [hit["id"] for lens in _LENSES for hit in found[lens]]
            done.own_found = bool(hits) and set(hits) <= ours
        return done

    def _run(self, endpoint: str, *values: object) -> Any:  # noqa: ANN401 - JSON
        body = {"data": values, "session_hash": self._tab}
        reply = self._http.post(f"{self._address}/gradio_api/run/{endpoint}", json=body)
        if reply.status_code != 200:
            raise AppError(f"/{endpoint} answered {reply.status_code}: {reply.text[:200]}")
        return reply.json()["data"][0]

    def _event(self) -> int:
        config = self._http.get(f"{self._address}/config").json()
        return next(
            event["id"]
            for event in config["dependencies"]
            if event["api_name"] == "upload_describe"
        )
