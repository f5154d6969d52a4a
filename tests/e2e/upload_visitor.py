"""A visitor of the upload endpoints over plain HTTP, who may also do what a browser would not."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import httpx


class Refused(Exception):
    """The endpoint answered with an error; the message is what the visitor is told."""


class Visitor:
    """One tab: its gradio session, and the requests it makes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.tab = uuid.uuid4().hex
        self.http = httpx.Client(timeout=60)

    def send(self, files: Mapping[str, bytes]) -> list[str]:
        """Upload files in one request, as a browser does; return the paths they are known by."""
        parts = [("files", (name, content)) for name, content in files.items()]
        answer = self.http.post(f"{self.address}/gradio_api/upload", files=parts)
        answer.raise_for_status()
        return answer.json()

    def add(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        return self.add_paths(self.send(files), list(files))

    def add_paths(self, paths: list[str], names: list[str]) -> dict[str, Any]:
        sent = [
            {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            for path, name in zip(paths, names, strict=True)
        ]
        return self.run("upload_add", sent)

    def run(self, endpoint: str, *values: Any) -> Any:
        body = {"data": values, "session_hash": self.tab}
        reply = self.http.post(f"{self.address}/gradio_api/run/{endpoint}", json=body)
        if reply.status_code != 200:
            raise Refused(reply.json().get("error"))
        return reply.json()["data"][0]

    def describe(self) -> dict[str, Any]:
        """Queue a run, follow it to its end, and return what there is then."""
        join = f"{self.address}/gradio_api/queue/join"
        body = {"data": [], "fn_index": self._number(), "session_hash": self.tab}
        self.http.post(join, json=body).raise_for_status()
        stream = f"{self.address}/gradio_api/queue/data?session_hash={self.tab}"
        with self.http.stream("GET", stream) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise Refused(message["output"].get("error"))
                    return self.run("upload_stop")
        raise AssertionError("the stream ended early")

    def _number(self) -> int:
        config = self.http.get(f"{self.address}/config").json()
        (number,) = [f["id"] for f in config["dependencies"] if f["api_name"] == "upload_describe"]
        return number
