"""What a declaration may ask of the lanes: types of Pinot tables, plain Parquet files, and a lane that goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pyarrow.fs
import pyarrow.parquet
import pytest

from airflow_provider_rtlake.clients.flink import pauses
from airflow_provider_rtlake.demo.access import Access, table_name
from airflow_provider_rtlake.kit.stack import Stack
from tests.declared import Declared

pytestmark = pytest.mark.integration

MONEY = """
table: {table}
mode: upsert
kafka: {{topic: {topic}, cleanup_policy: compact}}
time_column: last_updated_ts
upsert: {{primary_key: [id], comparison_column: position}}
columns:
  id: {{type: INT}}
  note: {{type: STRING}}
  price: {{type: STRING}}
  made: {{type: STRING}}
  is_deleted: {{type: BOOLEAN}}
  position: {{type: STRING, dictionary: false}}
  last_updated_ts: {{type: LONG, field: dateTime}}
  event_id: {{type: STRING, dictionary: false}}
"""
EXACT = "12345678901234567.10"
COLUMNS = ("topic", "topic_partition", "topic_offset", "message_key", "op", "value_schema", "payload", "dt")


def _staged(stack: Stack, folder: str) -> list[dict[str, Any]]:
    """Rows of the Parquet files, with the day that their folder is named after."""
    s3 = stack.connection("rtlake_s3")
    files = pyarrow.fs.S3FileSystem(
        access_key=s3.login,
        secret_key=stack.password("rtlake_s3"),
        endpoint_override=str(s3.extra["endpoint_url"]),
        region=str(s3.extra.get("region_name", "us-east-1")),
    )
    root = f"streaming/staging/{folder}"
    found = []
    for one in files.get_file_info(pyarrow.fs.FileSelector(root, recursive=True)):
        if one.is_file and one.size:
            day = one.path.removeprefix(f"{root}/").split("/")[0].removeprefix("dt=")
            with files.open_input_file(one.path) as data:
                found += [{**row, "dt": day} for row in pyarrow.parquet.ParquetFile(data).read().to_pylist()]
    files.delete_dir_contents(root)
    return found


@pytest.mark.timeout(1_200)
def test_declared_types_staging_truncate_and_prune(
    declare: Callable[..., Declared],
    pg: psycopg.Connection[Any],
    stack: Stack,
    access: Access,
    rtlake: Callable[..., str],
) -> None:
    """One deployment for all of it: a lane's start takes its time."""
    folder = f"it_staging_{int(time.time())}"
    ddl = "CREATE TABLE {table} (id int PRIMARY KEY, note text, price numeric(19,2), made timestamptz)"
    declared = declare(
        {"public.it_transactions": ddl, "public.it_pruned": "CREATE TABLE {table} (id int PRIMARY KEY)"},
        {"public.it_transactions": {"parquet_staging": folder}, "public.it_pruned": {"realtime": False}},
        deploy=False,
    )
    stream = declared.streams["public.it_transactions"]
    pinot = declared.folder / "pinot" / "it.yaml"
    pinot.write_text(MONEY.format(table=stream.pinot_current, topic=stream.current_topic))
    declared.deploy()

    # Declared types reach the lane: the exact text, where a double would have 15 digits.
    pg.execute("INSERT INTO public.it_transactions SELECT n, 'n' || n, n, now() FROM generate_series(1, 300) n")
    pg.execute(f"UPDATE public.it_transactions SET price = {EXACT} WHERE id = 7")
    declared.agree(lanes=("bronze", "realtime"))
    assert access.pinot(f'SELECT price FROM "{stream.pinot_current}" WHERE id = 7') == [[EXACT]]

    # A truncate names no row; Pinot is told of them.
    pg.execute("TRUNCATE public.it_transactions")
    pg.execute("INSERT INTO public.it_transactions VALUES (7, 'again', 1, now())")
    changes = f"SELECT count(*) FROM \"{stream.pinot_history}\" WHERE op IN ('t', 'c') AND after_id = 7 OR op = 't'"
    _until(lambda: access.pinot(changes)[0][0] >= 3)
    assert "public.it_transactions: 299 rows" in rtlake("stream", "truncates", *declared.where)
    (hops, _) = declared.agree(lanes=("bronze", "realtime"))
    assert hops.rows["pinot_current"] == 1
    assert "public.it_transactions: 0 rows" in rtlake("stream", "truncates", *declared.where)

    # The plain files hold what bronze holds.
    rtlake("stream", "stop", "public.it_transactions", "--lane", "bronze", *declared.where)
    staged = {tuple(row[name] for name in COLUMNS) for row in _staged(stack, folder)}
    bronze = access.trino(f"SELECT {', '.join(COLUMNS)} FROM {table_name(stream.bronze_table)}")
    assert len(bronze) == 303
    assert staged == {tuple(row) for row in bronze}

    # A table that is declared no longer loses its lane, the others keep theirs.
    file = declared.folder / "it.yaml"
    file.write_text(file.read_text().replace("  public.it_pruned:\n    realtime: false\n", ""))
    assert "it_pruned" not in file.read_text()
    tables = ["--tables", str(declared.folder / "pinot")]
    told = rtlake("stream", "apply", "--prune", *declared.where, *tables)
    assert told.count("stopped (not declared)") == 1
    assert f"bronze.{stream.connector.topic_prefix}.public.it_pruned: stopped" in told
    assert '"ok": true' in rtlake("stream", "status", *declared.where, *tables, "--json")


def _until(holds: Callable[[], bool]) -> None:
    for _ in pauses(60):
        if holds():
            return
    pytest.fail("did not come about within 60 s")
