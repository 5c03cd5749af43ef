"""Snapshots of single tables: which ones are still missing, and how they are asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, Epoch, table_pattern
from airflow_provider_rtlake.streams.model import Connector, Stream


@dataclass(frozen=True)
class SnapshotProgress:
    """What Debezium told of snapshots in one epoch.

    :param initial_done: whether the epoch's first snapshot has ended.
    :param rows: ``schema.table`` → rows read, of the tables that were read to the end.
    """

    initial_done: bool
    rows: dict[str, int]

    def missing(self, streams: Iterable[Stream]) -> list[Stream]:
        """The tables that have not been read to the end.

        :param streams: captured tables.
        """
        return [stream for stream in streams if notified_name(stream) not in self.rows]


def notified_name(stream: Stream) -> str:
    """How Debezium's notifications and transaction markers spell a table: without quotes.

    :param stream: the table.
    """
    return f"{stream.schema_name}.{stream.table_name}"


def read_progress(kafka: KafkaClient, connector: Connector, epoch: Epoch) -> SnapshotProgress:
    """What Debezium told of the snapshots of an epoch.

    :param kafka: the cluster.
    :param connector: the declaration.
    :param epoch: the epoch that runs.
    """
    done = False
    rows: dict[str, int] = {}
    for _, value, headers in kafka.read_all(connector.notification_topic):
        if value is None or headers.get(EPOCH_HEADER, "").strip('"') != epoch.text:
            continue
        told = json.loads(value)
        told = told.get("payload", told)
        if told.get("aggregate_type") != "Initial Snapshot":
            continue
        more = told.get("additional_data") or {}
        if told["type"] == "TABLE_SCAN_COMPLETED" and more.get("status") == "SUCCEEDED":
            rows[more["scanned_collection"]] = int(more.get("total_rows_scanned") or 0)
        done = done or told["type"] in ("COMPLETED", "SKIPPED")
    return SnapshotProgress(done, rows)


def whole_snapshot(kafka: KafkaClient, stream: Stream) -> tuple[int, int] | None:
    """The newest epoch in which a snapshot read a table to its end, and when; None where none did.

    :param kafka: the cluster.
    :param stream: the table.
    :return: number of the epoch, and milliseconds since 1970.
    """
    newest: tuple[int, int] | None = None
    for _, value, headers in kafka.read_all(stream.connector.notification_topic):
        if value is None:
            continue
        told = json.loads(value)
        told = told.get("payload", told)
        more = told.get("additional_data") or {}
        whole = told["type"] == "TABLE_SCAN_COMPLETED" and more.get("status") == "SUCCEEDED"
        if whole and more.get("scanned_collection") == notified_name(stream):
            try:
                number = Epoch.parse(headers.get(EPOCH_HEADER, "").strip('"')).number
            except ValueError:
                continue
            newest = max(newest or (0, 0), (number, int(told.get("timestamp") or 0)))
    return newest


def ask_for_snapshot(kafka: KafkaClient, connector: Connector, streams: Sequence[Stream]) -> None:
    """Ask a running connector to read tables, between two transactions of its stream.

    :param kafka: the cluster.
    :param connector: the declaration.
    :param streams: the tables.
    """
    signal = {
        "id": str(uuid.uuid4()),
        "type": "execute-snapshot",
        "data": {"type": "blocking", "data-collections": [table_pattern(stream) for stream in streams]},
    }
    kafka.send(connector.signal_topic, connector.topic_prefix.encode(), json.dumps(signal).encode())
