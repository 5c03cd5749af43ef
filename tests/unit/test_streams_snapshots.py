"""What Debezium tells of its snapshots is read from a topic that is kept for ever, whatever else is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, Epoch
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.snapshots import read_progress, whole_snapshot

Message = tuple[bytes | None, bytes | None, dict[str, str]]
CONNECTOR = Connector.model_validate({"connector": "c", "topic_prefix": "p", "tables": {"public.t": {}}})


class Topic(KafkaClient):
    """A topic with these messages."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages

    def read_all(self, topic: str) -> Iterator[Message]:
        assert topic == "p.notifications"
        return iter(self.messages)


def message(value: bytes | None, epoch: str | None = '"2:77:1"') -> Message:
    return b"p", value, {} if epoch is None else {EPOCH_HEADER: epoch}


def told(kind: str = "TABLE_SCAN_COMPLETED", epoch: str = '"2:77:1"', at: int = 50, **more: Any) -> Message:
    details = {"scanned_collection": "public.t", "status": "SUCCEEDED", "total_rows_scanned": "4", **more}
    payload = {"id": "x", "aggregate_type": "Initial Snapshot", "type": kind, "additional_data": details}
    return message(json.dumps({"schema": {}, "payload": {**payload, "timestamp": at}}).encode(), epoch)


POISON = [
    message(None),
    message(b"not json"),
    message(b"\xff\xfe"),
    message(b"[1, 2]"),
    message(b'"text"'),
    message(b"null"),
    message(b'{"payload": 3}'),
    message(b'{"a": 1}'),
    message(b'{"type": {"x": 1}}'),
    message(b'{"type": "TABLE_SCAN_COMPLETED", "additional_data": [1]}'),
    message(b'{"type": "TABLE_SCAN_COMPLETED", "additional_data": null}'),
    told(total_rows_scanned="many"),
    message(b"not json", epoch=None),
    told(epoch="no epoch"),
]


@pytest.mark.parametrize("poison", POISON)
def test_what_is_no_notification_is_passed_over(poison: Message) -> None:
    topic = Topic(poison, told("STARTED"), told(), poison, told("COMPLETED"), poison)
    progress = read_progress(topic, CONNECTOR, Epoch.parse("2:77:1"))
    assert (progress.initial_done, progress.rows, progress.started) == (True, {"public.t": 4}, 1)
    assert whole_snapshot(topic, CONNECTOR.streams[0]) == (2, 50)


def test_only_poison_is_no_snapshot() -> None:
    assert whole_snapshot(Topic(*POISON), CONNECTOR.streams[0]) is None
    assert not read_progress(Topic(*POISON), CONNECTOR, Epoch.parse("2:77:1")).rows


def test_the_newest_epoch_counts_and_each_has_its_own_progress() -> None:
    topic = Topic(told(at=10, epoch='"1:77:1"'), told(at=70), told(at=60), told(at=90, status="FAILED"))
    assert whole_snapshot(topic, CONNECTOR.streams[0]) == (2, 70)
    progress = read_progress(topic, CONNECTOR, Epoch.parse("3:77:1"))
    assert (progress.initial_done, progress.rows) == (False, {})
    assert progress.missing(CONNECTOR.streams) == list(CONNECTOR.streams)
