"""PyIceberg's ``upsert``: it keeps the current rows only, in an Iceberg table of a SQL catalog in the same store."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import pyarrow.parquet as pq


def main(what: str, settings: str, table: str, path: str) -> None:
    """Make the table from a Parquet file, or upsert the file's rows into it.

    :param what: ``create``, ``upsert`` or ``check``.
    :param settings: the catalog's, as JSON without the store's keys.
    """
    from pyiceberg.catalog.sql import SqlCatalog

    begin = time.monotonic()
    keys = {
        "s3.access-key-id": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "s3.secret-access-key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    }
    catalog = SqlCatalog("bench", **json.loads(settings), **keys)
    answer: dict[str, Any] = {}
    if what == "create":
        rows = pq.read_table(path)
        catalog.create_namespace_if_not_exists(table.split(".")[0])
        catalog.create_table(table, rows.schema).append(rows)
    elif what == "upsert":
        catalog.load_table(table).upsert(pq.read_table(path), join_cols=["id"])
    else:
        answer["rows"] = catalog.load_table(table).scan(selected_fields=("id",)).to_arrow().num_rows
    print(f"= {json.dumps({**answer, 'seconds': round(time.monotonic() - begin, 3)})}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])
