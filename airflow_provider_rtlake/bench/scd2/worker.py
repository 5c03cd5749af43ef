"""A process of one side: ours with a warm session, and the writing of bronze. Reads commands, one JSON a line.

``load`` appends a batch of the workload to bronze; ``merge`` merges it; ``check`` tells the history's rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_provider_rtlake.bench.scd2.data import BRONZE, Orders
from airflow_provider_rtlake.scd2.job import merge_tables, session
from airflow_provider_rtlake.scd2.lake import Lake, Traffic
from airflow_provider_rtlake.scd2.reads import Wanted, read_files
from airflow_provider_rtlake.scd2.request import MergeRequest

_COMMIT_ROWS = 100_000


class Worker:
    """One table of orders and its merges.

    :param spark: the session.
    """

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._orders: Orders | None = None
        self._request: MergeRequest | None = None

    def create(self, request: dict[str, Any], keys: int, seed: int) -> dict[str, Any]:
        """Make the table's bronze, with its first snapshot."""
        self._request = MergeRequest(**request)
        self._orders = Orders(keys, seed)
        lake = Lake(self._spark, self._request.catalog, self._request.main)
        lake.create_namespace(self._request.bronze)
        lake.sql(
            f"CREATE TABLE {lake.quoted(self._request.bronze)} ({BRONZE}) USING iceberg PARTITIONED BY (dt) "
            "TBLPROPERTIES ('format-version'='2')"
        )
        self._append(self._orders.snapshot())
        return {}

    def load(self, changes: int, folder: str | None = None) -> dict[str, Any]:
        """Append one batch to bronze.

        :param folder: where the altered rows go as Parquet, for the other sides.
        """
        if self._orders is None:
            raise ValueError("create comes first")
        rows, altered = self._orders.change(changes)
        self._append(rows)
        if folder:
            pq.write_table(altered, Path(folder) / "altered.parquet")
        return {"rows": rows.num_rows}

    def whole(self, path: str) -> dict[str, Any]:
        """Write the source's table as Parquet, for the other sides."""
        if self._orders is None:
            raise ValueError("create comes first")
        table = self._orders.whole()
        pq.write_table(table, path)
        return {"rows": table.num_rows}

    def merge(self) -> dict[str, Any]:
        """Merge what is new; the statistics."""
        if self._request is None:
            raise ValueError("create comes first")
        begin = time.monotonic()
        (result,) = merge_tables(self._spark, [self._request])
        return {**result, "wall": round(time.monotonic() - begin, 3)}

    def check(self, history: str) -> dict[str, Any]:
        """What a history holds: versions, open ones, and a sum over the amounts of those."""
        if self._request is None:
            raise ValueError("create comes first")
        table = Lake(self._spark, self._request.catalog, self._request.main).table(history)
        if table is None:
            raise ValueError(f"{history} is not there")
        ids = table.field_ids()
        wanted = Wanted({name: ids[name] for name in ("id", "amount", "is_current")})
        rows = pa.concat_tables(read_files(table.lake.store, table.tasks(), wanted))
        current = rows.filter(rows["is_current"])
        total = pc.sum(current["amount"].cast(pa.decimal128(20, 2))).as_py()
        return {"versions": rows.num_rows, "open": current.num_rows, "amount": str(total)}

    def drop(self, tables: list[str]) -> dict[str, Any]:
        """Remove tables."""
        if self._request is not None:
            lake = Lake(self._spark, self._request.catalog, self._request.main)
            for table in tables:
                lake.sql(f"DROP TABLE IF EXISTS {lake.quoted(table)}")
        return {}

    def _append(self, rows: pa.Table) -> None:
        if self._request is None:
            raise ValueError("create comes first")
        table = Lake(self._spark, self._request.catalog, self._request.main).table(self._request.bronze)
        if table is None:
            raise ValueError("bronze is not there")
        schema = bronze_schema(table.schema_json)
        # As the bronze lane does: commits of some seconds each.
        for start in range(0, rows.num_rows, _COMMIT_ROWS):
            part = rows.slice(start, _COMMIT_ROWS).combine_chunks()
            part = pa.table([part[name.name].cast(name.type) for name in schema], schema=schema)
            table.append(table.write({"dt=2026-01-01": part}, Traffic()), {})


def bronze_schema(iceberg_json: str) -> pa.Schema:
    """Arrow's schema of bronze, with the field ids that its files must carry."""
    kinds = {
        "string": pa.string(), "int": pa.int32(), "long": pa.int64(), "timestamptz": pa.timestamp("us", tz="UTC")
    }  # fmt: skip
    fields = []
    for field in json.loads(iceberg_json)["fields"]:
        kind = field["type"]
        if isinstance(kind, dict):
            key = pa.field("key", pa.string(), nullable=False, metadata=_id(kind["key-id"]))
            found: pa.DataType = pa.map_(key, pa.field("value", pa.string(), metadata=_id(kind["value-id"])))
        else:
            found = kinds[kind]
        fields.append(pa.field(field["name"], found, metadata=_id(field["id"])))
    return pa.schema(fields)


def _id(number: int) -> dict[str, str]:
    return {"PARQUET:field_id": str(number)}


def main() -> None:
    """Answer commands until the input ends; answers are lines that begin with ``= ``."""
    spark = session("rtlake-bench-scd2")
    worker = Worker(spark)
    print("= {}", flush=True)
    try:
        for line in sys.stdin:
            command = json.loads(line)
            answer = getattr(worker, command.pop("do"))(**command)
            print(f"= {json.dumps(answer)}", flush=True)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
