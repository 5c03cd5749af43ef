"""Where the lanes' services are and how the jobs are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_rtlake.flink_sql.quoting import identifier, options

CATALOG = "rtlake"


@dataclass(frozen=True)
class LaneSettings:
    """Settings shared by all lanes. None of them is a secret: the cluster's own environment holds the keys.

    :param bootstrap: Kafka bootstrap servers, as Flink reaches them.
    :param nessie_uri: Nessie's API v2, as Flink reaches it.
    :param s3_endpoint: the object store, as Flink reaches it.
    :param warehouse: root of the Iceberg tables.
    :param region: of the object store.
    :param ref: Nessie branch that bronze is written to.
    :param staging: root of the optional Parquet files.
    :param bronze_interval_ms: milliseconds between commits of bronze; each commit is a snapshot. Every checkpoint of
        every job costs some 50 to 100 ms of a processor, also of an idle one: with many tables take longer ones.
    :param realtime_interval_ms: milliseconds between checkpoints of the real-time lane; messages do not wait for them.
    :param parallelism: of each job.
    :param kafka: further Kafka client properties (security), no secrets.
    """

    bootstrap: str
    nessie_uri: str
    s3_endpoint: str
    warehouse: str = "s3://lakehouse/warehouse"
    region: str = "us-east-1"
    ref: str = "main"
    staging: str = "s3://streaming/staging"
    bronze_interval_ms: int = 1500
    realtime_interval_ms: int = 10_000
    parallelism: int = 1
    kafka: Mapping[str, str] = field(default_factory=dict)

    def tuned(self, extra: Mapping[str, Any]) -> LaneSettings:
        """The same with the tuning that a Flink connection's extra asks for.

        :param extra: of the connection.
        """
        names = ("bronze_interval_ms", "realtime_interval_ms", "parallelism")
        chosen: dict[str, Any] = {name: int(extra[name]) for name in names if name in extra}
        return replace(self, **chosen)

    def kafka_options(self, topic: str) -> dict[str, str]:
        """Options that every Kafka table has.

        :param topic: of the table.
        """
        return {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": self.bootstrap,
            **{f"properties.{key}": value for key, value in self.kafka.items()},
        }

    def sink_options(self, topic: str) -> dict[str, str]:
        """Options of a Kafka table that is written at least once and without delay.

        :param topic: of the table.
        """
        return {
            **self.kafka_options(topic),
            "sink.delivery-guarantee": "at-least-once",
            "properties.linger.ms": "5",
            "properties.compression.type": "lz4",
            # More than Connect's 32 MB: a change that came in must never be too large to go on
            "properties.max.request.size": "41943040",
            "properties.buffer.memory": "67108864",
        }

    def catalog_ddl(self) -> str:
        """CREATE CATALOG for the lakehouse. The S3 keys come from the environment of Flink's processes."""
        catalog = {
            "type": "iceberg",
            "catalog-impl": "org.apache.iceberg.nessie.NessieCatalog",
            "uri": self.nessie_uri,
            "ref": self.ref,
            "client-api-version": "2",
            "warehouse": self.warehouse,
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "s3.endpoint": self.s3_endpoint,
            "s3.path-style-access": "true",
            "client.region": self.region,
            "cache-enabled": "false",
        }
        return f"CREATE CATALOG {identifier(CATALOG)} WITH (\n  {options(catalog)}\n)"

    def streaming_properties(self, interval_ms: int, mode: str) -> dict[str, str]:
        """Session properties of a streaming job.

        :param interval_ms: milliseconds between checkpoints.
        :param mode: ``EXACTLY_ONCE`` or ``AT_LEAST_ONCE``.
        """
        return {
            "execution.runtime-mode": "streaming",
            "execution.checkpointing.mode": mode,
            "execution.checkpointing.interval": f"{interval_ms} ms",
            "execution.checkpointing.min-pause": "200 ms",
            "execution.checkpointing.timeout": "2 min",
            "execution.checkpointing.tolerable-failed-checkpoints": "20",
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            # A store or catalog that is away for an hour must not end a lane: restarts have no limit.
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "1 s",
            "restart-strategy.exponential-delay.max-backoff": "10 s",
            "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
            "parallelism.default": str(self.parallelism),
            "pipeline.object-reuse": "true",
            # Iceberg's committer, the only one with a maximum of one, gets a thread of its own. In the source's, where
            # a commit takes longer than the interval, the next checkpoint begins before any message is read.
            "pipeline.operator-chaining.chain-operators-with-different-max-parallelism": "false",
            "table.local-time-zone": "UTC",
        }
