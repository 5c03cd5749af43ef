"""dbt snapshot on Spark and Iceberg, in one spark-submit: ``source FOLDER FILE`` or ``snapshot FOLDER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(what: str, folder: str, *files: str) -> None:
    """Bring the source's table, or take a snapshot of it.

    :param what: ``source`` or ``snapshot``.
    :param folder: of the dbt project; the tables are in it, in a catalog without a server.
    :param files: the source's rows.
    """
    from airflow_provider_rtlake.bench.dbt_spark_app import session

    begin = time.monotonic()
    root = Path(folder)
    spark = session(root / "warehouse")
    if what == "source":
        spark.sql("CREATE NAMESPACE IF NOT EXISTS main")
        spark.read.parquet(f"file://{files[0]}").writeTo("main.orders").using("iceberg").createOrReplace()
    else:
        from dbt.cli.main import dbtRunner

        started = time.monotonic()
        where = ["--project-dir", folder, "--profiles-dir", folder]
        done = dbtRunner().invoke(["--no-use-colors", "snapshot", *where])
        if not done.success:
            messages = [str(one.message) for one in getattr(done.result, "results", None) or ()]
            raise SystemExit(f"dbt snapshot: {done.exception or '; '.join(messages)}")
        told = {"seconds": round(time.monotonic() - started, 3), "session": round(started - begin, 3)}
        print(f"= {json.dumps(told)}", flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
