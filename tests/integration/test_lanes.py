"""The Flink lanes on the real stack: exact through kills, restarts, re-rendered jobs, poison and backfill.

The messages are Debezium's envelope, written straight to Kafka: what a connector delivers is another test's matter.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trino
from confluent_kafka import Producer

from airflow_provider_rtlake.clients.flink import FlinkClient, JobState, pauses
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.commands.stream import settings_of
from airflow_provider_rtlake.exceptions import JobFailed, ServiceUnavailable, StatementFailed
from airflow_provider_rtlake.flink_sql.bronze import bronze_job
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import literal
from airflow_provider_rtlake.flink_sql.script import script_job
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.backfill import backfill
from airflow_provider_rtlake.lanes.bronze import BATCH
from airflow_provider_rtlake.lanes.dead_letters import dead_letters, dismiss, replay
from airflow_provider_rtlake.lanes.jobs import Applied, Restore, apply_job, latest_restore, stop_job
from airflow_provider_rtlake.lanes.lanes import Lane, LaneRunner, lanes_of
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import Column, TableSchema

pytestmark = pytest.mark.integration
WAIT = 300.0  # seconds; a machine with two cores may be busy

SCHEMA = TableSchema(
    "public",
    "orders",
    (
        Column("id", "bigint", nullable=False),
        Column('na"me', "text", toastable=True),
        Column("price", "numeric", 10, 2),
        Column("made", "timestamp with time zone"),
    ),
    ("id",),
    "full",
)
MORE = dataclasses.replace(SCHEMA, columns=(*SCHEMA.columns, Column("note", "text", toastable=True)))
MADE, NO_TIME = "2026-11-21T05:11:12.123456Z", "not-a-timestamp-at-all-xyz"
POISON = [
    "not json",
    '{"a":1}',
    '{"schema":{"type":"struct"},"payload":{"before":null}}',
    '{"schema":{"type":"struct"},"payload":{"op":"u","source":{"lsn":1}}}',
]
# Bronze takes it, the real-time lane does not: its row is not where a row must be
NO_CHANGE = '{"schema":{"type":"struct"},"payload":{"op":"u","source":{"lsn":1},"x":{"after":{"id":1}}}}'


def envelope(op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, lsn: int) -> str:
    """A message value as Debezium's JsonConverter writes it."""
    source = {
        "ts_ms": 1_790_000_000_000 + lsn,
        "snapshot": "false",
        "db": "rtsales",
        "sequence": f'["{lsn - 1}","{lsn}"]',
        "schema": "public",
        "table": "orders",
        "txId": lsn,
        "lsn": lsn,
    }
    payload = {"before": before, "after": after, "source": source, "op": op, "ts_ms": 1_790_000_000_001 + lsn}
    schema = {"type": "struct", "fields": [{"type": "struct", "field": "before"}], "optional": False}
    return f'{{"schema":{_dumps(schema)},"payload":{_dumps(payload)}}}'


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Source(threading.Thread):
    """Inserts, updates and deletes at a steady rate, with poison among them."""

    def __init__(self, bootstrap: str, topic: str, rate: float) -> None:
        super().__init__()
        self.topic = topic
        self.rate = rate
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all"})
        self.ended = threading.Event()
        self.sent = self.poison = 0
        self.with_note = False
        self.rows: dict[int, dict[str, Any]] = {}
        self.lsn = 1000

    def send(self, key: int, value: str) -> None:
        """Send one message."""
        headers = [("rtlake.epoch", b'"1:77:1"'), ("rtlake.unavailable", b"__absent__")]
        self.producer.produce(self.topic, key=_dumps({"id": key}), value=value, headers=headers)
        self.producer.poll(0)

    def change(self, number: int) -> None:
        """One change of one row."""
        key, self.lsn = number // 3 + (10**9 if number % 7 == 0 else 0), self.lsn + 1
        made = NO_TIME if number % 13 == 4 else MADE  # as after ALTER COLUMN made TYPE text
        row = {"id": key, 'na"me': f"n'{number} 😀", "price": f"{number}.50", "made": made}
        if self.with_note:
            row["note"] = f"note {number}"
        old = self.rows.get(key)
        if old is not None and number % 5 == 0:
            self.send(key, envelope("d", old, None, self.lsn))
            del self.rows[key]
        else:
            self.send(key, envelope("c" if old is None else "u", old, row, self.lsn))
            self.rows[key] = row
        self.sent += 1

    def run(self) -> None:
        """Until :attr:`ended`."""
        started, number = time.monotonic(), 0
        while not self.ended.is_set():
            self.change(number)
            if number % 101 == 7:
                self.send(number, POISON[number % len(POISON)])
                self.poison += 1
            number += 1
            self.ended.wait(max(0.0, started + number / self.rate - time.monotonic()))
        assert self.producer.flush(60) == 0


