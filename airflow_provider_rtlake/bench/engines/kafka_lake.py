"""What all pipelines share that go from Kafka to Iceberg."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from airflow_provider_rtlake.bench import generator, lake, silver
from airflow_provider_rtlake.bench.engines.base import Engine
from airflow_provider_rtlake.bench.record import TO_SILVER, Hop
from airflow_provider_rtlake.bench.run import Account, Run
from airflow_provider_rtlake.bench.services import needed_stack
from airflow_provider_rtlake.bench.taxi_flink import Stretch
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.exceptions import CheckFailed

_WAIT = 600.0  # seconds for a stack to carry the events ...
_WAIT_EACH = 0.001  # ... and for each of them


class KafkaLake(Engine):
    """Topic, generator, and reading the tables back.

    :param run: the run.
    """

    topic = generator.TOPIC
    dead_letters = generator.DEAD_LETTERS

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.stack = needed_stack()
        # P08 is P01 under a scheduler: tables of its own, so that both may be looked at.
        self.namespace = f"taxi_{run.pipeline.id}"
        self.tables = {name: f"{self.namespace}.{name}" for name in ("bronze", "silver", "rejected")}

    @property
    def patience(self) -> float:
        """How long a stack may take to carry the run's events, seconds."""
        return _WAIT + _WAIT_EACH * self.events.source.events

    @property
    def kafka(self) -> KafkaClient:
        """The stack's Kafka."""
        return KafkaClient({"bootstrap.servers": self.stack.kafka_bootstrap, "log_level": 3})

    def prepare(self, account: Account) -> None:
        """See base class."""
        super().prepare(account)
        client = self.kafka
        client.ensure(generator.topics())
        self.run.remember("starts", {k: end for k, (_, end) in client.end_offsets(self.topic).items()})
        self.run.remember("dlq_start", {k: end for k, (_, end) in client.end_offsets(self.dead_letters).items()})

    def generate(self, account: Account) -> None:
        """See base class."""
        done = generator.generate({"bootstrap.servers": self.stack.kafka_bootstrap}, self.events.path, topic=self.topic)
        account.measures["produced_per_second"] = round(done.per_second, 1)
        stretch = self.stretch()
        arrived = sum(stretch.ends[k] - stretch.starts[k] for k in stretch.ends)
        account.hops.append(
            Hop(name="Parquet → Kafka", rows_in=self.events.source.events, rows_out=arrived, rejected=done.rejected)
        )
        self.run.remember("ends", stretch.ends)

    def stretch(self) -> Stretch:
        """The part of the topic that holds this run's events."""
        starts = {int(k): int(v) for k, v in self.run.recall("starts").items()}
        if self.run.knows("ends"):  # what came later belongs to another run
            ends = {int(k): int(v) for k, v in self.run.recall("ends").items()}
        else:
            ends = {k: end for k, (_, end) in self.kafka.end_offsets(self.topic).items()}
        return Stretch({k: starts.get(k, 0) for k in ends}, ends)

    def bring_silver(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See base class."""
        lake.make_readable(connection, self.stack)
        connection.execute("CREATE SCHEMA IF NOT EXISTS silver")
        columns = ", ".join(silver.SILVER)
        relation = lake.scan(self.stack, self.tables["silver"])
        connection.execute(f"CREATE OR REPLACE TABLE silver.trips AS SELECT {columns} FROM {relation}")  # noqa: S608

    def count_hops(self, account: Account) -> None:
        """Rows of the lake's tables, counted by another engine than the one that wrote them."""
        with duckdb.connect() as connection:
            lake.make_readable(connection, self.stack)
            scans = {name: lake.scan(self.stack, table) for name, table in self.tables.items()}
            bronze = _one(connection, f"SELECT count(*) FROM {scans['bronze']}")  # noqa: S608
            distinct = _one(
                connection,
                f"SELECT count(*) FROM (SELECT DISTINCT kafka_partition, kafka_offset FROM {scans['bronze']})",  # noqa: S608
            )
            if bronze != distinct:
                raise CheckFailed(f"bronze has {bronze} rows of {distinct} messages: some were written twice")
            rows, trips = connection.execute(
                f"SELECT count(*), count(DISTINCT trip_id) FROM {scans['silver']}"  # noqa: S608
            ).fetchone() or (0, 0)
            if rows != trips:
                raise CheckFailed(f"silver has {rows} rows of {trips} trips")
            reasons = connection.execute(
                f"SELECT reason, count(*) FROM {scans['rejected']} GROUP BY 1 ORDER BY 1"  # noqa: S608
            ).fetchall()
            repeated = _one(connection, self.repeated(scans))
        dead = self._dead_letters()
        account.hops += [
            Hop(name="Kafka → bronze", rows_in=self._messages(), rows_out=bronze),
            Hop(
                name=TO_SILVER,
                rows_in=bronze,
                rows_out=rows,
                rejected={**dict(reasons), **dead, silver.REPEATED: repeated},
            ),
        ]

    def repeated(self, scans: Mapping[str, str]) -> str:
        """Query for the messages that repeat a good trip; the messages' key is the trip's id.

        :param scans: table → relation.
        """
        return (
            f"SELECT count(*) - count(DISTINCT message_key) FROM {scans['bronze']} AS b "  # noqa: S608
            f"ANTI JOIN {scans['rejected']} AS r ON r.trip_id = b.message_key"
        )

    def _messages(self) -> int:
        stretch = self.stretch()
        return sum(stretch.ends[k] - stretch.starts[k] for k in stretch.ends)

    def _dead_letters(self) -> dict[str, int]:
        starts = self.run.recall("dlq_start")
        ends = self.kafka.end_offsets(self.dead_letters)
        dead = sum(end - int(starts.get(str(k), 0)) for k, (_, end) in ends.items())
        return {"not a JSON object": dead} if dead else {}


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
