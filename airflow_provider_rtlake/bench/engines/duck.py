"""P00: Parquet, DuckDB, dbt. No server: the control that every other stack is compared with."""

from __future__ import annotations

import duckdb

from airflow_provider_rtlake.bench import silver
from airflow_provider_rtlake.bench.engines.base import Engine
from airflow_provider_rtlake.bench.record import TO_SILVER, Hop
from airflow_provider_rtlake.bench.run import Account


class Duck(Engine):
    """Bronze and silver in one DuckDB file."""

    def generate(self, account: Account) -> None:
        """The events lie in Parquet already: that is where this pipeline begins."""
        account.notes.append("no broker: the events are read from Parquet")

    def process(self, account: Account) -> None:
        """See base class."""
        months = self.events.source.months
        with duckdb.connect(str(self.database)) as connection:
            connection.execute("CREATE SCHEMA bronze; CREATE SCHEMA silver")
            connection.execute(
                "CREATE TABLE bronze.trips AS SELECT *, filename AS source_file, "  # noqa: S608
                "current_timestamp::TIMESTAMP AS ingested_at "
                f"FROM read_parquet('{self.events.path}', filename = true)"
            )
            connection.execute(f"CREATE TABLE silver.judged AS {silver.judged('bronze.trips', 'duckdb', months)}")
            connection.execute(f"CREATE TABLE silver.trips AS {silver.latest('silver.judged')}")
            connection.execute(
                f"CREATE TABLE silver.rejected AS SELECT source_row, {', '.join(silver.BUSINESS)}, reason "  # noqa: S608
                "FROM silver.judged WHERE reason IS NOT NULL"
            )
            bronze = _count(connection, "SELECT count(*) FROM bronze.trips")
            trips = _count(connection, "SELECT count(*) FROM silver.trips")
            good = _count(connection, "SELECT count(*) FROM silver.judged WHERE reason IS NULL")
            reasons = connection.execute(
                "SELECT reason, count(*) FROM silver.rejected GROUP BY 1 ORDER BY 1"
            ).fetchall()
            connection.execute("DROP TABLE silver.judged")
        account.hops += [
            Hop(name="Parquet → bronze", rows_in=self.events.source.events, rows_out=bronze),
            Hop(
                name=TO_SILVER,
                rows_in=bronze,
                rows_out=trips,
                rejected={**dict(reasons), silver.REPEATED: good - trips},
            ),
        ]

    def bring_silver(self, connection: duckdb.DuckDBPyConnection) -> None:
        """It is there."""


def _count(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
