"""The erasure as a task: where it goes for the source, and that what remains fails it for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook
from airflow.sdk import Connection

from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.operators.scd2_erase import IcebergScd2EraseOperator
from airflow_provider_rtlake.scd2 import erasure
from airflow_provider_rtlake.scd2.erase import EraseRequest
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.source_access import SourceAccess

SECRET = "a text that only this row had"
KEY = '{"id":7}'


def stream(**connector: Any) -> Stream:
    declared = {"connector": "c", "topic_prefix": "mydb", "tables": {"public.sales": {}}, **connector}
    return Connector.model_validate(declared).streams[0]


class World:
    """The source, Kafka and Spark, and what was done to them in which order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.reached: list[SourceAccess] = []
        self.living = False
        self.error: Exception | None = None
        self.topics: dict[str, list[bytes]] = {stream().topic: [b"another"]}
        self.keys: tuple[str, ...] = ()

    # --- the source

    @contextmanager
    def connect(self, access: SourceAccess) -> Iterator[World]:
        if self.error:
            raise self.error
        self.reached.append(access)
        yield self

    def execute(self, query: Any, *_: Any) -> Any:
        if not isinstance(query, str):
            self.done.append("look for the row")
            return SimpleNamespace(fetchone=lambda: {"?column?": 1} if self.living else None)
        if "pg_current_wal_lsn" in query:
            return SimpleNamespace(fetchone=lambda: {"now": "0/1"})
        self.done.append("await the slot")
        return SimpleNamespace(fetchone=lambda: {"passed": True})

    # --- Spark

    def submit(self, request: EraseRequest, home: Path) -> dict[str, Any]:
        self.done.append("erase")
        self.keys = request.keys
        return {
            "rows": 3,
            "files": 2,
            "offsets": {stream().topic: {"0": 5}},
            "searched": {},
            "remains": {},
            "message_keys": [KEY],
            "values": [SECRET],
        }

    # --- Kafka

    def kafka(self, conn_id: str) -> Any:
        return SimpleNamespace(
            behind_tombstones=lambda topic, partition, offset: offset + 1,
            delete_records=lambda topic, offsets: self.done.append(f"delete before {offsets[0]}"),
            topics=lambda: dict.fromkeys(self.topics, 1),
            read_all=lambda topic: ((b"k", value, {}) for value in self.topics[topic]),
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()

    def connection(conn_id: str) -> Connection:
        extra = '{"sslmode": "require"}'
        return Connection(conn_id=conn_id, conn_type="postgres", host=conn_id, login="u", schema="shop", extra=extra)

    monkeypatch.setattr(BaseHook, "get_connection", connection)
    monkeypatch.setattr("airflow_provider_rtlake.hooks.kafka.kafka_client", made.kafka)
    monkeypatch.setattr(SourceAccess, "connect", lambda access: made.connect(access))
    monkeypatch.setattr(erasure, "submit", made.submit)
    monkeypatch.setattr(erasure, "await_realtime", lambda *_: None)
    monkeypatch.setenv("RTLAKE_HOME", str(tmp_path))
    return made


def erase(one: Stream | None = None, **given: Any) -> dict[str, Any]:
    operator = IcebergScd2EraseOperator(task_id="t", stream=one or stream(), keys=['{"id": 7}'], **given)
    context: Any = {}
    return operator.execute(context)


def test_it_erases_searches_and_reports(world: World) -> None:
    report = erase()
    assert world.done == ["look for the row", "await the slot", "erase", "delete before 6"]
    assert world.keys == (KEY,)
    assert (report["rows"], report["files"], report["remains"]) == (3, 2, {})
    assert report["searched"] == {f"topic {stream().topic}": 1, "backups": 0}
    assert SECRET not in str(report), "the report goes to XCom"


@pytest.mark.parametrize(
    ("connector", "given", "host", "database"),
    [
        ({}, {}, "rtlake_source", "shop"),
        ({"database": {"connection": "crm", "name": "crm_db"}}, {}, "crm", "crm_db"),
        ({"database": {"connection": "crm"}}, {"source_conn_id": "other"}, "other", "shop"),
    ],
)
def test_the_row_is_looked_for_where_the_declaration_says(
    world: World, connector: dict[str, Any], given: dict[str, Any], host: str, database: str
) -> None:
    erase(stream(**connector), **given)
    (access,) = world.reached
    assert (access.host, access.port, access.dbname, access.sslmode) == (host, 5432, database, "require")


def remaining_in_a_topic(world: World, home: Path) -> str:
    world.topics[stream().topic].append(SECRET.encode())
    return f"topic {stream().topic}"


def remaining_in_a_backup(world: World, home: Path) -> str:
    (home / "backups" / "monday").mkdir(parents=True)
    return "backups"


@pytest.mark.parametrize("leave", [remaining_in_a_topic, remaining_in_a_backup])
def test_what_remains_fails_the_task_for_good(
    world: World, tmp_path: Path, leave: Callable[[World, Path], str]
) -> None:
    place = leave(world, tmp_path)
    with pytest.raises(AirflowFailException, match="something remains") as raised:
        erase()
    assert place in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_row_that_is_at_the_source_fails_it_before_anything_is_erased(world: World) -> None:
    world.living = True
    with pytest.raises(AirflowFailException, match="delete it there first"):
        erase()
    assert world.done == ["look for the row"]


def test_a_source_that_does_not_answer_is_worth_a_retry(world: World) -> None:
    world.error = ServiceUnavailable("PostgreSQL", "no answer")
    with pytest.raises(ServiceUnavailable):
        erase()
    assert world.done == []


def test_connections_keys_and_home_are_templated() -> None:
    templated = {"keys", "source_conn_id", "kafka_conn_id", "home"}
    assert templated <= set(IcebergScd2EraseOperator.template_fields)
