"""The exporter without servers: what becomes of answers and faults, in Prometheus' own text format."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from airflow_provider_rtlake.clients.flink import Job, JobState
from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.kit.health import Health
from airflow_provider_rtlake.kit.stack import Service, Stack
from airflow_provider_rtlake.monitoring import probes
from airflow_provider_rtlake.monitoring.board import Board, Probe
from airflow_provider_rtlake.monitoring.catalogue import METRICS, Sample
from airflow_provider_rtlake.monitoring.history import Merged, figures, lacking
from airflow_provider_rtlake.monitoring.statsd import Packet, Statsd, parse, serve
from airflow_provider_rtlake.monitoring.topics import Backlog, waiting

DECLARATION = """
connector: c
topic_prefix: p
database: {connection: rtlake_source}
tables: {public.t: }
"""


def text(collector: Any) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def figures_of(exposition: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read back by Prometheus' own parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_labels_must_be_those_of_the_metric() -> None:
    with pytest.raises(ValueError, match="rtlake_connector_state"):
        Sample("rtlake_connector_state", 1, ("only one",))


def test_names_and_units_are_prometheus_style() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("rtlake_")
        assert not name.endswith("_total"), "the client adds it"
        assert metric.help
        assert not {"job", "instance"} & set(metric.labels), "Prometheus adds these: ours would become exported_job"


def test_every_metric_is_documented_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    rows = {
        f"| `{name}{'_total' if metric.kind == 'counter' else ''}` | {', '.join(metric.labels)} | {metric.help} |"
        for name, metric in METRICS.items()
    }
    assert rows <= set(page.splitlines())


def test_an_answer_becomes_text_that_prometheus_reads() -> None:
    samples = [
        Sample("rtlake_flink_job_restarts", 3, ("bronze.mydb.public.a",)),
        Sample("rtlake_lane_lag_messages", 7, ("bronze", 'public."My ""Table\\')),
    ]
    board = Board([Probe("lanes", lambda: samples, 15)], clock=Clock())
    assert board.ask(board.probes[0])
    shown = figures_of(text(board))
    assert shown["rtlake_flink_job_restarts_total", (("flink_job", "bronze.mydb.public.a"),)] == 3
    assert shown["rtlake_lane_lag_messages", (("lane", "bronze"), ("table", 'public."My ""Table\\'))] == 7
    assert shown["rtlake_probe_up", (("probe", "lanes"),)] == 1
    assert shown["rtlake_probe_timestamp_seconds", (("probe", "lanes"),)] == 1000


def test_a_service_that_is_gone_takes_its_figures_down_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    clock, answers = Clock(), iter([[Sample("rtlake_flink_taskmanagers", 1)]])

    def ask() -> list[Sample]:
        found = next(answers, None)
        if found is None:
            raise ServiceUnavailable("Flink", "nobody answers")
        return found

    board = Board(
        [Probe("flink", ask, 15), Probe("other", lambda: [Sample("rtlake_declarations_valid", 1)], 15)], clock
    )
    assert board.ask(board.probes[0]) and board.ask(board.probes[1])
    clock.now += 15
    assert not board.ask(board.probes[0])
    assert not board.ask(board.probes[0])
    shown = figures_of(text(board))
    assert ("rtlake_flink_taskmanagers", ()) not in shown
    assert shown["rtlake_probe_up", (("probe", "flink"),)] == 0
    assert shown["rtlake_probe_timestamp_seconds", (("probe", "flink"),)] == 1000
    assert shown["rtlake_declarations_valid", ()] == 1
    assert [r.getMessage() for r in caplog.records] == ["probe flink: ServiceUnavailable: Flink: nobody answers"], (
        "once"
    )


def test_an_error_in_the_middle_of_an_answer_shows_no_half_of_it() -> None:
    def ask() -> Iterator[Sample]:
        yield Sample("rtlake_flink_taskmanagers", 1)
        raise KeyError("slots-available")

    board = Board([Probe("flink", ask, 15)], clock=Clock())
    assert not board.ask(board.probes[0])
    assert figures_of(text(board))["rtlake_probe_up", (("probe", "flink"),)] == 0
    assert "rtlake_flink_taskmanagers" not in text(board)


def test_a_probe_that_hangs_is_not_shown_as_fresh() -> None:
    clock = Clock()
    board = Board([Probe("flink", lambda: [Sample("rtlake_flink_taskmanagers", 1)], 15)], clock)
    board.ask(board.probes[0])
    clock.now += 119
    assert "rtlake_flink_taskmanagers 1" in text(board)
    clock.now += 2
    assert "rtlake_flink_taskmanagers" not in text(board)
    assert figures_of(text(board))["rtlake_probe_up", (("probe", "flink"),)] == 0


def test_probes_run_side_by_side_and_stop() -> None:
    seen, stop = threading.Event(), threading.Event()

    def ask() -> list[Sample]:
        seen.set()
        return []

    board = Board([Probe("a", ask, 0.01), Probe("b", lambda: 1 / 0 and [], 0.01)])
    threads = board.run(stop)
    assert seen.wait(5)
    stop.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_it_is_served_over_http() -> None:
    registry = CollectorRegistry()
    board = Board([Probe("a", lambda: [Sample("rtlake_declarations_valid", 1)], 15)])
    board.ask(board.probes[0])
    registry.register(board)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        answer = httpx.get(f"http://127.0.0.1:{server.server_port}/metrics")
        assert answer.status_code == 200
        assert figures_of(answer.text)["rtlake_declarations_valid", ()] == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.mark.parametrize(
    ("end", "start", "read", "expected"),
    [
        (10, 0, 10, {}),
        (10, 0, 4, {("t", 0): 6}),
        (10, 0, None, {("t", 0): 10}),
        (10, 7, None, {("t", 0): 3}),  # what retention removed does not wait
        (10, 7, 4, {("t", 0): 3}),
        (4, 0, 9, {}),  # a topic that was made anew
    ],
)
def test_messages_that_wait(end: int, start: int, read: int | None, expected: dict[tuple[str, int], int]) -> None:
    given = {} if read is None else {("t", 0): read}
    assert waiting({("t", 0): end}, {("t", 0): start}, given) == expected


def test_age_of_a_backlog() -> None:
    assert Backlog().age(100) == 0
    assert Backlog(3, 40.0).age(100) == 60
    assert Backlog(3, 140.0).age(100) == 0, "clocks differ"


def test_the_newest_job_of_a_name_counts() -> None:
    jobs = [
        Job("1", "bronze.a", JobState.CANCELED, start_ms=5),
        Job("2", "bronze.a", JobState.RUNNING, start_ms=9),
        Job("3", "bronze.b", JobState.FAILED, start_ms=1),
    ]
    assert [(j.name, j.state) for j in probes.newest(jobs)] == [
        ("bronze.a", JobState.RUNNING),
        ("bronze.b", JobState.FAILED),
    ]


class FakeFlink:
    """Answers like a cluster that has lost a lane."""

    def overview(self) -> dict[str, int]:
        return {"taskmanagers": 1, "slots-available": 3}

    def jobs(self) -> list[Job]:
        return [Job("1", "bronze.p.public.t", JobState.CANCELED, start_ms=5)]


def test_a_declared_lane_without_a_job_at_work_is_absent(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(DECLARATION)
    found = list(probes.flink(FakeFlink(), probes.Declared(tmp_path)))  # type: ignore[arg-type]
    states = {sample.labels for sample in found if sample.name == "rtlake_flink_job_state"}
    assert ("bronze.p.public.t", "CANCELED") in states
    assert {("bronze.p.public.t", "ABSENT"), ("realtime.p.public.t", "ABSENT")} <= states


def test_a_declaration_with_a_mistake_is_told_and_the_last_good_state_stays(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(DECLARATION)
    declared = probes.Declared(tmp_path)
    assert [s.value for s in declared.ask()] == [1]
    file.write_text(DECLARATION + "tabels: {}\n")
    assert [s.value for s in declared.ask()] == [0]
    assert [stream.source for stream in declared.streams()] == ["public.t"]
    file.write_text(DECLARATION.replace("public.t", "public.u"))
    assert [s.value for s in declared.ask()] == [1]
    assert [stream.source for stream in declared.streams()] == ["public.u"]


def test_a_service_whose_secret_may_not_be_read_need_only_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as gone:
        ports = {"postgresql": there.getsockname()[1], "s3": gone.getsockname()[1], "kafka": 1}
        gone.close()
        services = {n: Service(n, n, port, "", Path("log")) for n, port in ports.items()}
        stack = Stack(Path("home"), Path("project"), "systemd", 0, tuple(ports), services, {})
        secret = Health(False, "UserError: secrets/x may not be read by you; run as the user who installed")
        answers = {"postgresql": secret, "s3": secret, "kafka": Health(False, "KafkaError: gone")}
        monkeypatch.setattr(probes.health, "check_all", lambda *_, **__: answers)
        shown = {sample.labels[0]: sample.value for sample in probes.services(stack)}
    assert shown == {"postgresql": 1, "s3": 0, "kafka": 0}


def test_every_service_but_monitorings_own_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"s3": "minio", "superset": "superset", "prometheus": "prometheus", "node-exporter": "exporters"}
    services = {n: Service(n, role, 1, "", Path("log")) for n, role in roles.items()}
    stack = Stack(Path("home"), Path("project"), "systemd", 0, ("s3proxy",), services, {})
    monkeypatch.setattr(probes.health, "check_all", lambda _, names, **__: {n: Health(True, "") for n in names})
    assert [sample.labels for sample in probes.services(stack)] == [("s3",), ("superset",)]


@pytest.mark.parametrize(
    ("config", "topic"),
    [
        ({"tableIndexConfig": {"streamConfigs": {"stream.kafka.topic.name": "a"}}}, "a"),
        ({"ingestionConfig": {"streamIngestionConfig": {"streamConfigMaps": [{"stream.kafka.topic.name": "b"}]}}}, "b"),
        ({"tableIndexConfig": {}}, None),
        ({}, None),
    ],
)
def test_the_topic_of_a_pinot_table(config: dict[str, Any], topic: str | None) -> None:
    assert probes.topic_of(config) == topic


COMMITS = [(1, 100.0, 5), (2, 200.0, 0), (3, 300.0, 7), (4, 400.0, 1)]


@pytest.mark.parametrize(
    ("merged", "expected"),
    [
        (None, (100.0, 300.0, 400.0)),
        (Merged(250.0, 2), (300.0, 400.0)),
        (Merged(350.0, 3), (400.0,)),
        (Merged(450.0, 4), ()),
        (Merged(350.0, 99), (400.0,)),  # the merged snapshot was removed by maintenance
    ],
)
def test_bronze_commits_that_a_history_lacks(merged: Merged | None, expected: tuple[float, ...]) -> None:
    assert lacking(COMMITS, merged) == expected


def test_figures_of_a_history() -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    merged = Merged(at, 1, {"seconds": 2.5, "changes": 10, "waiting": 1})
    shown = {sample.name: sample.value for sample in figures("t", merged, (at + 10,), at + 40)}
    assert shown == {
        "rtlake_history_age_seconds": 30,
        "rtlake_history_bronze_commits_waiting": 1,
        "rtlake_history_merged_timestamp_seconds": at,
        "rtlake_merge_duration_seconds": 2.5,
        "rtlake_merge_changes": 10,
        "rtlake_merge_waiting_changes": 1,
    }
    before = {sample.name: sample.value for sample in figures("t", None, (), at)}
    assert before == {"rtlake_history_age_seconds": 0, "rtlake_history_bronze_commits_waiting": 0}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("airflow.scheduler_heartbeat:1|c", Packet("scheduler_heartbeat", (), 1, "c")),
        (
            "airflow.ti.finish,state=success,dag_id=d:1|c|@0.5",
            Packet("ti.finish", (("dag_id", "d"), ("state", "success")), 1, "c", rate=0.5),
        ),
        (
            "airflow.pool.open_slots,pool_name=a:b:-2|g",
            Packet("pool.open_slots", (("pool_name", "a:b"),), -2, "g", True),
        ),
        ("airflow.task.duration:12.5|ms", Packet("task.duration", (), 12.5, "ms")),
        ("airflow.x:1|s", None),
        ("airflow.x:one|c", None),
        ("airflow.x:1|c|@0", None),
        ("rubbish", None),
        ("", None),
    ],
)
def test_statsd_lines(line: str, expected: Packet | None) -> None:
    assert parse(line) == expected


def test_airflows_packets_become_families() -> None:
    statsd = Statsd()
    server = serve(statsd, "127.0.0.1", 0)
    lines = [
        "airflow.ti.finish,dag_id=d,task_id=a,state=success:1|c",
        "airflow.ti.finish,dag_id=d,task_id=b,state=success:2|c",
        "airflow.pool.open_slots,pool_name=p:5|g",
        "airflow.pool.open_slots,pool_name=p:-2|g",
        "airflow.dagrun.duration.success,dag_id=d:1500|ms",
        "airflow.dag.d.a.duration:1|ms",  # the spelling that has a name for each task
    ]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for line in lines:
                sender.sendto(line.encode(), server.server_address)
        limit = threading.Event()
        for _ in range(500):
            if statsd.received == len(lines):
                break
            limit.wait(0.01)
    finally:
        server.shutdown()
        server.server_close()
    shown = figures_of(text(statsd))
    assert shown["airflow_ti_finish_total", (("dag_id", "d"), ("state", "success"))] == 3
    assert shown["airflow_pool_open_slots", (("pool_name", "p"),)] == 3
    assert shown["airflow_dagrun_duration_success_seconds_sum", (("dag_id", "d"),)] == 1.5
    assert shown["airflow_dagrun_duration_success_seconds_count", (("dag_id", "d"),)] == 1
    assert shown["rtlake_statsd_lines_total", ()] == 6
    assert shown["rtlake_statsd_lines_dropped_total", ()] == 1
