"""The 24 pipelines: what each is made of, in which tier it is judged, and why it is not run where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_rtlake.exceptions import UserError

TIERS = {
    "core": "Core",
    "orchestration": "Orchestration",
    "serving": "Serving",
    "observability": "Observability",
    "cdc": "Change data capture",
    "table_formats": "Table formats",
    "streaming_sql": "Streaming SQL",
    "lightweight": "Lightweight processors",
    "olap": "OLAP",
    "more_orchestrators": "More orchestrators",
    "features": "Features",
}
LATER = "not written yet"
NO_SERVER = "no server package known"
_LAKE = ("postgresql", "s3proxy", "nessie")  # Nessie keeps its tables in PostgreSQL
_FLINK = (*_LAKE, "zookeeper", "kafka", "flink")
_REFERENCE = ("prepare", "generate", "process", "dbt", "query", "windows", "compact", "check")  # of P01


@dataclass(frozen=True)
class Pipeline:
    """One pipeline's declaration.

    :param id: ``p00`` to ``p23``.
    :param name: the rest of its DAG's id.
    :param title: how its row in the report is called.
    :param tier: key of :data:`TIERS`.
    :param engine: ``module:class`` below ``bench.engines``; empty where nothing can run it.
    :param needs: components whose services must answer.
    :param modes: how it can process; the first one is the default.
    :param groups: cross-cuts that it takes part in.
    :param not_run: why it has no figures, or empty.
    """

    id: str
    name: str
    title: str
    tier: str
    engine: str = ""
    needs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("batch",)
    groups: tuple[str, ...] = ()
    not_run: str = ""
    stages: tuple[str, ...] = ("prepare", "generate", "process", "dbt", "query", "check")

    @property
    def dag_id(self) -> str:
        """Its DAG's id."""
        return f"{self.id}_{self.name}"


def _later(number: int, name: str, title: str, tier: str, *groups: str, why: str = LATER) -> Pipeline:
    return Pipeline(f"p{number:02}", name, title, tier, groups=groups, not_run=why)


PIPELINES: tuple[Pipeline, ...] = (
    Pipeline("p00", "parquet_duckdb", "Parquet → DuckDB → dbt", "core", "duck:Duck", groups=("processors",)),
    Pipeline(
        "p01",
        "kafka_flink_iceberg",
        "Kafka → Flink → Iceberg → dbt",
        "core",
        "flink:Flink",
        _FLINK,
        modes=("streaming", "batch"),
        groups=("processors", "brokers", "table_formats", "all_orchestrators"),
        stages=_REFERENCE,
    ),
    Pipeline(
        "p02",
        "kafka_spark_iceberg",
        "Kafka → Spark → Iceberg → dbt",
        "core",
        "spark:Spark",
        (*_LAKE, "kafka", "spark"),
        modes=("streaming",),
        groups=("processors",),
    ),
    _later(
        3, "kafka_risingwave", "Kafka → RisingWave → dbt", "core", "processors", "streaming_sql_engines", why=NO_SERVER
    ),
    _later(4, "redpanda_flink_iceberg", "Redpanda → Flink → Iceberg → dbt", "core", "brokers", why=NO_SERVER),
    _later(5, "redpanda_spark_iceberg", "Redpanda → Spark → Iceberg → dbt", "core", "brokers", why=NO_SERVER),
    _later(6, "redpanda_risingwave", "Redpanda → RisingWave → dbt", "core", "brokers", why=NO_SERVER),
    _later(7, "kestra", "P01 driven by Kestra", "orchestration", "all_orchestrators", why=NO_SERVER),
    Pipeline(
        "p08",
        "airflow_kafka_flink_iceberg",
        "P01 driven by Airflow's scheduler",
        "orchestration",
        "flink:Flink",
        (*_FLINK, "airflow"),
        modes=("streaming", "batch"),
        groups=("all_orchestrators",),
        stages=_REFERENCE,
    ),
    _later(9, "dagster", "P01 driven by Dagster", "orchestration", "all_orchestrators"),
    _later(10, "clickhouse_serving", "ClickHouse serving with Superset and Metabase", "serving", "olap_engines"),
    _later(11, "observability", "P01 + Elementary + Soda", "observability"),
    Pipeline(
        "p12",
        "debezium_flink_iceberg",
        "PostgreSQL → Debezium → Kafka → Flink → Iceberg → dbt",
        "cdc",
        "cdc:Cdc",
        (*_FLINK, "connect"),
        modes=("streaming",),
        groups=("cdc_pipelines",),
    ),
    _later(13, "kafka_spark_delta", "Kafka → Spark → Delta → dbt", "table_formats", "table_formats"),
    _later(
        14, "kafka_materialize", "Kafka → Materialize → dbt", "streaming_sql", "streaming_sql_engines", why=NO_SERVER
    ),
    _later(15, "kafka_streams", "Kafka → Kafka Streams → Kafka", "lightweight", "lightweight_processors"),
    Pipeline(
        "p16",
        "kafka_flink_iceberg_pinot",
        "Kafka → Flink → Iceberg + Pinot serving",
        "olap",
        "pinot:Pinot",
        (*_FLINK, "pinot"),
        modes=("streaming",),
        groups=("olap_engines",),
    ),
    _later(17, "kafka_flink_iceberg_druid", "Kafka → Flink → Iceberg + Druid serving", "olap", "olap_engines"),
    _later(18, "prefect", "P01 driven by Prefect", "more_orchestrators", "all_orchestrators"),
    _later(19, "mage", "P01 driven by Mage", "more_orchestrators", "all_orchestrators"),
    _later(20, "kafka_bytewax", "Kafka → Bytewax → Kafka", "lightweight", "lightweight_processors"),
    _later(21, "feast", "P01 → Feast offline and online store", "features"),
    _later(22, "kafka_spark_hudi", "Kafka → Spark → Hudi → dbt", "table_formats", "table_formats"),
    _later(23, "everything", "P12 + dbt + ClickHouse serving + dashboard", "cdc", "cdc_pipelines"),
)
CROSS_CUTS = {
    "processors": "Processors",
    "brokers": "Brokers",
    "table_formats": "Table formats",
    "olap_engines": "OLAP engines",
    "all_orchestrators": "All orchestrators",
    "streaming_sql_engines": "Streaming SQL",
    "lightweight_processors": "Lightweight processors",
    "cdc_pipelines": "Change data capture",
}


def find(name: str) -> Pipeline:
    """A pipeline by its id, number or DAG id.

    :raises UserError: there is none.
    """
    wanted = f"p{int(name):02}" if name.isdigit() else name.lower()
    for one in PIPELINES:
        if wanted in (one.id, one.dag_id):
            return one
    raise UserError(f"no pipeline {name!r}; there are: {', '.join(one.id for one in PIPELINES)}")


def select(names: Sequence[str]) -> list[Pipeline]:
    """Pipelines by ids, tiers, cross-cuts or ``all``; of a group, those that can run.

    :raises UserError: a name is none of these, or a pipeline named by itself cannot run.
    """
    chosen: dict[str, Pipeline] = {}
    for name in names:
        group = [one for one in PIPELINES if name == "all" or name == one.tier or name in one.groups]
        if group:
            chosen |= {one.id: one for one in group if not one.not_run}
            continue
        one = find(name)
        if one.not_run:
            raise UserError(f"{one.id} ({one.title}) cannot be run: {one.not_run}")
        chosen[one.id] = one
    return list(chosen.values())
