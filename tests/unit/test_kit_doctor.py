"""What the doctor finds inside services that answer, and what it says to do first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from airflow_provider_rtlake.kit import doctor, inspect, supervise
from airflow_provider_rtlake.kit.stack import Service, Stack

TRACE = (
    "org.apache.kafka.connect.errors.ConnectException: stopped\n\tat a.b(C.java:1)\nCaused by: wrong password\n\tat d"
)


class Answers(BaseHTTPRequestHandler):
    """Gives the JSON that is laid down for a path."""

    given: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        body = json.dumps(self.given.get(self.path)).encode()
        self.send_response(200 if self.path in self.given else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        names = ("connect", "flink-jobmanager", "kafka", "nessie", "s3")
        services = {n: Service(n, n, 1, url, tmp_path / f"{n}.log") for n in names}
        yield Stack(tmp_path, tmp_path, "supervisord", 0, names, services, {})
        server.shutdown()


def status(connector: str, *tasks: str) -> dict[str, Any]:
    listed = [{"id": i, "state": state, "trace": TRACE} for i, state in enumerate(tasks)]
    return {"status": {"connector": {"state": connector, "trace": TRACE}, "tasks": listed}}


def test_failed_connectors_and_tasks_are_named_with_their_cause(stack: Stack) -> None:
    Answers.given = {
        "/connectors?expand=status": {"good": status("RUNNING", "RUNNING"), "bad": status("RUNNING", "FAILED")}
    }
    ((what, detail, remedy),) = inspect.problems(stack, "connect")
    assert what == "connector bad"
    assert detail == "task 0 failed: wrong password"
    assert "connectors apply" in remedy
    Answers.given = {"/connectors?expand=status": {"bad": status("FAILED")}}
    assert [p[1].split(":")[0] for p in inspect.problems(stack, "connect")] == ["connector failed"]


def test_jobs_that_fail_are_named_unless_they_run_again(stack: Stack) -> None:
    jobs = [
        ("a", "RUNNING"),
        ("a", "FAILED"),
        ("b", "FAILED"),
        ("c", "RESTARTING"),
        ("d", "CANCELED"),
        ("e", "FINISHED"),
    ]
    listed = [{"jid": f"{i}", "name": n, "state": s} for i, (n, s) in enumerate(jobs)]
    Answers.given = {"/jobs/overview": {"jobs": listed}, "/connectors": {}}
    assert [p[0] for p in inspect.problems(stack, "flink-jobmanager")] == ["Flink job b", "Flink job c"]


def test_topics_that_no_lane_reads_are_named(stack: Stack) -> None:
    names = [
        ("bronze.p.public.a", "RUNNING"),
        ("bronze.p.public.b", "FINISHED"),
        ("bronze.p.transaction", "RESTARTING"),
    ]
    listed = [{"jid": f"{i}", "name": n, "state": s} for i, (n, s) in enumerate(names)]
    topics = ["p.public.a", "p.public.b", "p.transaction", "__debezium-heartbeat.p"]
    Answers.given = {
        "/jobs/overview": {"jobs": listed},
        "/connectors": ["one"],
        "/connectors/one/topics": {"one": {"topics": topics}},
    }
    found = [problem for problem in inspect.problems(stack, "flink-jobmanager") if problem[0].startswith("topic")]
    ((what, detail, remedy),) = found
    assert what == "topic p.public.b"
    assert "no Flink job bronze.p.public.b" in detail and "stream apply" in remedy


def test_what_cannot_be_looked_at_is_a_finding(stack: Stack) -> None:
    Answers.given = {}
    ((what, detail, _),) = inspect.problems(stack, "connect")
    assert what == "connect" and "404" in detail


def test_a_service_without_inspections_has_none(stack: Stack) -> None:
    assert list(inspect.problems(stack, "kafka")) == []


def test_what_a_service_needs_is_mended_first(stack: Stack) -> None:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    assert doctor._remedy(stack, keeper, "nessie", {"nessie", "s3"}) == "it needs s3: mend that first"
    (stack.home / "nessie.log").write_text("one\nthe reason\n")
    alone = doctor._remedy(stack, keeper, "nessie", {"nessie"})
    assert "./rtlake up" in alone and "the reason" in alone


def test_every_secret_that_the_playbook_makes_must_be_there(stack: Stack) -> None:
    project = Path(__file__).parents[2]
    names = yaml.safe_load((project / "ansible/group_vars/all/secrets.yml").read_text())["rtlake_secret_names"]
    (stack.home / "secrets").mkdir()
    for name in names:
        (stack.home / "secrets" / name).touch(mode=0o600)
    assert [(f.ok, f.detail) for f in doctor._secrets(stack, project)] == [(True, "all there")]
    for name in ("trino", "airflow_fernet"):
        (stack.home / "secrets" / name).unlink()
    assert [(f.ok, f.detail) for f in doctor._secrets(stack, project)] == [(False, "missing: airflow_fernet, trino")]
