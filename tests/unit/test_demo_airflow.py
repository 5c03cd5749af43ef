"""The demo and Airflow's schedules: paused meanwhile, and as they were afterwards whatever happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_rtlake.demo.airflow import Airflow
from airflow_provider_rtlake.exceptions import CheckFailed


@dataclass
class Scheduler:
    """DAGs and their runs; a run ends as soon as its DAG may run.

    :param paused: DAG → whether it is paused.
    :param fail: DAGs whose runs fail.
    :param events: what was asked for, in order.
    """

    paused: dict[str, bool]
    fail: set[str] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
    url: str = ""

    def get(self, path: list[str]) -> dict[str, Any]:
        if path == ["dags"]:
            return {"dags": [{"dag_id": dag, "is_paused": paused} for dag, paused in self.paused.items()]}
        if path[-1] == "taskInstances":
            return {"task_instances": []}
        if self.paused[path[1]]:
            return {"state": "queued"}
        return {"state": "failed" if path[1] in self.fail else "success"}

    def patch(self, path: list[str], body: dict[str, Any]) -> dict[str, Any]:
        self.paused[path[1]] = body["is_paused"]
        self.events.append(f"{'pause' if body['is_paused'] else 'unpause'} {path[1]}")
        return {}

    def post(self, path: list[str]) -> dict[str, Any]:
        self.events.append(f"trigger {path[1]}")
        return {"dag_run_id": "r1"}


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    state = Scheduler({"merge": True, "gold": False})

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0].strip("/").split("/")[2:]
            if self.path == "/auth/token":
                said: dict[str, Any] = {"access_token": "t"}
            elif self.command == "PATCH":
                said = state.patch(path, json.loads(raw))
            else:
                said = state.post(path) if self.command == "POST" else state.get(path)
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def test_a_run_comes_before_what_the_schedule_has_in_store_and_pauses_again(scheduler: Scheduler) -> None:
    with closing(Airflow(scheduler.url, "admin", "x")) as airflow:
        airflow.run(["merge", "gold"], limit=10)
    assert scheduler.events.index("trigger merge") < scheduler.events.index("unpause merge")
    assert scheduler.paused == {"merge": True, "gold": False}


def test_a_run_that_fails_pauses_again(scheduler: Scheduler) -> None:
    scheduler.fail.add("merge")
    with closing(Airflow(scheduler.url, "admin", "x")) as airflow, pytest.raises(CheckFailed, match="merge failed"):
        airflow.run(["merge"], limit=10)
    assert scheduler.paused["merge"]


def test_schedules_go_on_after_an_error(scheduler: Scheduler) -> None:
    with closing(Airflow(scheduler.url, "admin", "x")) as airflow:

        def interrupted() -> None:
            with airflow.quiet(["merge", "gold"]):
                assert scheduler.paused == {"merge": True, "gold": True}
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert scheduler.paused == {"merge": False, "gold": False}
