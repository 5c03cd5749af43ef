"""P12: PostgreSQL, Debezium, Kafka, Flink, Iceberg. The events are rows that are inserted while they are captured."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from psycopg import sql

from airflow_provider_rtlake.bench import generator, silver, taxi_flink
from airflow_provider_rtlake.bench.engines.flink import Flink
from airflow_provider_rtlake.bench.record import Hop
from airflow_provider_rtlake.bench.run import Account, Run
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.exceptions import WaitTimeout
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import identifier, options
from airflow_provider_rtlake.streams.connect_apply import ConnectorDeployment
from airflow_provider_rtlake.streams.load import Declarations
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.source_access import SourceAccess
from airflow_provider_rtlake.streams.yaml_lines import parse_yaml

_POSTGRES = {
    "int32": "integer",
    "int64": "bigint",
    "double": "double precision",
    "string": "text",
    "timestamp[us]": "timestamp",
}
_JSON = {"int32": "INT", "int64": "BIGINT", "double": "DOUBLE", "string": "STRING", "timestamp[us]": "BIGINT"}
_COPIED = 10_000  # rows of one transaction


class Cdc(Flink):
    """Table, connector and topic are made for the run and taken away after it.

    :param run: the run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.table = f"bench_{run.slug}"
        self.topic = f"{self.table}.public.{self.table}"

    @property
    def connector(self) -> Connector:
        """The run's connector."""
        return self._declarations.connectors[0]

    @property
    def _declarations(self) -> Declarations:
        text = (
            f"connector: {self.table}\ntopic_prefix: {self.table}\npublication: {self.table}\n"
            f"partitions: {generator.PARTITIONS}\nheartbeat_ms: 0\n"
            f"tables:\n  public.{self.table}:\n    history: false\n    realtime: false\n"
        )
        file = parse_yaml(text, f"{self.table}.yaml")
        return Declarations((Connector.model_validate(file.data),), (file,))

    @contextmanager
    def _deployment(self) -> Iterator[ConnectorDeployment]:
        connection = self.stack.connection("rtlake_kafka_connect")

        def access(conn_id: str) -> SourceAccess:
            return self.stack.source_access(conn_id).with_replication(connection.extra)

        with KafkaConnectClient(connection.url) as connect:
            yield ConnectorDeployment(connect, self.kafka, access, limit=120.0)

    def prepare(self, account: Account) -> None:
        """See base class."""
        columns = ", ".join(f"{f.name.lower()} {_POSTGRES[str(f.type)]}" for f in taxi.SCHEMA)
        ddl = sql.SQL("CREATE TABLE {} ({} bigint PRIMARY KEY, " + columns + ")").format(
            sql.Identifier("public", self.table), sql.Identifier(silver.ROW_NUMBER)
        )
        with self.stack.postgres(autocommit=True) as connection:
            connection.execute(ddl)
        with self._deployment() as deployment:
            deployment.apply(self._declarations)
        super().prepare(account)

    def generate(self, account: Account) -> None:
        """Insert the rows, and wait until Debezium has sent all of them."""
        begin, rows = time.monotonic(), 0
        names = sql.SQL(", ").join(sql.Identifier(f.name.lower()) for f in taxi.SCHEMA)
        statement = sql.SQL("COPY {} ({}, {}) FROM STDIN (FORMAT csv)").format(
            sql.Identifier("public", self.table), names, sql.Identifier(silver.ROW_NUMBER)
        )
        with self.stack.postgres(autocommit=True) as connection:
            for batch in pq.ParquetFile(self.events.path).iter_batches(_COPIED):
                buffer = io.BytesIO()
                pacsv.write_csv(batch, buffer, pacsv.WriteOptions(include_header=False))
                with connection.transaction(), connection.cursor().copy(statement) as copy:
                    copy.write(buffer.getbuffer())
                rows += batch.num_rows
        inserted = time.monotonic() - begin
        sent = self._wait_sent(rows)
        self.run.remember("ends", self.stretch().ends)
        seconds = time.monotonic() - begin
        account.measures |= {
            "insert_seconds": round(inserted, 3),
            "produced_per_second": round(rows / seconds, 1),
        }
        account.hops += [
            Hop(name="Parquet → PostgreSQL", rows_in=self.events.source.events, rows_out=rows),
            Hop(name="PostgreSQL → Kafka", rows_in=rows, rows_out=sent),
        ]

    def _wait_sent(self, rows: int) -> int:
        end, client = time.monotonic() + self.patience, self.kafka
        while True:
            sent = sum(last - first for first, last in client.end_offsets(self.topic).values())
            if sent >= rows:
                return sent
            if time.monotonic() > end:
                raise WaitTimeout(
                    f"Debezium has sent {sent} of {rows} rows after {self.patience:.0f} s; see connector {self.table}"
                )
            time.sleep(0.1)

    def job(self) -> RenderedJob:
        """See base class; the events are Debezium's envelopes."""
        return self.rendered(origin=self._origin())

    def _origin(self) -> list[str]:
        plain, _ = taxi_flink.sources(self.settings, self.topic, self.stretch(), f"bench.{self.run.run_id}")
        kafka = {
            **self.settings.kafka_options(self.topic),
            "properties.group.id": f"bench.{self.run.run_id}",
            **self.stretch().source_options(),
            "format": "json",
            "json.ignore-parse-errors": "true",
        }
        fields = ", ".join(f"{identifier(f.name.lower())} {_JSON[str(f.type)]}" for f in taxi.SCHEMA)
        row = f"ROW<{identifier(silver.ROW_NUMBER)} BIGINT, {fields}>"
        after = ", ".join(_from_envelope(f.name, str(f.type)) for f in taxi.SCHEMA)
        return [
            plain,
            f"CREATE TEMPORARY TABLE envelopes (payload ROW<`after` {row}, op STRING>, "
            f"`kafka_ts` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL) WITH (\n  {options(kafka)}\n)",
            f"CREATE TEMPORARY VIEW trip_events AS SELECT kafka_ts, payload.`after`.{identifier(silver.ROW_NUMBER)} "  # noqa: S608
            f"AS {identifier(silver.ROW_NUMBER)}, {after} FROM envelopes WHERE payload.op IN ('c', 'r')",
        ]

    def repeated(self, scans: Mapping[str, str]) -> str:
        """See base class; the key is the row's, so trips are told from the envelope."""
        fields = ", ".join(_in_duckdb(f.name, str(f.type)) for f in taxi.SCHEMA)
        rows = (
            f"(SELECT (after->>'{silver.ROW_NUMBER}')::BIGINT AS {silver.ROW_NUMBER}, ingested_at, {fields} FROM "  # noqa: S608
            f"(SELECT ingested_at, payload::JSON->'payload'->'after' AS after FROM {scans['bronze']})) AS events"
        )
        judged = silver.judged(rows, "duckdb", self.events.source.months)
        return f"SELECT count(*) - count(DISTINCT trip_id) FROM ({judged}) WHERE reason IS NULL"  # noqa: S608

    def clean(self) -> None:
        """See base class."""
        with self._deployment() as deployment:
            deployment.delete(self.connector)
        self.kafka.delete([name for name in self.kafka.topics() if self.table in name])
        with self.stack.postgres(autocommit=True) as connection:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier("public", self.table)))


def _from_envelope(name: str, kind: str) -> str:
    value = f"payload.`after`.{identifier(name.lower())}"
    if kind == "timestamp[us]":  # microseconds without a zone
        value = f"TIMESTAMPADD(SECOND, CAST({value} / 1000000 AS INT), TIMESTAMP '1970-01-01 00:00:00')"
    return f"{value} AS {identifier(name)}"


def _in_duckdb(name: str, kind: str) -> str:
    value = f"(after->>'{name.lower()}')"
    types: dict[str, Any] = {"int32": "INT", "int64": "BIGINT", "double": "DOUBLE", "string": "VARCHAR"}
    if kind == "timestamp[us]":
        return f'make_timestamp({value}::BIGINT) AS "{name}"'
    return f'{value}::{types[kind]} AS "{name}"'
