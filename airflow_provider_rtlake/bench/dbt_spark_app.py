"""dbt on Spark, in one spark-submit: ``EVENTS FOLDER MONTH…`` builds and tests the taxi project on Iceberg."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from airflow_provider_rtlake.bench import dbt, silver

CATALOG = "spark_catalog"  # dbt makes views besides tables, and Spark keeps views in its own catalog only


def session(folder: Path) -> SparkSession:
    """A session with a catalog of its own in a folder: no server takes part.

    :param folder: of the tables.
    """
    builder = SparkSession.builder.appName("rtlake-dbt")
    settings = {
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
        f"spark.sql.catalog.{CATALOG}": "org.apache.iceberg.spark.SparkSessionCatalog",
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


def escape_quotes() -> None:
    """Let seeds hold apostrophes: the adapter puts texts between quotes as they are (Governor's Island)."""
    from dbt.adapters.spark.session import SessionConnectionWrapper

    wrapper: Any = SessionConnectionWrapper
    plain = wrapper._fix_binding

    def escaped(value: Any) -> Any:
        return plain(value.replace("\\", "\\\\").replace("'", "\\'") if isinstance(value, str) else value)

    wrapper._fix_binding = staticmethod(escaped)


def main() -> None:
    """Entry point of spark-submit."""
    # spark-submit puts this file's folder first on the path, and there `dbt` is a module of ours.
    sys.path[:] = [one for one in sys.path if Path(one).resolve() != Path(__file__).resolve().parent]
    events, folder, *months = sys.argv[1:]
    root = Path(folder)
    spark = session(root / "warehouse")
    bring_silver(spark, events, months)
    run_python_models_here(spark)
    escape_quotes()
    dbt.build(root / "spark", months, engine="spark", variables={dbt.SCHEMA_VARIABLE: "taxi"})
    results = dbt.target(root / "spark") / "run_results.json"
    bad = dbt.problems(results)
    told = {"result": dbt.result(results).model_dump(), "problems": bad}
    (root / dbt.SPARK_RESULT).write_text(json.dumps(told))
    spark.stop()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
