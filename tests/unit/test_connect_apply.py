"""The deployment of connectors, step by step, with the services stood in for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import pytest

from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.streams import connect_apply
from airflow_provider_rtlake.streams.connect_apply import ConnectorDeployment, Prepared
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, Epoch
from airflow_provider_rtlake.streams.connect_plan import Plan
from airflow_provider_rtlake.streams.epochs import EPOCHS_TOPIC, Decision, Observed, read_epochs
from airflow_provider_rtlake.streams.model import Connector, Table
from airflow_provider_rtlake.streams.source_deploy import SlotState, unpublished

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
