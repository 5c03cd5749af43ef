"""dbt snapshot as a side: in a DuckDB file, and on Spark with Iceberg."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from airflow_provider_rtlake.bench.scd2.sides import Timed, run
from airflow_provider_rtlake.scd2.submit import environment

_APPLICATION = Path(__file__).parent / "dbt_snapshot_spark.py"


def missing() -> str | None:
    """Why dbt cannot run, or None."""
    return None if _dbt() else "dbt is not installed beside this Python"


def _dbt() -> str | None:
    beside = Path(sys.executable).parent / "dbt"
    return str(beside) if beside.exists() else shutil.which("dbt")


def _lay_down(folder: Path, output: str, settings: str) -> None:
    """A project with one snapshot: strategy check, every column.

    :param output: of the profile, in YAML.
    :param settings: further ones of the snapshot.
    """
    (folder / "snapshots").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: bench\nversion: '1.0'\nprofile: bench\n", encoding="utf-8")
    (folder / "profiles.yml").write_text(f"bench: {{target: dev, outputs: {{dev: {{{output}}}}}}}\n", encoding="utf-8")
    (folder / "snapshots" / "orders.sql").write_text(
        "{% snapshot orders_history %}\n"
        "{{ config(target_schema='main', unique_key='id', strategy='check', check_cols='all', "
        f"hard_deletes='invalidate'{settings}) }}}}\nselect * from main.orders\n{{% endsnapshot %}}\n",
        encoding="utf-8",
    )


_QUIET = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DO_NOT_TRACK": "1"}


class DuckDbSnapshot:
    """dbt snapshot in a DuckDB file.

    :param folder: for the project and the database.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._folder, self._database = folder, folder / "orders.duckdb"
        _lay_down(folder, f"type: duckdb, path: {self._database}, threads: 2", "")

    def source(self, path: Path) -> None:
        """Put the source's table into the database."""
        import duckdb

        with duckdb.connect(str(self._database)) as connection:
            connection.read_parquet(str(path)).create_view("arrived")
            connection.execute("CREATE OR REPLACE TABLE orders AS SELECT * FROM arrived")
            connection.execute("DROP VIEW arrived")

    def snapshot(self, timed: Timed | None = None) -> None:
        """One snapshot."""
        where = ["--project-dir", str(self._folder), "--profiles-dir", str(self._folder)]
        run([str(_dbt()), "--no-use-colors", "snapshot", *where], {**os.environ, **_QUIET}, timed)


class SparkSnapshot:
    """dbt snapshot on Spark, in Iceberg tables on the local disk.

    :param home: RTLAKE_HOME.
    :param folder: for the project and the tables.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._home, self._folder = home, folder
        _lay_down(
            folder, "type: spark, method: session, host: none, schema: main, threads: 1", ", file_format='iceberg'"
        )

    def source(self, path: Path) -> None:
        """Put the source's table into the catalog."""
        self._submit(None, "source", str(self._folder), str(path))

    def snapshot(self, timed: Timed | None = None) -> None:
        """One snapshot."""
        output = self._submit(timed, "snapshot", str(self._folder))
        if timed is not None:
            told = next(line for line in output.splitlines() if line.startswith("= "))
            timed.inner.append(json.loads(told[2:])["seconds"])

    def _submit(self, timed: Timed | None, *arguments: str) -> str:
        places = {"DBT_TARGET_PATH": str(self._folder / "target"), "DBT_LOG_PATH": str(self._folder / "logs")}
        variables = {**os.environ, **environment(self._home), **_QUIET, **places}
        return run(["spark-submit", "--driver-memory", "2g", str(_APPLICATION), *arguments], variables, timed)
