"""A small Hugging Face Hub on this machine, for the real client: the remote edge of ``publish``.

It speaks the part of the Hub's HTTP interface that ``huggingface_hub`` uses to make a repository,
upload into it (git blobs, and LFS by the "basic" transfer), list it, and download from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_a_test"
_LARGE = (".safetensors",)


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        known = dict(self.commits)
        commit = self.commits[-1][0] if revision == "main" else revision
        return commit, known[commit]

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((name, files))
        return name


class LocalHub(ThreadingHTTPServer):
    """Repositories by name, and the contents of large files by their sha256."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.damages_uploads = False
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

    def _signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self._signed_in()):
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif path.endswith("/paths-info/" + path.rpartition("/")[2]):
            self._paths_info(path, body)
        elif not self._signed_in():
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    **self._known(path, one["path"]),
                }
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        else:
            self._commit(path, [json.loads(line) for line in body.splitlines()])

    def _name_and_rest(self, path: str) -> tuple[str, list[str]]:
        parts = path.removeprefix("/api/models").strip("/").split("/")
        return "/".join(parts[:2]), parts[2:]

    def _known(self, path: str, file: str) -> dict[str, str]:
        name, _ = self._name_and_rest(path)
        files = self.server.repositories[name].files("main")[1]
        if file not in files:
            return {}
        described = _described(file, files[file])
        return {"oid": described["lfs"]["oid"] if "lfs" in described else described["oid"]}

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            known = {"error": "You already created this model repo", "url": self._url(name)}
            self._answer(409, known)
            return
        made = Repository(private=asked.get("visibility") == "private")
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.server.repositories[name] = made
        self._answer(200, {"url": self._url(name), "id": name})

    def _url(self, name: str) -> str:
        return f"{self.server.url}/{name}"

    def _batch(self, asked: dict) -> None:
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
            known = one["oid"] in self.server.large
            objects.append({**one, **({} if known else {"actions": upload})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        oid, content = self.path.rpartition("/")[2], self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            self._answer(422, {"error": "another content"})
            return
        self.server.large[oid] = content[:-1] if self.server.damages_uploads else content
        self._answer(200, {})

    def _commit(self, path: str, lines: list[dict]) -> None:
        name, _ = self._name_and_rest(path)
        repository = self.server.repositories[name]
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
        url = f"{self.server.url}/{name}/commit/{made}"
        self._answer(200, {"commitUrl": url, "commitOid": made, "pullRequestUrl": None})

    def _paths_info(self, path: str, body: bytes) -> None:
        name, rest = self._name_and_rest(path)
        repository = self._repository(name)
        if repository is not None:
            files = repository.files(rest[1])[1]
            asked = parse_qs(body.decode())["paths"]
            self._answer(200, [_described(one, files[one]) for one in asked if one in files])

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name, rest = self._name_and_rest(path)
        repository = self._repository(name)
        if repository is None:
            return
        kind, revision = rest[0] if rest else "revision", rest[1] if len(rest) > 1 else "main"
        commit, files = repository.files(revision)
        if kind == "tree":
            self._answer(200, [_described(*one) for one in sorted(files.items())])
        elif kind == "resolve":
            self._file("/".join(rest[2:]), commit, files)
        else:
            siblings = [{"rfilename": one} for one in sorted(files)]
            about = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            self._answer(200, {**about, "tags": [], "siblings": siblings})

    do_HEAD = do_GET

    def _file(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        if name not in files:
            headers = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": commit}
            self._answer(404, {"error": "Entry not found"}, **headers)
            return
        described = _described(name, files[name])
        oid = described["lfs"]["oid"] if "lfs" in described else described["oid"]
        self._answer(200, files[name], ETag=f'"{oid}"', X_Repo_Commit=commit)
