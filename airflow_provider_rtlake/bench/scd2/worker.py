"""A process of one side: ours with a warm session, and the writing of bronze. Reads commands, one JSON a line.

``load`` appends a file of the workload to bronze; ``merge`` merges it; ``check`` tells the history's rows.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_provider_rtlake.bench.scd2.data import BRONZE
from airflow_provider_rtlake.scd2.job import merge_tables, session
from airflow_provider_rtlake.scd2.lake import Lake, Traffic
from airflow_provider_rtlake.scd2.reads import Wanted, read_files
from airflow_provider_rtlake.scd2.request import MergeRequest


class Worker:
    """One table of orders and its merges.

    :param spark: the session.
    """

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._request: MergeRequest | None = None

    def create(self, request: dict[str, Any], path: str) -> dict[str, Any]:
        """Make the table's bronze.

        :param path: file of the rows that its first snapshot makes.
        """
        self._request = MergeRequest(**request)
        lake = Lake(self._spark, self._request.catalog, self._request.main)
        lake.create_namespace(self._request.bronze)
        lake.sql(
            f"CREATE TABLE {lake.quoted(self._request.bronze)} ({BRONZE}) USING iceberg PARTITIONED BY (dt) "
            "TBLPROPERTIES ('format-version'='2')"
        )
        return self.load(path)

    def load(self, path: str) -> dict[str, Any]:
        """Append the rows of a file to bronze, as the bronze lane does: in commits of some seconds each.

        :param path: of a Parquet file, one row group a commit.
        """
        if self._request is None:
            raise ValueError("create comes first")
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = Lake(self._spark, self._request.catalog, self._request.main).table(self._request.bronze)
            if table is None:
                raise ValueError("bronze is not there")
            schema = bronze_schema(table.schema_json)
            part = file.read_row_group(group).combine_chunks()
            part = _conformed(part, schema)
            table.append(table.write({"dt=2026-01-01": part}, Traffic()), {})
        pa.default_memory_pool().release_unused()
        return {"rows": file.metadata.num_rows}

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
        # Writers differ in whether they mark columns as never null.
        rows = pa.concat_tables(read_files(table.lake.store, table.tasks(), wanted), promote_options="default")
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


def _conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with a schema; texts of which there are few stay so, for in the file they are the same."""
    kinds = [rows[one.name].type if pa.types.is_dictionary(rows[one.name].type) else one.type for one in schema]
    own = pa.schema([one.with_type(kind) for one, kind in zip(schema, kinds, strict=True)])
    return pa.table([rows[one.name].cast(one.type) for one in own], schema=own)


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
