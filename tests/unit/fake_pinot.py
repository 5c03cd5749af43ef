"""A small controller with a real state, for error paths only: what works is shown on the real one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeController:
    """Schemas, tables and consuming segments of one cluster.

    ``faults`` maps ``METHOD path`` to answers that are used up one by one before the real one: a pair of status
    and body, or ``"lost"`` for a connection that is cut after the work was done.
    """

    def __init__(self, version: str = "0.11.0") -> None:
        self.version = version
        self.schemas: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        self.states: dict[str, str] = {}
        self.partitions = 3
        self.errors: list[str] = []
        self.paused: set[str] = set()
        self.faults: dict[str, list[Any]] = {}
        self.calls: list[str] = []
        self.view_after_delete = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def _do(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                call = f"{self.command} {unquote(parts.path)}"
                fake.calls.append(call)
                fault = fake.faults[call].pop(0) if fake.faults.get(call) else None
                if isinstance(fault, tuple):
                    status, answer = fault
                else:
                    status, answer = fake.answer(self.command, unquote(parts.path), parse_qs(parts.query), body)
                if fault == "lost":
                    self.connection.close()
                    return
                text = answer if isinstance(answer, str) else json.dumps(answer)
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = _do

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if path == "/health":
            return 200, "OK"
        if path == "/version":
            return 200, {"pinot-controller": f"{self.version}-abc"}
        if parts[0] == "schemas":
            return self._schemas(method, parts, body)
        if parts[0] == "tableConfigs":
            return 200, body
        if parts[0] == "segments":
            return 200, {"status": "reload sent"}
        if parts[0] == "debug":
            state = "UNHEALTHY" if self.errors else "HEALTHY"
            return 200, [{"ingestionStatus": {"ingestionState": state, "errorMessage": "; ".join(self.errors)}}]
        return self._tables(method, parts, body)

    def _schemas(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        if len(parts) == 1 and method == "POST":
            self.schemas[body["schemaName"]] = body
            return 200, {"status": "added"}
        if len(parts) == 1:
            return 200, list(self.schemas)
        if parts[1] not in self.schemas:
            return 404, {"code": 404, "error": "Schema not found"}
        if method == "DELETE":
            del self.schemas[parts[1]]
        elif method == "PUT":
            self.schemas[parts[1]] = body
        return 200, self.schemas.get(parts[1], {"status": "deleted"})

    def _tables(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        if len(parts) == 1 and method == "POST":
            if body["tableName"] in self.tables:
                return 409, {"code": 409, "error": "Table config already exists"}
            self.tables[body["tableName"]] = body
            return 200, {"unrecognizedProperties": {}, "status": "added"}
        if len(parts) == 1:
            return 200, {"tables": list(self.tables)}
        name = parts[1]
        if len(parts) == 2:
            if method == "GET":
                return 200, {"REALTIME": self.tables[name]} if name in self.tables else {}
            if name not in self.tables:
                return 404, {"code": 404, "error": f"Table '{name}' does not exist"}
            if method == "DELETE":
                del self.tables[name]
            else:
                self.tables[name] = body
            return 200, {"status": "done"}
        return self._table(name, parts[2])

    def _table(self, name: str, verb: str) -> tuple[int, Any]:
        if verb == "consumingSegmentsInfo":
            if name not in self.tables:
                return 500, {"code": 500, "error": "Ideal state does not exist"}
            segment = {"serverName": "s", "consumerState": "CONSUMING", "partitionToOffsetMap": {"0": "12"}}
            return 200, {
                "_segmentToConsumingInfoMap": {
                    f"{name}__{n}__0__20261121T1200Z": [segment] if self.states.get(str(n)) != "gone" else []
                    for n in range(self.partitions)
                }
            }
        if verb == "pauseStatus":
            return 200, {"pauseFlag": name in self.paused}
        if verb == "pauseConsumption":
            self.paused.add(name)
        if verb == "resumeConsumption":
            self.paused.discard(name)
        if verb == "externalview":
            left = self.view_after_delete > 0
            self.view_after_delete -= left
            state = "CONSUMING" if name in self.tables and name not in self.paused else "ONLINE"
            there = name in self.tables or left
            return 200, {"REALTIME": {f"{name}__0__0__x": {"s": state}} if there else None}
        return 200, {}
