"""The deployment of connectors, step by step, with the services stood in for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from airflow_provider_rtlake.commands import connectors as commands
from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.streams import connect_apply
from airflow_provider_rtlake.streams.connect_apply import ConnectorDeployment, Prepared
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, Epoch
from airflow_provider_rtlake.streams.connect_plan import Plan
from airflow_provider_rtlake.streams.epochs import EPOCHS_TOPIC, Decision, Observed, read_epochs
from airflow_provider_rtlake.streams.load import Declarations
from airflow_provider_rtlake.streams.model import Connector, Table
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from airflow_provider_rtlake.streams.source import SourceTable
from airflow_provider_rtlake.streams.source_access import SourceAccess
from airflow_provider_rtlake.streams.source_deploy import SlotState, unpublished, without_identity

CONNECTOR = Connector(
    connector="sales", topic_prefix="shop", tables={f"public.{name}": Table() for name in ("orders", "lines")}
)
ORDERS, LINES = CONNECTOR.streams


class Kafka:
    """Keeps what is sent."""

    bootstrap_servers = "kafka:9092"

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[bytes, bytes, dict[str, str]]]] = {}

    def ensure(self, topics: Any) -> list[str]:
        return []

    def send(self, topic: str, key: bytes, value: bytes, *, headers: dict[str, str] | None = None) -> None:
        self.sent.setdefault(topic, []).append((key, value, headers or {}))

    def read_all(self, topic: str) -> Iterator[tuple[bytes, bytes, dict[str, str]]]:
        yield from self.sent.get(topic, [])


class Source:
    """Stands for the way to the source, and answers every query with the same rows."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows

    def connect(self) -> Any:
        return nullcontext(self)

    def execute(self, *_: Any) -> Any:
        return self

    def fetchall(self) -> list[dict[str, Any]]:
        return list(self.rows)


def deployment(kafka: Kafka, **given: Any) -> ConnectorDeployment:
    fields: dict[str, Any] = {"connect": None, "access": lambda conn_id: Source()}
    return ConnectorDeployment(kafka=cast(Any, kafka), **{**fields, **given})


def scanned(kafka: Kafka, table: str, epoch: int) -> None:
    """Debezium tells that it has read a table."""
    more = {"status": "SUCCEEDED", "scanned_collection": table, "total_rows_scanned": "1"}
    told = {"aggregate_type": "Initial Snapshot", "type": "TABLE_SCAN_COMPLETED", "additional_data": more}
    header = {EPOCH_HEADER: f'"{epoch}:771:1"'}
    kafka.send(CONNECTOR.notification_topic, b"", json.dumps(told).encode(), headers=header)


def test_a_table_comes_back_that_any_epoch_has_read_and_a_new_one_does_not() -> None:
    kafka = Kafka()
    left_out = unpublished(cast(Any, Source({"schemaname": "public", "tablename": "lines"})), CONNECTOR)
    assert left_out == [ORDERS]
    assert deployment(kafka)._returned(left_out) == ()
    scanned(kafka, "public.lines", 1)
    assert deployment(kafka)._returned(left_out) == ()
    scanned(kafka, "public.orders", 1)  # and epoch 2 began while the table was not declared
    scanned(kafka, "public.lines", 2)
    assert deployment(kafka)._returned(left_out) == ("public.orders",)


def test_a_partition_without_its_identity_is_named() -> None:
    schema = TableSchema("public", "orders", (Column("id", "integer"),), ("id",), replica_identity="default")
    tables = {
        ORDERS.source: SourceTable(schema, None, True),
        LINES.source: SourceTable(replace(schema, name="lines", replica_identity="full"), None, True),
    }
    source = cast(Any, Source({"name": "public.orders_2027"}))
    assert without_identity(source, CONNECTOR, tables) == ["public.orders_2027"]
    quiet = {name: Table(realtime=False) for name in CONNECTOR.tables}
    assert without_identity(source, CONNECTOR.model_copy(update={"tables": quiet}), tables) == []


def test_status_is_no_success_while_an_identity_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"connector": "sales", "state": "RUNNING", "tasks": [], "running": True, "error": "", "epoch": "1:771:1"}
    state |= {"slot": {"name": "s", "exists": True, "active": True, "lost": False, "lag_bytes": 0}}
    state |= {"snapshot_missing": [], "identity_missing": ["public.orders_2027"]}
    found = cast(Any, SimpleNamespace(status=lambda connectors: [state]))
    monkeypatch.setattr(commands, "_deployment", lambda *_, **__: nullcontext(found))
    answer = CliRunner().invoke(commands.app, ["status"])
    assert answer.exit_code == 1
    assert "sales: without REPLICA IDENTITY FULL: public.orders_2027; apply sets it" in answer.output
    state["identity_missing"] = []
    assert CliRunner().invoke(commands.app, ["status"]).exit_code == 0


