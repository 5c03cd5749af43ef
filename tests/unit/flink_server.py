"""A stand-in for Flink's REST API and SQL gateway with real state, for errors that a real one shows rarely."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class State:
    """What the server knows.

    :param lose: number of answers to INSERT statements that are lost after the job was accepted.
    :param refuse_stop: stop-with-savepoint fails with this trace.
    :param fail_new: a new job fails with this trace.
    :param refuse_state: a new job that starts from a state and may drop none of it fails with this trace.
    :param lose_task_manager: number of queries whose TaskManager dies.
    :param free_slots: of the cluster; -1 for one that does not tell.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, dict[str, str]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    savepoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    rows: dict[str, list[list[Any]]] = field(default_factory=dict)
    lose: int = 0
    lose_task_manager: int = 0
    refuse_stop: str | None = None
    fail_new: str | None = None
    refuse_state: str | None = None
    free_slots: int = 4
    clock: int = 1000

    def add_job(self, name: str, state: str = "RUNNING", fingerprint: str | None = None, jid: str = "") -> str:
        """Add a job."""
        self.clock += 1
        jid = jid or f"{self.clock:032x}"
        self.jobs[jid] = {"name": name, "state": state, "start": self.clock, "fingerprint": fingerprint, "trace": ""}
        return jid


class Lost(Exception):
    """The answer never arrives."""


