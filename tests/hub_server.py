"""A local imitation of the Hugging Face hub: it serves data sets over the hub's protocol and records all requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.local_http import Handler, listening


@dataclass(frozen=True)
class Repo:
    """One data set: its commit and its files."""

    commit: str
    files: Mapping[str, bytes]


@dataclass
class Hub:
    """A running server: its address, its data sets, and (method, path, authorisation) of every request."""

    endpoint: str
    repos: Mapping[str, Repo]
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def serve(repos: Mapping[str, Repo]) -> Iterator[Hub]:
    """Serve data sets by hub id until the block ends."""

    class Bound(_Handler):
        pass

    with listening(Bound) as endpoint:
        Bound.hub = hub = Hub(endpoint=endpoint, repos=repos)
        yield hub


class _Handler(Handler):
    hub: Hub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Authorization")))
        api, parts = path.startswith("/api/"), path.removeprefix("/api").split("/")[2:]
        repo = self.hub.repos.get("/".join(parts[:2]))
        if repo is None:
            return self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        verb, revision, below = (*parts[2:4], "", "")[0], (*parts[2:4], "", "")[1], "/".join(parts[4:])
        if verb and revision not in ("main", repo.commit):
            return self.send_json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if not api:
            return self._file(repo, below)
        if verb in ("", "revision"):
            siblings = [{"rfilename": name} for name in repo.files]
            return self.send_json({"id": "/".join(parts[:2]), "sha": repo.commit, "siblings": siblings})
        if verb == "tree":
            return self._tree(repo, below)
        if verb == "paths-info":
            return self.send_json([_entry(repo, name) for name in _paths(body) if _exists(repo, name)])
        return self.send_json({"error": "Not found"}, 404)

    def _tree(self, repo: Repo, below: str) -> None:
        start = f"{below}/" if below else ""
        inside = [name for name in repo.files if name.startswith(start)]
        if "recursive=true" not in self.path.lower():
            inside = list(dict.fromkeys(start + name.removeprefix(start).split("/")[0] for name in inside))
        if not inside:
            return self.send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self.send_json([_entry(repo, name) for name in inside])

    def _file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            self.send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content, status = repo.files[name], 200
        headers = {
            "X-Repo-Commit": repo.commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if (asked := self.headers.get("Range", "")).startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first or 0), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            content, status = content[begin : end + 1], 206
        self.send(content, status, headers)


def _paths(body: bytes) -> list[str]:
    if body[:1] == b"{":
        paths = json.loads(body)["paths"]
        return paths if isinstance(paths, list) else [paths]
    return [unquote(item.partition("=")[2]) for item in body.decode().split("&") if item.startswith("paths=")]


def _exists(repo: Repo, name: str) -> bool:
    return name in repo.files or any(file.startswith(f"{name}/") for file in repo.files)


def _entry(repo: Repo, name: str) -> dict[str, object]:
    if name not in repo.files:
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
    oid = hashlib.sha1(repo.files[name]).hexdigest()
    return {"type": "file", "path": name, "oid": oid, "size": len(repo.files[name])}
