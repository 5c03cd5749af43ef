"""dbt on Spark, in one spark-submit: ``EVENTS FOLDER MONTH…`` builds and tests the taxi project on Iceberg."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from airflow_provider_rtlake.bench import dbt, silver

CATALOG = "taxi"


def session(folder: Path) -> SparkSession:
    """A session with a catalog of its own in a folder: no server takes part.

    :param folder: of the tables.
    """
    builder = SparkSession.builder.appName("rtlake-dbt")
    settings = {
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
        f"spark.sql.catalog.{CATALOG}": "org.apache.iceberg.spark.SparkCatalog",
        f"spark.sql.catalog.{CATALOG}.type": "hadoop",
        f"spark.sql.catalog.{CATALOG}.warehouse": f"file://{folder}",
        "spark.sql.defaultCatalog": CATALOG,
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.sources.partitionOverwriteMode": "dynamic",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def bring_silver(spark: SparkSession, events: str, months: list[str]) -> None:
    """Silver from the events, by the same SQL as everywhere.

    :param events: Parquet as laid down for a run.
    :param months: of the events.
    """
    spark.read.parquet(f"file://{events}").createOrReplaceTempView("events")
    rows = "(SELECT *, CAST(current_timestamp() AS TIMESTAMP_NTZ) AS ingested_at FROM events) AS events"
    spark.sql(silver.judged(rows, "spark", months)).createOrReplaceTempView("judged")
    spark.sql("CREATE NAMESPACE IF NOT EXISTS silver")
    spark.sql(f"CREATE TABLE silver.trips USING iceberg AS {silver.latest('judged')}")


def run_python_models_here(spark: SparkSession) -> None:
    """Let dbt run Python models in this session: its adapter knows Databricks' clusters only.

    :param spark: the session.
    """
    from dbt.adapters.base.impl import PythonJobHelper
    from dbt.adapters.spark.impl import SparkAdapter

    class InThisSession(PythonJobHelper):
        def __init__(self, parsed_model: dict[str, Any], credentials: Any) -> None:
            """Nothing is needed of either."""

        def submit(self, compiled_code: str) -> Any:
            exec(compile(compiled_code, "<dbt python model>", "exec"), {"spark": spark})  # noqa: S102 - it is the project's

    adapter: Any = SparkAdapter
    adapter.default_python_submission_method = property(lambda self: "session")
    adapter.python_submission_helpers = property(lambda self: {"session": InThisSession})
    # dbt asks for it and is content with its absence; with a newer pandas its import ends in another error.
    sys.modules["pyspark.pandas"] = None  # type: ignore[assignment]


def main() -> None:
    """Entry point of spark-submit."""
    events, folder, *months = sys.argv[1:]
    root = Path(folder)
    spark = session(root / "warehouse")
    bring_silver(spark, events, months)
    run_python_models_here(spark)
    dbt.build(root / "spark", months, engine="spark", variables={dbt.SCHEMA_VARIABLE: "taxi"})
    results = dbt.target(root / "spark") / "run_results.json"
    (root / dbt.SPARK_RESULT).write_text(dbt.result(results).model_dump_json())
    bad = dbt.problems(results)
    for line in bad:
        print(line, file=sys.stderr)
    spark.stop()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
