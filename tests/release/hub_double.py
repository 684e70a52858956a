"""A local double of the hub's endpoints for writing: repositories with commits and tags, and LFS storage; with planted faults.

It answers as the hub does to the requests of `huggingface_hub`: a file above `LFS_FROM` bytes, or a Parquet file, goes to LFS; a
commit is refused (412) if its parent is not the newest one, or if it names an object that was not uploaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.local_http import Handler, listening

LFS_FROM = 10_000
TOKEN = "hf_" + "Zy9" * 11


@dataclass(frozen=True)
class Blob:
    """A file: its content, and whether it is in LFS."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        stored = pointer if self.lfs else self.content
        oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
        lfs = (
            {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": len(pointer)}}
            if self.lfs
            else {}
        )
        return {"type": "file", "path": path, "oid": oid, "size": len(self.content), **lfs}


@dataclass
class Fault:
    """Fails the next `times` requests whose "METHOD path" matches. `how`: a status, `drop` (the connection breaks in the middle
    of the request) or `lost` (the request is carried out, and the answer is lost)."""

    request: str
    how: int | str
    times: int = 1


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, dict[str, Blob]]]
    tags: dict[str, str] = field(default_factory=dict)

    def files(self, revision: str) -> dict[str, Blob] | None:
        oid = self.commits[-1][0] if revision == "main" else self.tags.get(revision, revision)
        return next((files for name, files in self.commits if name == oid), None)


@dataclass
class HubDouble:
    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # LFS objects by SHA-256
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)  # "METHOD path", bytes of the body

    def fault(self, request: str) -> Fault | None:
        for one in self.faults:
            if one.times and re.search(one.request, request):
                one.times -= 1
                return one
        return None

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, request) is not None for request, _ in self.requests)

    def commit(self, repo: Repo, files: dict[str, Blob]) -> str:
        oid = hashlib.sha1(f"{len(repo.commits)} {sorted(files)}".encode()).hexdigest()
        repo.commits.append((oid, files))
        return oid


@contextmanager
def serve() -> Iterator[HubDouble]:
    hub = HubDouble()
    handler = type("Bound", (_Handler,), {"hub": hub})
    with listening(handler) as hub.endpoint:
        yield hub


class _Handler(Handler):
    hub: HubDouble

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.hub.fault(f"{self.command} {path}")
        if fault is not None and fault.how == "drop":
            self.rfile.read(length // 2)
            return self._break()
        body = self.rfile.read(length)
        self.hub.requests.append((f"{self.command} {path}", len(body)))
        if fault is not None and isinstance(fault.how, int):
            extra = {"Retry-After": "0"} if fault.how == 429 else {}
            return self.send_json({"error": f"planted {fault.how}"}, fault.how, extra)
        if "/storage/" not in path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send_json({"error": "Invalid credentials"}, 401, {})
        status, value = self._answer(path, body)
        if fault is not None and fault.how == "lost":
            return self._break()
        if isinstance(value, bytes):
            return self.send(value, status, {})
        headers = {}
        if isinstance(value, dict) and "code" in value:
            headers["X-Error-Code"] = str(value["code"])
        return self.send_json(value, status, headers)

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.startswith("/storage/"):
            return self._store(path.removeprefix("/storage/"), body)
        match = re.fullmatch(r"(?:/api)?/(?:datasets|models)/([^/]+/[^/]+?)(\.git)?(?:/(.*))?", path)
        match = match or re.fullmatch(r"/([^/]+/[^/]+?)(\.git)?/(.*)", path)
        repo = self.hub.repos.get(match[1]) if match else None
        if repo is None or match is None:
            return 404, {"error": "Repository not found", "code": "RepoNotFound"}
        verb, _, below = (match[3] or "").partition("/")
        if match[2]:
            return self._batch(json.loads(body))
        return self._in_repo(repo, match[1], verb, below, body)

    def _in_repo(self, repo: Repo, name: str, verb: str, below: str, body: bytes) -> tuple[int, Any]:
        revision, _, file = below.partition("/")
        files = repo.files(revision or "main")
        if verb == "refs":
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in repo.tags.items()
            ]
            branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1][0]}]
            return 200, {"branches": branches, "converts": [], "tags": tags}
        if files is None:
            return 404, {"error": "Revision not found", "code": "RevisionNotFound"}
        if verb in ("", "revision"):
            oid = next(oid for oid, found in repo.commits if found is files)
            return 200, {"id": name, "sha": oid, "private": repo.private, "siblings": []}
        if verb == "tree":
            return 200, [blob.entry(path) for path, blob in files.items()]
        if verb == "paths-info":
            wanted = (
                json.loads(body)["paths"]
                if body[:1] == b"{"
                else re.findall(r"paths=([^&]*)", unquote(body.decode()))
            )
            return 200, [files[path].entry(path) for path in wanted if path in files]
        if verb == "resolve":
            return 200, files[file].content
        if verb == "preupload":
            return 200, {"files": [self._mode(files, one) for one in json.loads(body)["files"]]}
        if verb == "tag":
            return self._tag(repo, json.loads(body)["tag"], revision)
        return self._commit(repo, name, [json.loads(line) for line in body.splitlines()])

    def _mode(self, files: dict[str, Blob], one: dict[str, Any]) -> dict[str, Any]:
        lfs = one["size"] >= LFS_FROM or one["path"].endswith((".parquet", ".safetensors"))
        oid = files[one["path"]].entry(one["path"])["oid"] if one["path"] in files else None
        return {
            "path": one["path"],
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this repo", "url": name}
        repo = Repo(private=wanted.get("visibility") == "private", commits=[])
        self.hub.commit(repo, {".gitattributes": Blob(b"*.parquet filter=lfs\n", lfs=False)})
        self.hub.repos[name] = repo
        return 200, {"url": f"{self.hub.endpoint}/{wanted.get('type', 'model')}s/{name}", "name": name}

    def _batch(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for one in wanted["objects"]:
            href = f"{self.hub.endpoint}/storage/{one['oid']}"
            actions = {} if one["oid"] in self.hub.stored else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        return 200, {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, body: bytes) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "wrong object"}
        self.hub.stored[oid] = body
        return 200, {}

    def _tag(self, repo: Repo, tag: str, revision: str) -> tuple[int, Any]:
        if tag in repo.tags:
            return 409, {"error": "Tag exists"}
        repo.tags[tag] = revision
        return 200, {}

    def _commit(self, repo: Repo, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        header, files = lines[0]["value"], dict(repo.commits[-1][1])
        if header.get("parentCommit") != repo.commits[-1][0]:
            return 412, {"error": "A commit has happened since"}
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    return 400, {"error": "LFS object does not exist"}
                files[value["path"]] = Blob(self.hub.stored[value["oid"]], lfs=True)
            else:
                del files[value["path"]]
        oid = self.hub.commit(repo, files)
        return 200, {"commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{oid}", "commitOid": oid}
