"""A small Nessie with a real state over real HTTP: references, commits, merges, conflicts, lost answers.

For error paths that a healthy server does not show on demand; what works is claimed from the real one.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Commit:
    hash: str
    parents: list[str]
    meta: dict[str, Any]
    contents: dict[tuple[str, ...], dict[str, Any]]


@dataclass
class Nessie:
    """The state.

    :param page: entries in one page.
    :param lose: paths (their ends) whose next answer is cut off after the work was done.
    :param busy: how often to answer 503 before working.
    """

    page: int = 2
    lose: list[str] = field(default_factory=list)
    busy: int = 0
    requests: list[str] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    references: dict[str, tuple[str, str]] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        root = Commit("0" * 64, [], {}, {})
        self.commits[root.hash] = root
        self.references["main"] = ("BRANCH", root.hash)

    def head(self, name: str) -> Commit:
        return self.commits[self.references[name][1]]

    def put(self, branch: str, key: tuple[str, ...], location: str) -> None:
        """A client's commit of one table."""
        head = self.head(branch)
        content = {
            "type": "ICEBERG_TABLE",
            "id": head.contents.get(key, {}).get("id", uuid.uuid4().hex),
            "metadataLocation": location,
            "snapshotId": len(self.commits),
        }
        self._commit(branch, [head.hash], {"message": f"put {key}"}, {**head.contents, key: content})

    def _commit(self, branch: str, parents: list[str], meta: dict[str, Any], contents: dict) -> str:
        hash_ = (uuid.uuid4().hex * 2)[:64]
        self.commits[hash_] = Commit(hash_, parents, {**meta, "hash": hash_}, contents)
        self.references[branch] = (self.references[branch][0], hash_)
        return hash_

    def ancestors(self, hash_: str) -> list[str]:
        found: list[str] = []
        while hash_ in self.commits:
            found.append(hash_)
            parents = self.commits[hash_].parents
            if not parents:
                break
            hash_ = parents[0]
        return found

    def merge(self, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        source = self.commits[body["fromHash"]]
        mine = set(self.ancestors(self.head(target).hash))
        for commit in mine.copy():
            mine |= set(self.commits[commit].parents)
        ancestor = next(commit for commit in self.ancestors(source.hash) if commit in mine)
        base = self.commits[ancestor].contents
        if source.hash in self.head(target).parents or source.hash == ancestor:
            return 200, self._merged(False, target, ancestor, [])
        changed = [key for key in {**base, **source.contents} if base.get(key) != source.contents.get(key)]
        head = self.head(target)
        clashing = [key for key in changed if head.contents.get(key) != base.get(key)]
        if clashing:
            details = [
                {
                    "key": {"elements": list(key)},
                    "conflict": {"conflictType": "VALUE_DIFFERS", "message": "values differ"},
                }
                for key in clashing
            ]
            if body.get("isReturnConflictAsResult"):
                return 200, {"wasApplied": False, "wasSuccessful": False, "details": details}
            conflicts = [{"key": item["key"], "conflictType": "VALUE_DIFFERS"} for item in details]
            return 409, _error("REFERENCE_CONFLICT", "conflict", {"conflicts": conflicts})
        if not body.get("isDryRun"):
            kept = {key: value for key, value in head.contents.items() if key not in changed}
            contents = {**kept, **{key: source.contents[key] for key in changed if key in source.contents}}
            self._commit(target, [head.hash, source.hash], body.get("commitMeta") or {}, contents)
        return 200, self._merged(not body.get("isDryRun"), target, ancestor, changed)

    def _merged(self, applied: bool, target: str, ancestor: str, keys: list) -> dict[str, Any]:
        return {
            "wasApplied": applied,
            "wasSuccessful": True,
            "resultantTargetHash": self.head(target).hash if applied else None,
            "effectiveTargetHash": self.head(target).hash,
            "commonAncestor": ancestor,
            "details": [{"key": {"elements": list(key)}} for key in keys],
        }


def _error(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"errorCode": code, "message": message, "errorDetails": details}


class _Handler(BaseHTTPRequestHandler):
    nessie: Nessie
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        path = urlsplit(self.path).path
        if any(path.endswith(end) for end in self.nessie.lose):
            self.nessie.lose = [end for end in self.nessie.lose if not path.endswith(end)]
            self.close_connection = True
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        parts = urlsplit(self.path)
        self.nessie.requests.append(f"{self.command} {parts.path}")
        if self.nessie.busy:
            self.nessie.busy -= 1
            self._answer(503, {"message": "busy"})
            return
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        segments = [unquote(part) for part in parts.path.removeprefix("/api/v2/").split("/")]
        self._answer(*self._route(segments, query, body))

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _paged(self, name: str, items: list, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        start = int(query.get("page-token", 0))
        end = start + self.nessie.page
        more = end < len(items)
        return 200, {name: items[start:end], "hasMore": more, "token": str(end) if more else None}

    def _reference(self, name: str) -> dict[str, str]:
        type_, hash_ = self.nessie.references[name]
        return {"type": type_, "name": name, "hash": hash_}

    def _route(self, path: list[str], query: dict[str, str], body: dict) -> tuple[int, dict[str, Any]]:
        nessie = self.nessie
        if path == ["config"]:
            return 200, {"defaultBranch": "main", "specVersion": "2.2.0"}
        if path == ["trees"]:
            return self._trees(query, body)
        name, _, expected = path[1].partition("@")
        if name not in nessie.references:
            return 404, _error("REFERENCE_NOT_FOUND", f"Named reference '{name}' not found")
        rest = path[2:]
        if not rest:
            return self._one(name, expected, query, body)
        head = nessie.commits[expected] if expected else nessie.head(name)
        if rest == ["history", "merge"]:
            return nessie.merge(name, body)
        if rest == ["history"]:
            log = [
                {"commitMeta": nessie.commits[h].meta} for h in nessie.ancestors(head.hash) if nessie.commits[h].meta
            ]
            for item in log:
                item["commitMeta"].setdefault("parentCommitHashes", nessie.commits[item["commitMeta"]["hash"]].parents)
            return self._paged("logEntries", log, query)
        if rest == ["entries"]:
            items = [
                {"name": {"elements": list(key)}, "type": value["type"], "content": value}
                for key, value in head.contents.items()
            ]
            return self._paged("entries", items, query)
        if rest[0] == "contents":
            key = tuple(part.replace("\u001d", ".") for part in rest[1].split("."))
            if key not in head.contents:
                return 404, _error("CONTENT_NOT_FOUND", "no such content")
            return 200, {"content": head.contents[key]}
        return 404, _error("UNKNOWN", self.path)

    def _trees(self, query: dict[str, str], body: dict) -> tuple[int, dict[str, Any]]:
        nessie = self.nessie
        if self.command == "GET":
            begins = query.get("filter", "").removeprefix("ref.name.startsWith('").removesuffix("')")
            names = [name for name in nessie.references if name.startswith(begins)]
            return self._paged("references", [self._reference(name) for name in names], query)
        if query["name"] in nessie.references:
            return 409, _error("REFERENCE_ALREADY_EXISTS", "exists")
        nessie.references[query["name"]] = (query["type"], body["hash"])
        return 200, {"reference": self._reference(query["name"])}

    def _one(self, name: str, expected: str, query: dict, body: dict) -> tuple[int, dict[str, Any]]:
        nessie = self.nessie
        if expected and expected != nessie.references[name][1]:
            return 409, _error("REFERENCE_CONFLICT", "hash differs")
        before = self._reference(name)
        if self.command == "DELETE":
            del nessie.references[name]
        elif self.command == "PUT":
            nessie.references[name] = (query["type"], body["hash"])
            return 200, {"reference": self._reference(name)}
        return 200, {"reference": before}


@contextmanager
def serving(nessie: Nessie) -> Iterator[Nessie]:
    """Serve it on a free port.

    :param nessie: the state; its ``url`` is set.
    """
    handler = type("Handler", (_Handler,), {"nessie": nessie})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    nessie.url = f"http://127.0.0.1:{server.server_port}/api/v2"
    try:
        yield nessie
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
