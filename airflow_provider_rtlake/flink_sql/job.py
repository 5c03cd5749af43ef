"""A rendered job: what is sent to the SQL gateway, and the fingerprint that tells two of them apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_provider_rtlake.flink_sql.quoting import options

FINGERPRINT_KEY = "rtlake.fingerprint"  # among the job's global parameters, which the cluster shows


@dataclass(frozen=True)
class StartPoint:
    """Where a Kafka source begins when the job starts without state.

    :param mode: ``earliest``, ``group`` (offsets committed by the consumer group, earliest where there is none)
        or ``offsets``.
    :param offsets: partition → first offset to read, with mode ``offsets``.
    """

    mode: str = "earliest"
    offsets: Mapping[int, int] = field(default_factory=dict)

    def source_options(self) -> dict[str, str]:
        """The Kafka connector's options for it."""
        if self.mode == "offsets" and self.offsets:
            pairs = (f"partition:{partition},offset:{offset}" for partition, offset in sorted(self.offsets.items()))
            return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": ";".join(pairs)}
        if self.mode == "group":
            return {"scan.startup.mode": "group-offsets", "properties.auto.offset.reset": "earliest"}
        return {"scan.startup.mode": "earliest-offset"}


EARLIEST = StartPoint()


@dataclass(frozen=True)
class KafkaSource:
    """The one Kafka source of a lane's job; kept apart because its start is no part of what the job *is*.

    :param table: quoted name of the temporary table.
    :param columns: the inside of its column list.
    :param options: of the connector, without those of the start.
    """

    table: str
    columns: str
    options: Mapping[str, str]

    @property
    def topic(self) -> str:
        """Kafka topic."""
        return self.options["topic"]

    @property
    def group(self) -> str:
        """Consumer group that the job commits its progress under."""
        return self.options["properties.group.id"]

    def ddl(self, start: StartPoint) -> str:
        """The CREATE TABLE statement.

        :param start: where to begin without state.
        """
        with_options = options({**self.options, **start.source_options()})
        return f"CREATE TEMPORARY TABLE {self.table} (\n  {self.columns}\n) WITH (\n  {with_options}\n)"


@dataclass(frozen=True)
class RenderedJob:
    """One Flink job as SQL.

    :param name: the job's name on the cluster; one job of a name runs at a time.
    :param setup: statements before the source's, in order.
    :param insert: the one statement that starts the job.
    :param properties: of the session.
    :param source: the Kafka source of a lane; None where the setup holds every table.
    :param views: statements after the source's.
    """

    name: str
    setup: tuple[str, ...]
    insert: str
    properties: Mapping[str, str]
    source: KafkaSource | None = None
    views: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that makes the job what it is; where it starts is left out."""
        what = [self.name, self.statements(EARLIEST), sorted(self.properties.items())]
        return hashlib.sha256(json.dumps(what, ensure_ascii=True).encode()).hexdigest()

    def statements(self, start: StartPoint) -> tuple[str, ...]:
        """All statements in order; the last one starts the job.

        :param start: where the Kafka source begins without state.
        """
        source = (self.source.ddl(start),) if self.source else ()
        return (*self.setup, *source, *self.views, self.insert)

    def session_properties(
        self, job_id: str, *, restore: str | None = None, drop_unclaimed: bool = False
    ) -> dict[str, str]:
        """Properties of the session that starts the job.

        :param job_id: 32 hexadecimal digits; a second start under the same id is refused by the cluster.
        :param restore: savepoint or checkpoint to start from.
        :param drop_unclaimed: leave out state that none of the job's operators takes.
        """
        properties = {
            **self.properties,
            "pipeline.name": self.name,
            "pipeline.global-job-parameters": f"{FINGERPRINT_KEY}:{self.fingerprint}",
            "$internal.pipeline.job-id": job_id,
        }
        if restore:
            properties["execution.state-recovery.path"] = restore
            properties["execution.state-recovery.ignore-unclaimed-state"] = str(drop_unclaimed).lower()
        return properties


def job_id_for(*parts: str) -> str:
    """A job id made from what identifies a start, so that the same start sent twice is one job.

    :param parts: anything.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
