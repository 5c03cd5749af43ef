"""P01's windowed job: revenue by zone in 5 minutes, in hours and in sessions; what comes too late goes to a table.

Flink's SQL drops late rows silently. Here they are told apart before the windows, by the watermark that the windows go
by, so that windows and late rows together are all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_rtlake.bench import silver, taxi_flink
from airflow_provider_rtlake.bench.taxi_flink import Stretch
from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import identifier, options, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings

WATERMARK_SECONDS = 10
LATENESS_HOURS = 1  # further behind than the watermark that a row may come
SESSION_MINUTES = 30  # without a pickup in the zone, then its session ends
# Group windows, not window functions: those hold their rows in managed memory, of which the task manager has none.
WINDOWS = {
    "windows_5m": ("TUMBLE", "INTERVAL '5' MINUTE"),
    "windows_1h": ("TUMBLE", "INTERVAL '1' HOUR"),
    "sessions": ("SESSION", f"INTERVAL '{SESSION_MINUTES}' MINUTE"),
}
_BY_ZONE = "WINDOW w AS (PARTITION BY pickup_zone_id ORDER BY pickup_at, source_row)"
_EPOCH = "TIMESTAMP '1970-01-01 00:00:00'"
_ROWS = (
    "(window_start TIMESTAMP(6), window_end TIMESTAMP(6), pickup_zone_id INT, trip_count BIGINT, revenue DECIMAL(18,2))"
)


def setup(settings: LaneSettings, namespace: str) -> list[str]:
    """Statements that make the tables anew, empty.

    :param namespace: of the pipeline's tables.
    """
    made = [settings.catalog_ddl()]
    for name in (*WINDOWS, "late"):
        columns = "(source_row BIGINT, event_time TIMESTAMP(6), behind TIMESTAMP(6))" if name == "late" else _ROWS
        where = table(f"{namespace}.{name}", CATALOG)
        made += [f"DROP TABLE IF EXISTS {where}", f"CREATE TABLE {where} {columns} WITH ('format-version' = '2')"]
    return made


def job(
    name: str, settings: LaneSettings, *, namespace: str, topic: str, stretch: Stretch, months: Sequence[str]
) -> RenderedJob:
    """The job; streaming, ends with the stretch.

    :param months: of the run; a pickup outside them does not move the watermark.
    """
    inside = " OR ".join(
        f"(tpep_pickup_datetime >= TIMESTAMP '{first} 00:00:00' "
        f"AND tpep_pickup_datetime < TIMESTAMP '{after} 00:00:00')"
        for first, after in silver.periods(months)
    )
    columns = ", ".join(f"{identifier(f.name)} {taxi_flink.TYPES[str(f.type)]}" for f in taxi.SCHEMA)
    kafka = {
        **settings.kafka_options(topic), "properties.group.id": name, **stretch.source_options(), "format": "json",
        "json.ignore-parse-errors": "true", "json.timestamp-format.standard": "SQL",
    }  # fmt: skip
    definitions = (
        settings.catalog_ddl(),
        f"CREATE TEMPORARY TABLE timed_events ({identifier(silver.ROW_NUMBER)} BIGINT, {columns}, "
        f"event_time AS CAST(CASE WHEN {inside} THEN tpep_pickup_datetime ELSE {_EPOCH} END AS TIMESTAMP(3)), "
        f"WATERMARK FOR event_time AS event_time - INTERVAL '{WATERMARK_SECONDS}' SECOND "
        f"- INTERVAL '{LATENESS_HOURS}' HOUR) "
        f"WITH (\n  {options(kafka)}\n)",
        f"CREATE TEMPORARY VIEW good AS SELECT {identifier(silver.ROW_NUMBER)} AS source_row, event_time, "  # noqa: S608
        "PULocationID AS zone, CAST(total_amount AS DECIMAL(10,2)) AS total, CURRENT_WATERMARK(event_time) AS mark "
        f"FROM timed_events WHERE event_time > {_EPOCH} AND tpep_dropoff_datetime IS NOT NULL AND "
        "COALESCE(CAST(trip_distance AS DECIMAL(10,2)), 0) >= 0 AND "
        "COALESCE(CAST(fare_amount AS DECIMAL(10,2)), 0) >= 0",
        "CREATE TEMPORARY VIEW on_time AS SELECT * FROM good WHERE mark IS NULL OR event_time > mark",
    )
    inserts = [
        f"INSERT INTO {table(f'{namespace}.{name}', CATALOG)} SELECT {kind}_START(event_time, {size}), "  # noqa: S608
        f"{kind}_END(event_time, {size}), zone, COUNT(*), CAST(SUM(total) AS DECIMAL(18,2)) FROM on_time "
        f"GROUP BY {kind}(event_time, {size}), zone"
        for name, (kind, size) in WINDOWS.items()
    ]
    inserts.append(
        f"INSERT INTO {table(f'{namespace}.late', CATALOG)} SELECT source_row, CAST(event_time AS TIMESTAMP(6)), "  # noqa: S608
        "CAST(mark AS TIMESTAMP(6)) FROM good WHERE mark IS NOT NULL AND event_time <= mark"
    )
    body = ";\n".join(inserts)
    properties = taxi_flink.properties(settings, "streaming")
    return RenderedJob(name, definitions, f"EXECUTE STATEMENT SET BEGIN\n{body};\nEND", properties)


def expected(name: str, good: str, late: str) -> str:
    """DuckDB's query for what a window's table must hold.

    :param name: key of :data:`WINDOWS`.
    :param good: relation of the good rows, repeats among them, with silver's columns.
    :param late: relation of the late rows.
    """
    rows = f"(SELECT g.* FROM {good} AS g ANTI JOIN {late} AS l ON l.source_row = g.source_row)"  # noqa: S608
    if name == "sessions":
        gap = f"INTERVAL {SESSION_MINUTES} MINUTE"
        numbered = (
            "SELECT *, sum(CASE WHEN fresh THEN 1 ELSE 0 END) OVER w AS nth FROM (SELECT *, "  # noqa: S608
            f"coalesce(pickup_at - lag(pickup_at) OVER w > {gap}, true) AS fresh FROM {rows} {_BY_ZONE}) {_BY_ZONE}"
        )
        return (
            f"SELECT min(pickup_at), max(pickup_at) + {gap}, pickup_zone_id, count(*), "  # noqa: S608
            f"sum(total_amount)::DECIMAL(18,2) FROM ({numbered}) GROUP BY pickup_zone_id, nth"
        )
    width = "INTERVAL 5 MINUTE" if name == "windows_5m" else "INTERVAL 1 HOUR"
    return (
        f"SELECT time_bucket({width}, pickup_at), time_bucket({width}, pickup_at) + {width}, pickup_zone_id, count(*), "  # noqa: S608
        f"sum(total_amount)::DECIMAL(18,2) FROM {rows} GROUP BY ALL"
    )
