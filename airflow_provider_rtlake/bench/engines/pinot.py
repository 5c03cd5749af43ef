"""P16: P01 and a Pinot table that serves the trips; one Flink job feeds both."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow_provider_rtlake.bench import queries
from airflow_provider_rtlake.bench.engines.base import Asker
from airflow_provider_rtlake.bench.engines.flink import Flink
from airflow_provider_rtlake.bench.record import Hop
from airflow_provider_rtlake.bench.run import Account
from airflow_provider_rtlake.bench.source import zones_file
from airflow_provider_rtlake.clients.pinot import PinotController
from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.clients.pinot_topics import PinotTopics
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.exceptions import WaitTimeout
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import literal, options
from airflow_provider_rtlake.pinot_config.model import PinotTable

NOTE = "zone names are served with the trips (no join); share and rank of Q4 are computed from its GROUP BY (no window)"
_COLUMNS = {
    "trip_id": ("STRING", "trip_id"),
    "source_row": ("BIGINT", "source_row"),
    "pickup_day": ("STRING", "DATE_FORMAT(pickup_at, 'yyyy-MM-dd')"),
    "pickup_ms": ("BIGINT", "TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', pickup_at) * 1000"),
    "week_day": ("INT", "CAST(MOD(DAYOFWEEK(pickup_at) + 5, 7) + 1 AS INT)"),
    "hour_of_day": ("INT", "CAST(EXTRACT(HOUR FROM pickup_at) AS INT)"),
    "pickup_zone_id": ("INT", "pickup_zone_id"),
    "zone_name": ("STRING", ""),
    "payment_type_id": ("INT", "payment_type_id"),
    "total_cents": ("BIGINT", "CAST(total_amount * 100 AS BIGINT)"),  # sums of cents are exact, sums of doubles are not
}
_PINOT = {"STRING": "STRING", "BIGINT": "LONG", "INT": "INT"}
_NO_TYPE = -2_147_483_648  # Pinot's null of an INT dimension
_SQL = {
    "q1": "SELECT pickup_day, COUNT(*), SUM(total_cents) FROM {t} GROUP BY pickup_day ORDER BY pickup_day LIMIT 100000",
    "q2": "SELECT pickup_zone_id, zone_name, COUNT(*), SUM(total_cents) FROM {t} "
    "GROUP BY pickup_zone_id, zone_name LIMIT 100000",
    "q3": "SELECT week_day, hour_of_day, COUNT(*) FROM {t} GROUP BY week_day, hour_of_day "
    "ORDER BY week_day, hour_of_day LIMIT 1000",
    "q4": "SELECT payment_type_id, COUNT(*) FROM {t} GROUP BY payment_type_id LIMIT 1000",
}


class Pinot(Flink):
    """The served table shows the row with the highest row number of each trip; it lives as long as the run."""

    @property
    def served(self) -> PinotTable:
        """The table's declaration."""
        columns: dict[str, Any] = {
            name: {"type": _PINOT[kind], "field": "dateTime" if name == "pickup_ms" else "dimension"}
            for name, (kind, _) in _COLUMNS.items()
        }
        columns["total_cents"]["field"] = "metric"
        return PinotTable.model_validate(
            {
                "table": f"taxi_{self.run.slug}",
                "mode": "upsert",
                "kafka": {
                    "topic": f"taxi.served.{self.run.run_id}",
                    "partitions": 3,
                    "isolation_level": "read_uncommitted",
                },
                "time_column": "pickup_ms",
                "upsert": {"primary_key": ["trip_id"], "comparison_column": "source_row"},
                "columns": columns,
            }
        )

    def _deployment(self, controller: PinotController) -> PinotDeployment:
        return PinotDeployment(controller, PinotTopics(self.kafka), bootstrap_servers=self.stack.kafka_bootstrap)

    def _controller(self) -> PinotController:
        return PinotController.connect(self.stack.connection("rtlake_pinot").url)

    def prepare(self, account: Account) -> None:
        """See base class."""
        super().prepare(account)
        with self._controller() as controller:
            self._deployment(controller).apply(self.served)

    def job(self) -> RenderedJob:
        """See base class."""
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in _COLUMNS.items())
        sink = {
            **self.settings.sink_options(self.served.kafka.topic), "key.format": "raw", "key.fields": "trip_id",
            "value.format": "json", "value.fields-include": "ALL",
        }  # fmt: skip
        with zones_file().open() as file:
            names = ", ".join(f"{row['zone_id']}, {literal(row['zone_name'])}" for row in csv.DictReader(file))
        values = ", ".join(
            expression or f"COALESCE(MAP[{names}][pickup_zone_id], 'unknown')" for _, expression in _COLUMNS.values()
        )
        return self.rendered(
            more_setup=[f"CREATE TEMPORARY TABLE served ({columns}) WITH (\n  {options(sink)}\n)"],
            more_inserts=[f"INSERT INTO served SELECT {values} FROM judged WHERE reason IS NULL"],  # noqa: S608
        )

    def process(self, account: Account) -> None:
        """See base class; done when Pinot shows every trip."""
        super().process(account)
        begin, wanted, found = time.monotonic(), self.events.reference.rows_out, -1
        while found != wanted:
            if time.monotonic() - begin > self.patience:
                raise WaitTimeout(f"Pinot shows {found} trips after {self.patience:.0f} s, silver has {wanted}")
            found = int(self._rows(f"SELECT COUNT(*) FROM {self.served.table}")[0][0])  # noqa: S608
            if found != wanted:
                time.sleep(0.1)
        account.measures["pinot_after_lake_seconds"] = round(time.monotonic() - begin, 3)
        sent = sum(end - start for start, end in self.kafka.end_offsets(self.served.kafka.topic).values())
        account.hops.append(
            Hop(name="Flink → Pinot", rows_in=sent, rows_out=found, rejected={})
            if sent == found
            else Hop(
                name="Flink → Pinot",
                rows_in=sent,
                rows_out=found,
                rejected={"replaced by a higher row number": sent - found},
            )
        )

    @cached_property
    def _access(self) -> Access:
        return Access(self.stack)  # keeps its connection: a new one costs more than most queries

    def _rows(self, query: str) -> list[list[Any]]:
        return self._access.pinot(query)

    def askers(self) -> list[Asker]:
        """See base class."""
        return [Asker("Pinot", self.ask_pinot, NOTE), *super().askers()]

    def ask_pinot(self, name: str) -> Sequence[Sequence[Any]]:
        """A question to Pinot."""
        rows = self._rows(_SQL[name].format(t=self.served.table))
        if name == "q4":
            return queries.from_counts({None if key == _NO_TYPE else int(key): int(count) for key, count in rows})
        if name == "q3":
            return [[int(value) for value in row] for row in rows]
        money = [[*row[:-2], int(row[-2]), f"{row[-1] / 100:.2f}"] for row in rows]
        if name == "q1":
            return money
        return sorted(([int(row[0]), *row[1:]] for row in money), key=lambda row: (-row[2], -float(row[3]), row[0]))[
            :10
        ]

    def close(self) -> None:
        """See base class."""
        if "_access" in self.__dict__:
            self._access.close()

    def clean(self) -> None:
        """See base class."""
        with self._controller() as controller:
            self._deployment(controller).delete(self.served.table, topic=self.served.kafka.topic)