@dataclasses.dataclass
class Bench:
    """A table of the tests with all that works on it."""

    stack: Stack
    client: FlinkClient
    kafka: KafkaClient
    settings: LaneSettings
    connector: Connector

    @property
    def stream(self) -> Stream:
        """The table."""
        return self.connector.streams[0]

    @property
    def runner(self) -> LaneRunner:
        """Of its lanes."""
        return LaneRunner(self.client, self.settings, self.kafka)

    def lanes(self, schema: TableSchema = SCHEMA) -> list[Lane]:
        """Its lanes, without the connector's transactions."""
        found = lanes_of([self.connector], {self.stream.source: schema}, self.settings)
        return [lane for lane in found if lane.kind != "transactions"]

    def apply(self, schema: TableSchema = SCHEMA) -> list[str]:
        """Let them run; what was done to each."""
        return [self.runner.apply(lane, timeout=WAIT).action for lane in self.lanes(schema)]

    def bronze(self) -> tuple[int, int]:
        """Rows of the bronze table, and distinct places in the topic."""
        given = self.stack.connection("rtlake_trino")
        with trino.dbapi.connect(host=given.host, port=given.port, user="rtlake-tests") as connection:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT count(*), count(DISTINCT (topic_partition, topic_offset)) "
                f"FROM nessie.{self.stream.bronze_table}"
            )
            rows, places = cursor.fetchall()[0]
            return int(rows), int(places)

    def wait_for_bronze(self, rows: int) -> None:
        """Until it has at least so many rows."""
        found = (0, 0)
        for _ in pauses(WAIT):
            found = self.bronze()
            if found[0] >= rows:
                break
        assert found == (rows, rows)

    def history(self) -> dict[bytes, dict[str, Any]]:
        """The history topic as an upsert table sees it."""
        messages = self.kafka.read_all(str(self.stream.history_topic))
        return {key: json.loads(value) for key, value, _ in messages if key and value}

    def wait_for_changes(self, number: int) -> None:
        """Until the lane has sent at least so many."""
        for _ in pauses(WAIT):
            if len(self.history()) >= number:
                return
        pytest.fail(f"fewer than {number} changes")

    def wait_for_history(self, number: int) -> dict[bytes, dict[str, Any]]:
        """Until it has at least so many changes."""
        found: dict[bytes, dict[str, Any]] = {}
        for _ in pauses(WAIT):
            found = self.history()
            if len(found) >= number:
                break
        assert len(found) == number
        return found

    def current(self) -> dict[bytes, dict[str, Any]]:
        """The current topic as an upsert table sees it: the greatest position of a key wins."""
        last: dict[bytes, dict[str, Any]] = {}
        for key, value, _ in self.kafka.read_all(str(self.stream.current_topic)):
            if key and value:
                row = json.loads(value)
                if key not in last or row["position"] >= last[key]["position"]:
                    last[key] = row
        return last

    def live(self) -> dict[int, tuple[Any, ...]]:
        """The rows that are not deleted."""
        name = next(field for field in next(iter(self.current().values())) if field.startswith("na_me"))
        return {
            row["id"]: (row[name], row["price"], row["made"])
            for row in self.current().values()
            if not row["is_deleted"]
        }

    def kill(self, main_class: str) -> None:
        """Kill -9 of one of Flink's processes; the supervisor brings it back."""
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if main_class in line and any(str(self.stack.home) in word for word in line):
                process.send_signal(signal.SIGKILL)
                process.wait(30)
                return
        pytest.fail(f"no process runs {main_class}")

    def threads(self) -> list[str]:
        """The operators of each thread of the bronze job."""
        names = {lane.job.name for lane in self.lanes() if lane.job.name.startswith("bronze.")}
        jobs = [job for job in self.client.jobs() if job.name in names and job.all_tasks_running]
        return [vertex["name"] for job in jobs for vertex in self.client.vertices(job.job_id)]

    def wait_for_tasks(self) -> None:
        """Until every lane's tasks run (again)."""
        names = {lane.job.name for lane in self.lanes()}
        for _ in pauses(WAIT):
            try:
                running = {job.name for job in self.client.jobs() if job.all_tasks_running}
            except ServiceUnavailable:  # the JobManager is coming back
                continue
            if names <= running:
                return
        pytest.fail(f"not running again: {names}")