def test_a_new_epoch_is_noted_before_its_reason_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> None:
        raise ServiceUnavailable("PostgreSQL", "the publication was set, then the deployment was cut")

    monkeypatch.setattr(connect_apply, "apply_source", cut)
    kafka = Kafka()
    observed = Observed({}, True, "", SlotState("771", 1, True), 3, True, (ORDERS.source,))
    decision = Decision(Epoch(4, "771", 1), "changes were not published for a while")
    one = Prepared(CONNECTOR, cast(Any, Source()), {}, observed, decision, {}, [], Plan("sales", "unchanged"))
    with pytest.raises(ServiceUnavailable):
        deployment(kafka)._apply(one)
    assert read_epochs(cast(Any, kafka)) == {"sales": 4}
    assert list(kafka.sent) == [EPOCHS_TOPIC.name]


class Connect:
    """One connector, which no declaration names."""

    def __init__(self, **config: str) -> None:
        self.running: dict[str, dict[str, str]] = {"left": config}

    def connectors(self) -> list[str]:
        return list(self.running)

    def config(self, name: str) -> dict[str, str] | None:
        return self.running.get(name)

    def stop(self, *_: Any, **__: Any) -> None:
        pass

    wait = delete_offsets = stop

    def delete(self, name: str) -> None:
        del self.running[name]


LEFT = {
    "transforms.epoch.value.literal": '"5:771:1"',
    "database.hostname": "db",
    "database.port": "5432",
    "database.dbname": "crm",
    "slot.name": "rtlake_left",
    "publication.name": "left_pub",
}
DECLARED = Declarations((CONNECTOR,), ())


@pytest.mark.parametrize(
    ("config", "slots", "publication"),
    [
        ({}, ["rtlake_left"], True),
        ({"slot.name": CONNECTOR.slot_name}, [], True),  # the connector was renamed, and its slot kept
        ({"publication.name": CONNECTOR.publication}, ["rtlake_left"], False),
        ({"database.hostname": "elsewhere"}, [], False),
        ({"transforms.epoch.value.literal": "somebody else's"}, [], False),
    ],
)
def test_an_undeclared_connector_is_deleted_by_its_name(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, str], slots: list[str], publication: bool
) -> None:
    databases: list[str] = []
    monkeypatch.setattr(SourceAccess, "connect", lambda self: nullcontext(databases.append(self.dbname)))
    monkeypatch.setattr(connect_apply, "drop_slot", lambda connection, slot: True)
    monkeypatch.setattr(connect_apply, "drop_publication", lambda connection, name: True)
    access = SourceAccess(host="db", port=5432, dbname="sales", user="u", password="p")
    connect = Connect(**{**LEFT, **config})
    kafka = Kafka()
    one = deployment(kafka, connect=connect, access=lambda conn_id: access)
    result = one.delete_named(DECLARED, "left")
    assert (result["deleted"], result["slots"], result["publication"]) == (True, slots, publication)
    assert connect.running == {} and set(databases) <= {"crm"}
    assert read_epochs(cast(Any, kafka)) == ({"left": 5} if "transforms.epoch.value.literal" not in config else {})


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match="'lefd', nor does Kafka Connect; there are: left, sales"):
        deployment(Kafka(), connect=Connect()).delete_named(DECLARED, "lefd")


class LosesTheFirstSignal(Kafka):
    """Debezium, whose first signal is taken by a task that is being stopped."""

    def send(self, topic: str, key: bytes, value: bytes, *, headers: dict[str, str] | None = None) -> None:
        super().send(topic, key, value, headers=headers)
        if topic == CONNECTOR.signal_topic and len(self.sent[topic]) == 2:
            told = json.dumps({"aggregate_type": "Initial Snapshot", "type": "STARTED"}).encode()
            super().send(CONNECTOR.notification_topic, b"", told, headers={EPOCH_HEADER: '"1:771:1"'})
            scanned(self, "public.lines", 1)


def test_a_snapshot_whose_signal_was_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_HEARD_SECONDS", "_POLL_SECONDS"):
        monkeypatch.setattr(connect_apply, name, 0.0)
    monkeypatch.setattr(ConnectorDeployment, "_wait_streaming", lambda *_: None)
    monkeypatch.setattr(ConnectorDeployment, "_nudge", lambda *_: None)
    kafka, said = LosesTheFirstSignal(), list[str]()
    scanned(kafka, "public.orders", 1)
    done = json.dumps({"aggregate_type": "Initial Snapshot", "type": "COMPLETED"}).encode()
    kafka.send(CONNECTOR.notification_topic, b"", done, headers={EPOCH_HEADER: '"1:771:1"'})
    one = SimpleNamespace(connector=CONNECTOR, decision=Decision(Epoch.parse("1:771:1"), ""))
    connect = SimpleNamespace(status=lambda _: None)
    added = deployment(kafka, connect=connect, say=said.append, snapshot_limit=30)._read_added_tables(cast(Any, one))
    assert added == ["public.lines"]
    assert len(kafka.sent[CONNECTOR.signal_topic]) == 2 and any("asking again" in text for text in said)