class Handler(BaseHTTPRequestHandler):
    """Routes a request to the state."""

    state: State

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        path = self.path.split("?")[0]
        self.state.calls.append(f"{self.command} {path}")
        try:
            status, answer = self._route(path, body)
        except Lost:
            self.connection.close()
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/jobs/overview":
            return 200, {"jobs": [self._job(jid) for jid in self.state.jobs]}
        if path == "/overview" and self.state.free_slots >= 0:
            return 200, {"slots-total": 4, "slots-available": self.state.free_slots}
        if path.startswith("/jobs/"):
            return self._job_route(path.split("/")[2:], body)
        if path == "/v3/sessions":
            handle = f"s{len(self.state.sessions)}"
            self.state.sessions[handle] = body["properties"]
            return 200, {"sessionHandle": handle}
        if path == "/savepoint-disposal":
            return 202, {"request-id": "1"}
        match = re.fullmatch(r"/v3/sessions/(\w+)(?:/(.*))?", path)
        assert match, path
        return self._session_route(match.group(1), match.group(2) or "", body)

    def _job(self, jid: str) -> dict[str, Any]:
        job = self.state.jobs[jid]
        running = 1 if job["state"] == "RUNNING" else 0
        return {
            "jid": jid,
            "name": job["name"],
            "state": job["state"],
            "start-time": job["start"],
            "tasks": {"running": running, "total": 1},
        }

    def _job_route(self, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        jid, rest = parts[0], parts[1:]
        job = self.state.jobs.get(jid)
        if job is None:
            return 404, {"errors": [f"org.apache.flink.FlinkJobNotFoundException: Could not find Flink job ({jid})"]}
        if self.command == "PATCH":
            job["state"] = "CANCELED"
            return 202, {}
        if rest == ["config"]:
            user = {"rtlake.fingerprint": job["fingerprint"]} if job["fingerprint"] else {}
            return 200, {"execution-config": {"user-config": user}}
        if rest == ["exceptions"]:
            return 200, {"exceptionHistory": {"entries": [{"stacktrace": job["trace"]}] if job["trace"] else []}}
        if rest == ["checkpoints"]:
            latest = {"completed": job.get("checkpoint"), "savepoint": job.get("savepoint")}
            return 200, {"counts": {"completed": 3}, "latest": latest}
        if rest == ["stop"]:
            self.state.savepoints[body["triggerId"]] = {"jid": jid}
            if not self.state.refuse_stop:
                job["state"] = "FINISHED"
                job["savepoint"] = {"id": 9, "external_path": f"s3://sp/{jid}", "discarded": False}
            return 202, {"request-id": body["triggerId"]}
        if rest and rest[0] == "savepoints":
            failure = {"failure-cause": {"stack-trace": self.state.refuse_stop}}
            operation = failure if self.state.refuse_stop else {"location": f"s3://sp/{jid}"}
            return 200, {"status": {"id": "COMPLETED"}, "operation": operation}
        assert not rest, rest
        counts = {"RUNNING": 1 if job["state"] == "RUNNING" else 0, "FAILED": 1 if job["state"] == "FAILED" else 0}
        return 200, {**self._job(jid), "tasks": None, "status-counts": counts}

    def _session_route(self, handle: str, rest: str, body: dict[str, Any]) -> tuple[int, Any]:
        if rest == "statements":
            operation = f"o{len(self.state.operations)}"
            self.state.operations[operation] = {"statement": body["statement"]}
            self.state.statements.append(body["statement"])
            self._run(self.state.sessions[handle], self.state.operations[operation])
            return 200, {"operationHandle": operation}
        match = re.fullmatch(r"operations/(\w+)/result/(\d+)", rest)
        if not match:
            return 200, {"status": "CLOSED"}
        operation_state = self.state.operations[match.group(1)]
        if operation_state.get("error"):
            trace = (
                f"<Exception on server side:\n{operation_state['error']}\n\tat a.b\nEnd of exception on server side>"
            )
            return 500, {"errors": ["Internal server error.", trace]}
        if operation_state.pop("lose", False):
            raise Lost
        if match.group(2) == "0":
            return 200, {
                "resultType": "PAYLOAD",
                "jobID": operation_state.get("job"),
                "results": {"columns": [{"name": "a"}], "data": operation_state.get("rows", [])},
                "nextResultUri": f"/v3/sessions/{handle}/operations/{match.group(1)}/result/1?rowFormat=JSON",
            }
        return 200, {"resultType": "EOS"}

    def _run(self, properties: dict[str, str], operation: dict[str, Any]) -> None:
        statement = operation["statement"]
        for start, rows in self.state.rows.items():
            if statement.startswith(start):
                operation["rows"] = [{"fields": row} for row in rows]
        if "BROKEN" in statement:
            operation["error"] = (
                "org.apache.flink.Outer: no\n\tat x.y\nCaused by: org.apache.calcite.SqlValidatorException: "
                "Column 'zzz' not found in any table"
            )
        if statement.startswith("SELECT") and self.state.lose_task_manager:
            self.state.lose_task_manager -= 1
            operation["error"] = (
                "org.apache.flink.runtime.resourcemanager.exceptions.ResourceManagerException: "
                "TaskManager with id rtlake is no longer reachable."
            )
        if not statement.startswith(("INSERT", "EXECUTE")) or operation.get("error"):
            return
        jid = properties.get("$internal.pipeline.job-id", "")
        if jid in self.state.jobs:
            operation["error"] = (
                "org.apache.flink.client.DuplicateJobSubmissionException: Job has already been submitted."
            )
            return
        fingerprint = properties.get("pipeline.global-job-parameters", ":").split(":")[1]
        restores = "execution.state-recovery.path" in properties
        strict = properties.get("execution.state-recovery.ignore-unclaimed-state") != "true"
        trace = self.state.fail_new or (self.state.refuse_state if restores and strict else None)
        state = "FAILED" if trace else "RUNNING"
        jid = self.state.add_job(properties.get("pipeline.name", "x"), state, fingerprint, jid)
        self.state.jobs[jid]["trace"] = trace or ""
        self.state.jobs[jid]["restore"] = properties.get("execution.state-recovery.path")
        operation["job"] = jid
        if self.state.lose:
            self.state.lose -= 1
            operation["lose"] = True


@contextmanager
def flink_server() -> Iterator[tuple[str, State]]:
    """Run one; gives its URL (of both APIs) and its state."""
    state = State()
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
