"""Kafka Connect in the test's own process: keeps connectors, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REBALANCE = (
    "Cannot complete request momentarily due to stale configuration (typically caused by a concurrent config change)"
)
PENDING = "Cannot complete request because of a conflicting operation (e.g. worker rebalance)"
TRACE = """org.apache.kafka.connect.errors.ConnectException: it broke
\tat org.apache.kafka.connect.Worker.run(Worker.java:1)
Caused by: java.lang.IllegalStateException: the reason
\tat x.Y.z(Y.java:2)
\t... 3 more
"""


@dataclass
class State:
    """What the server knows, and how it misbehaves.

    :param rebalances: answers of 409 before the next request is heard.
    :param lose_answers: requests that are carried out and whose answer is never sent.
    :param slow: looks at a status that still show the state before.
    :param broken: connectors whose task fails; the value says how many starts fail.
    :param restarts: what was asked of each restart.
    """

    connectors: dict[str, dict[str, str]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    failed: dict[str, bool] = field(default_factory=dict)
    offsets: dict[str, list[Any]] = field(default_factory=dict)
    rebalances: int = 0
    rebalance_text: str = PENDING
    lose_answers: int = 0
    slow: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    restarts: list[dict[str, list[str]]] = field(default_factory=list)

    def start(self, name: str) -> None:
        """Start a connector's task, which may fail."""
        left = self.broken.get(name, 0)
        self.broken[name] = max(0, left - 1)
        self.failed[name] = left > 0
        self.states[name] = "RUNNING"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: Any = None) -> None:
        if self.state.lose_answers and self.command != "GET":
            self.state.lose_answers -= 1
            self.close_connection = True
            self.connection.close()
            return
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        parts = urlsplit(self.path)
        names = [unquote(part) for part in parts.path.strip("/").split("/") if part]
        self.state.requests.append(f"{self.command} {parts.path}")
        if self.state.rebalances:
            self.state.rebalances -= 1
            self._answer(409, {"error_code": 409, "message": self.state.rebalance_text})
        elif not names:
            self._answer(200, {"version": "4.3.1"})
        elif names[0] == "connector-plugins":
            self._plugins(names, body)
        elif len(names) == 1:
            self._all(body)
        else:
            self._one(names[1], names[2:], body, parse_qs(parts.query))

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _plugins(self, names: list[str], body: dict[str, str]) -> None:
        if len(names) == 1:
            self._answer(200, [{"class": "io.debezium.X", "type": "source", "version": "3.7.0"}])
            return
        configs = [
            {"value": {"name": key, "errors": ["is no number"] if key == "max.batch.size" and value == "x" else []}}
            for key, value in body.items()
            if key != "unknown.setting"
        ]
        self._answer(200, {"configs": configs})

    def _all(self, body: dict[str, Any]) -> None:
        if self.command == "GET":
            self._answer(200, list(self.state.connectors))
            return
        name = body["name"]
        if name in self.state.connectors:
            self._answer(409, {"error_code": 409, "message": f"Connector {name} already exists"})
        elif body["config"].get("bad"):
            self._answer(
                400, {"error_code": 400, "message": "Connector configuration is invalid: bad; password=canary"}
            )
        else:
            self.state.connectors[name] = {**body["config"], "name": name}
            if body.get("initial_state") == "STOPPED":
                self.state.states[name] = "STOPPED"
            else:
                self.state.start(name)
            self._answer(201, body)

    def _one(self, name: str, rest: list[str], body: dict[str, str], query: dict[str, list[str]]) -> None:
        known = name in self.state.connectors
        action = f"{self.command} {'/'.join(rest)}"
        if action == "PUT config":
            self.state.connectors[name] = {**body, "name": name}
            if self.state.states.get(name, "RUNNING") == "RUNNING":
                self.state.start(name)
            self._answer(200 if known else 201, {"name": name, "config": body})
        elif not known:
            self._answer(404, {"error_code": 404, "message": f"Connector {name} not found"})
        elif action == "GET config":
            self._answer(200, self.state.connectors[name])
        elif action == "GET status":
            self._answer(200, self._status(name))
        elif action == "DELETE ":
            del self.state.connectors[name]
            self._answer(204)
        elif action == "POST restart":
            self.state.restarts.append(query)
            only_failed = query.get("onlyFailed") == ["true"]
            if not only_failed or self.state.failed.get(name):
                self.state.start(name)
            self._answer(202)
        elif action == "GET offsets":
            self._answer(200, {"offsets": self.state.offsets.get(name, [])})
        elif action == "DELETE offsets":
            self._delete_offsets(name)
        else:
            self._change_state(name, rest[0])

    def _delete_offsets(self, name: str) -> None:
        if self.state.states.get(name) != "STOPPED":
            self._answer(400, {"error_code": 400, "message": "Connectors must be in the STOPPED state"})
            return
        self.state.offsets.pop(name, None)
        self._answer(200, {"message": "reset"})

    def _change_state(self, name: str, verb: str) -> None:
        if verb == "resume":
            self.state.start(name)
        else:
            self.state.states[name] = {"pause": "PAUSED", "stop": "STOPPED"}[verb]
        self._answer(202)

    def _status(self, name: str) -> dict[str, Any]:
        state = self.state.states.get(name, "RUNNING")
        task: dict[str, Any] = {"id": 0, "state": state, "worker_id": "w:1"}
        if self.state.failed.get(name):
            task |= {"state": "FAILED", "trace": TRACE}
        if self.state.slow:
            self.state.slow -= 1
            task["state"], state = "UNASSIGNED", "UNASSIGNED"
        return {
            "name": name,
            "connector": {"state": state, "worker_id": "w:1"},
            "tasks": [] if state == "STOPPED" else [task],
            "type": "source",
        }


@contextmanager
def connect_server() -> Iterator[tuple[str, State]]:
    """A running server: its URL, and its state to look at and to disturb."""
    state = State()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
