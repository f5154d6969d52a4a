"""A small Hugging Face Hub on this machine, for the real client: the remote edge of ``publish``.

It speaks the part of the Hub's HTTP interface that ``huggingface_hub`` uses to make repositories of
models, datasets and Spaces, upload into them (git blobs, and LFS by the "basic" transfer; it has no
Xet storage), list them, download from them, and watch a Space start.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_of_a_test"
READER = "hf_that_may_only_read"
_LARGE = (".safetensors", ".parquet", ".arrow", ".npy", ".faiss")
_KINDS = ("datasets", "spaces")


@dataclass
class Repository:
    """Commits, oldest first; of a Space also what it runs on and how far it is."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    hardware: str = "cpu-basic"
    variables: dict[str, str] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: ["RUNNING"])
    logs: list[str] = field(default_factory=list)
    host: str | None = None

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        known = dict(self.commits)
        newest = self.commits[-1][0]
        commit = newest if revision == "main" else self.tags.get(revision, revision)
        return commit, known[commit]

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((name, files))
        return name


class LocalHub(ThreadingHTTPServer):
    """Repositories by name (``datasets/OWNER/NAME``, ``spaces/...``), large files by sha256.

    Attributes:
        damages_uploads: Whether what is uploaded is stored otherwise.
        puts_left: Large files that arrive before the connection breaks; None for all.
        when_asked: Called when a client has hashed its large files and asks where they go.
        when_put: Called when a large file arrives.
        when_committed: Called with a repository's key after a commit.
        is_down: Whether nothing is answered any more.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.damages_uploads = False
        self.puts_left: int | None = None
        self.when_asked: Callable[[], None] = lambda: None
        self.when_put: Callable[[], None] = lambda: None
        self.when_committed: Callable[[str], None] = lambda _: None
        self.is_down = False
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: object, token: str = TOKEN) -> dict[str, str]:
        """What makes a process take this for the Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": token,
        }


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    hub = LocalHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _described(name: str, content: bytes) -> dict:
    described = {"type": "file", "path": name, "size": len(content), "oid": _blob_id(content)}
    if name.endswith(_LARGE):
        oid = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return described


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _answer(self, status: int, content: object, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _has(self, *tokens: str) -> bool:
        return self.headers.get("Authorization") in [f"Bearer {token}" for token in tokens]

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _key_and_rest(self, path: str) -> tuple[str, list[str]]:
        """Split a path into a repository's key and what is asked of it."""
        parts = path.removeprefix("/api").strip("/").removeprefix("models/").split("/")
        length = 3 if parts[0] in _KINDS else 2
        return "/".join(parts[:length]), parts[length:]

    def _repository(self, key: str) -> Repository | None:
        found = self.server.repositories.get(key)
        if found is None or (found.private and not self._has(TOKEN, READER)):
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def _is_down(self) -> bool:
        if self.server.is_down:
            self.close_connection = True
            self.connection.close()
        return self.server.is_down

    def do_POST(self) -> None:
        if self._is_down():
            return
        path, body = self._path(), self._body()
        key, rest = self._key_and_rest(path)
        if path == "/api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif rest[:1] == ["paths-info"]:
            self._paths_info(key, rest[1], body)
        elif self._has(READER):
            self._answer(403, {"error": "Forbidden: this token may only read."})
        elif not self._has(TOKEN):
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        else:
            self._change(key, rest, body)

    def _change(self, key: str, rest: list[str], body: bytes) -> None:
        if rest[-1:] == ["batch"]:
            self._batch(json.loads(body))
        elif rest[:1] == ["preupload"]:
            self._preupload(key, json.loads(body)["files"])
        elif rest == ["variables"]:
            asked = json.loads(body)
            self.server.repositories[key].variables[asked["key"]] = asked["value"]
            self._variables(key)
        elif rest == ["hardware"]:
            self.server.repositories[key].hardware = json.loads(body)["flavor"]
            self._runtime(key)
        elif rest[:1] == ["commit"]:
            self._commit(key, [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"No such route: {rest}"})

    def _preupload(self, key: str, asked: list[dict]) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                **self._known(key, one["path"]),
            }
            for one in asked
        ]
        self._answer(200, {"files": files})

    def _known(self, key: str, file: str) -> dict[str, str]:
        files = self.server.repositories[key].files("main")[1]
        if file not in files:
            return {}
        described = _described(file, files[file])
        return {"oid": described["lfs"]["oid"] if "lfs" in described else described["oid"]}

    def _create(self, asked: dict) -> None:
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type", "model")
        key = name if kind == "model" else f"{kind}s/{name}"
        url = f"{self.server.url}/{key}"
        if asked["organization"] != "mine":
            self._answer(403, {"error": "You don't have the rights to create it there."})
        elif key in self.server.repositories:
            known = {"error": f"You already created this {kind} repo", "url": url}
            self._answer(409, known)
        else:
            made = Repository(private=asked.get("visibility") == "private")
            made.hardware = asked.get("hardware") or made.hardware
            made.variables = {one["key"]: one["value"] for one in asked.get("variables") or []}
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            self.server.repositories[key] = made
            self._answer(200, {"url": url, "id": name})

    def _batch(self, asked: dict) -> None:
        self.server.when_asked()
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
            known = one["oid"] in self.server.large
            objects.append({**one, **({} if known else {"actions": upload})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        oid, content = self._path().rpartition("/")[2], self._body()
        self.server.when_put()
        if self.server.puts_left == 0:
            self._answer(400, {"error": "the connection broke"})
        elif hashlib.sha256(content).hexdigest() != oid:
            self._answer(422, {"error": "another content"})
        else:
            if self.server.puts_left is not None:
                self.server.puts_left -= 1
            self.server.large[oid] = content[:-1] if self.server.damages_uploads else content
            self._answer(200, {})

    def _commit(self, key: str, lines: list[dict]) -> None:
        repository = self.server.repositories[key]
        files = dict(repository.files("main")[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files)
        self.server.when_committed(key)
        url = f"{self.server.url}/{key}/commit/{made}"
        self._answer(200, {"commitUrl": url, "commitOid": made, "pullRequestUrl": None})

    def _paths_info(self, key: str, revision: str, body: bytes) -> None:
        repository = self._repository(key)
        if repository is not None:
            files = repository.files(revision)[1]
            asked = parse_qs(body.decode())["paths"]
            self._answer(200, [_described(one, files[one]) for one in asked if one in files])

    def do_GET(self) -> None:
        if self._is_down():
            return
        key, rest = self._key_and_rest(self._path())
        repository = self._repository(key)
        if repository is None:
            return
        kind = rest[0] if rest else "revision"
        if kind == "runtime":
            self._runtime(key)
        elif kind == "variables":
            self._variables(key)
        elif kind == "logs":
            events = [f"data: {json.dumps({'data': line})}\n\n" for line in repository.logs]
            self._answer(200, "".join(events).encode(), Content_Type="text/event-stream")
        elif kind in ("tree", "resolve", "revision"):
            self._content(key, repository, kind, rest[1:])
        else:
            self._answer(404, {"error": f"No such route: {kind}"})

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        key, _ = self._key_and_rest(self._path())
        del self.server.repositories[key].variables[json.loads(self._body())["key"]]
        self._variables(key)

    def _content(self, key: str, repository: Repository, kind: str, rest: list[str]) -> None:
        try:
            commit, files = repository.files(rest[0] if rest else "main")
        except KeyError:
            self._answer(404, {"error": "No such revision"}, X_Error_Code="RevisionNotFound")
            return
        if kind == "tree":
            self._answer(200, self._tree(files, "/".join(rest[1:])))
        elif kind == "resolve":
            self._file("/".join(rest[1:]), commit, files)
        else:
            name = "/".join(key.split("/")[-2:])
            siblings = [{"rfilename": one} for one in sorted(files)]
            about = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            self._answer(200, {**about, "tags": [], "siblings": siblings, "host": repository.host})

    def _tree(self, files: dict[str, bytes], folder: str) -> list[dict]:
        """List a folder, or with ``recursive`` all below it."""
        below = f"{folder}/" if folder else ""
        asked = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0]
        listed, folders = [], set()
        for name, content in sorted(files.items()):
            inside = name.removeprefix(below)
            if inside == name and below:
                continue
            if asked.lower() in ("true", "1") or "/" not in inside:
                listed.append(_described(name, content))
            else:
                folders.add(below + inside.split("/")[0])
        made = [
            {"type": "directory", "path": path, "size": 0, "oid": _blob_id(path.encode())}
            for path in sorted(folders)
        ]
        return made + listed

    def _runtime(self, key: str) -> None:
        repository = self.server.repositories[key]
        stage = repository.stages[0]
        if len(repository.stages) > 1:
            repository.stages.pop(0)
        hardware = {"current": repository.hardware, "requested": repository.hardware}
        self._answer(200, {"stage": stage, "hardware": hardware})

    def _variables(self, key: str) -> None:
        variables = self.server.repositories[key].variables
        self._answer(200, {name: {"value": value} for name, value in variables.items()})

    def _file(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        if name not in files:
            headers = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": commit}
            self._answer(404, {"error": "Entry not found"}, **headers)
            return
        described = _described(name, files[name])
        oid = described["lfs"]["oid"] if "lfs" in described else described["oid"]
        headers = {"ETag": f'"{oid}"', "X_Repo_Commit": commit}
        content = files[name]
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            self._answer(206, content[first : last + 1], **headers)
        else:
            self._answer(200, content, **headers)