def filled_in(messages: dict[bytes, dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
    """Messages without their nulls: those sent before a column was added have no field for it."""
    return {key: {name: value for name, value in row.items() if value is not None} for key, row in messages.items()}


def expected(rows: dict[int, dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """What :meth:`Bench.live` must show."""
    millis = {MADE: 1_795_237_872_123}  # a text that is no time is null, and ends nothing
    return {key: (row['na"me'], float(row["price"]), millis.get(row["made"])) for key, row in rows.items()}


@pytest.fixture(scope="module")
def bench(stack: Stack) -> Iterator[Bench]:
    prefix = f"itflink{int(time.time())}"
    connector = Connector.model_validate(
        {
            "connector": prefix,
            "topic_prefix": prefix,
            "tables": {
                "public.orders": {
                    "realtime": {"current_topic": f"{prefix}_current", "history_topic": f"{prefix}_history"}
                }
            },
        }
    )
    given = stack.connection("rtlake_flink")
    with FlinkClient(given.url, str(given.extra["gateway_url"])) as client:
        kafka = KafkaClient({"bootstrap.servers": stack.kafka_bootstrap})
        made = Bench(stack, client, kafka, settings_of(stack), connector)
        made.runner.make_topics([connector])
        yield made
        for lane in made.lanes():
            made.runner.stop(lane)
        stream = made.stream
        topics = [stream.topic, stream.current_topic, stream.history_topic, connector.dead_letter_topic]
        kafka.delete([str(topic) for topic in [*topics, connector.transaction_topic]])
        trino_at = stack.connection("rtlake_trino")
        with trino.dbapi.connect(host=trino_at.host, port=trino_at.port, user="rtlake-tests") as connection:
            connection.cursor().execute(f"DROP TABLE IF EXISTS nessie.{stream.bronze_table}").fetchall()


@pytest.mark.timeout(1500)
def test_lanes_are_exact_through_kills_and_a_column_added_under_load(bench: Bench) -> None:
    assert bench.apply() == ["start", "start"]
    assert bench.apply() == ["keep", "keep"]
    assert "IcebergFilesCommitter" in bench.threads(), "a slow commit would hold up the reading of messages"
    source = Source(bench.stack.kafka_bootstrap, bench.stream.topic, rate=100)
    source.start()
    try:
        bench.wait_for_changes(200)
        bench.kill("org.apache.flink.runtime.taskexecutor.TaskManagerRunner")
        bench.wait_for_tasks()
        source.with_note = True
        bench.settings = dataclasses.replace(bench.settings, bronze_interval_ms=2000)
        assert bench.apply(MORE) == ["replace", "replace"]
        assert bench.apply(MORE) == ["keep", "keep"]
        bench.kill("org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        bench.wait_for_tasks()
    finally:
        source.ended.set()
        source.join()
    bench.wait_for_bronze(source.sent)
    history = bench.wait_for_history(source.sent)
    assert bench.live() == expected(source.rows)
    assert any(row.get("after_note") for row in history.values())  # those before had no such field
    letters = dead_letters(bench.kafka, bench.connector)
    assert len(letters) == source.poison
    assert {letter.reason for letter in letters} <= {"not JSON", "no schema and payload", "no op", "no after"}


@pytest.mark.timeout(900)
def test_backfill_gives_the_same_answers_and_tells_of_truncates(bench: Bench) -> None:
    bench.apply(MORE)
    source = Source(bench.stack.kafka_bootstrap, bench.stream.topic, rate=100)
    source.lsn = 10**8
    before = len(bench.history())
    for number in range(300, 340):
        source.change(number)
    source.send(-1, envelope("t", None, None, source.lsn + 1))
    source.lsn += 1
    source.rows.clear()
    source.change(3)
    source.send(3, NO_CHANGE)
    assert source.producer.flush(60) == 0
    history = filled_in(bench.wait_for_history(before + source.sent + 1))
    for topic in (bench.stream.history_topic, bench.stream.current_topic):
        bench.kafka.delete([str(topic)])
    for _ in pauses(60):
        if not {str(bench.stream.history_topic), str(bench.stream.current_topic)} & set(bench.kafka.topics()):
            break
    lane = next(lane for lane in bench.lanes(MORE) if lane.kind == "realtime")
    bench.wait_for_bronze(len(history) + 1)
    filled = backfill(bench.runner, bench.stream, lane, timeout=WAIT)
    assert filled.messages >= len(history)  # the copy is at least once, and what came twice has one event id
    refilled = filled_in(bench.history())
    assert refilled.keys() == history.keys()
    # A lane does not send a column that was added after it began; the refill brings the values since then.
    added = {"after_note", "before_note"}
    known = {
        key: {n: v for n, v in row.items() if n not in added or n in history[key]} for key, row in refilled.items()
    }
    assert known == history
    assert bench.live() == expected(source.rows)  # the truncate removed all but the row that came after it
    assert filled.removed > 0


@pytest.mark.timeout(600)
def test_a_dead_letter_is_corrected_and_replayed(bench: Bench) -> None:
    bench.apply(MORE)
    source = Source(bench.stack.kafka_bootstrap, bench.stream.topic, rate=100)
    for text in POISON:
        source.send(5, text)
    source.change(1)
    assert source.producer.flush(60) == 0
    known = len(dead_letters(bench.kafka, bench.connector))
    for _ in pauses(WAIT):
        if len(dead_letters(bench.kafka, bench.connector)) >= max(known, len(POISON)):
            break
    rows = sum(end for _, end in bench.kafka.end_offsets(bench.stream.topic).values()) - len(
        dead_letters(bench.kafka, bench.connector)
    )
    bench.wait_for_bronze(rows)
    first, second, *_ = dead_letters(bench.kafka, bench.connector)
    replay(bench.kafka, bench.connector, first, value=envelope("c", None, {"id": 5}, 10**9).encode())
    dismiss(bench.kafka, bench.connector, second, "a test's poison")
    bench.wait_for_bronze(rows + 1)
    left = {letter.origin for letter in dead_letters(bench.kafka, bench.connector)}
    assert first.origin not in left
    assert second.origin not in left
    everything = dead_letters(bench.kafka, bench.connector, everything=True)
    assert {letter.origin: letter.status for letter in everything}[second.origin] == "dismissed"


def test_an_envelope_is_cut_where_its_schema_ends(bench: Bench) -> None:
    """Also where the payload itself holds the text that ends the schema, and where it does so at its ends."""
    schema = '{"type":"struct","fields":[{"type":"int64","field":"schema"}]}'
    payloads = [
        '{"a":1.10,"b":"é"}',
        '{"x":{"p":{"y":1},"payload":{"z":"},\\"payload\\":"}},"op":"c"}',
        '{"x":{"p":{},"payload":{"q":{},"payload":{}}}}',
    ]
    values = [f'{{"schema":{schema},"payload":{payload}}}' for payload in payloads]
    rows = ", ".join(f"(CAST({literal(value)} AS STRING))" for value in [*values, *POISON[:2]])
    job = bronze_job(bench.stream, bench.settings)
    with bench.client.session(BATCH) as session:
        session.execute(f"CREATE TEMPORARY VIEW `topic` AS SELECT * FROM (VALUES {rows}) AS `t` (`value`)")
        for view in job.views[:2]:
            session.execute(view)
        found = session.execute("SELECT `value`, `value_schema`, `payload` FROM `split`").rows
    expected = {value: (schema, payload) for value, payload in zip(values, payloads, strict=True)}
    assert {row[0]: row[1:] for row in found} == expected | dict.fromkeys(POISON[:2], (None, None))


def test_a_refused_statement_tells_its_cause(bench: Bench) -> None:
    with bench.client.session() as session, pytest.raises(StatementFailed, match="Column 'nope' not found") as caught:
        session.execute("SELECT nope FROM (VALUES (1)) AS t (a)")
    assert "\tat " not in str(caught.value)


def test_state_that_no_operator_takes_is_refused_and_can_be_left_out(bench: Bench) -> None:
    """What ``FlinkRunSqlOperator(streaming=True)`` meets where changed statements have other operators."""
    name = f"it state {time.time_ns()}"

    def job(query: str) -> RenderedJob:
        numbers = "'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '1000000'"
        script = f"""CREATE TABLE a (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '100', {numbers});
            CREATE TABLE b (n BIGINT) WITH ('connector' = 'blackhole'); INSERT INTO b {query}"""
        return script_job(name, script, {"execution.runtime-mode": "streaming", "parallelism.default": "1"})

    def run(query: str, *, drop_unclaimed: bool = False) -> Applied:
        def restore(path: str | None) -> Restore:
            return Restore(path or latest_restore(bench.client, name), drop_unclaimed=drop_unclaimed)

        return apply_job(bench.client, job(query), restore, timeout=WAIT)

    try:
        counting = run("SELECT COUNT(*) FROM a")
        time.sleep(3)  # until there is something to count
        with pytest.raises((JobFailed, StatementFailed), match="Cannot map checkpoint/savepoint state"):
            run("SELECT n FROM a")
        savepoint = latest_restore(bench.client, name)
        assert savepoint and bench.client.job(str(counting.job_id)).state is JobState.FINISHED
        assert run("SELECT n FROM a", drop_unclaimed=True).started_from == savepoint
    finally:
        for entry in bench.client.jobs():
            if entry.name == name and not entry.state.is_terminal:
                stop_job(bench.client, entry.job_id, timeout=WAIT)


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a Java compiler to make a jar")
def test_a_jar_is_uploaded_and_run(bench: Bench, tmp_path: Path) -> None:
    code = tmp_path / "Counts.java"
    code.write_text(
        "import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;\n"
        "public class Counts { public static void main(String[] a) throws Exception {\n"
        " StreamExecutionEnvironment e = StreamExecutionEnvironment.getExecutionEnvironment();\n"
        " e.fromSequence(1, 10).print(); e.execute(a[0]); } }\n"
    )
    flink = next(bench.stack.home.glob("opt/flink-*"))
    jars = os.pathsep.join(str(path) for path in flink.rglob("flink-dist*.jar"))
    subprocess.run(["javac", "-cp", jars, "-d", str(tmp_path), str(code)], check=True)
    jar = tmp_path / "counts.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Counts\n")
        archive.write(tmp_path / "Counts.class", "Counts.class")
    jar_id = bench.client.upload_jar(jar)
    try:
        job_id = bench.client.run_jar(jar_id, arguments=["it jar"])
        job = bench.client.wait_until_finished(job_id, timeout=WAIT)
        assert job.name == "it jar"
    finally:
        bench.client.delete_jar(jar_id)
    assert jar_id not in bench.client.jars()
    bench.client.delete_jar(jar_id)  # deleting what is gone is no error
