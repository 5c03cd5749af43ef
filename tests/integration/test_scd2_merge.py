"""The merge on real Spark, Iceberg and Nessie. Bronze is written by Spark, in the layout of the bronze lane."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_rtlake.clients.nessie import MergeResult, NessieClient
from airflow_provider_rtlake.exceptions import ServiceUnavailable
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.change import RawChange, key_hash
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.submit import environment
from airflow_provider_rtlake.scd2.tables import SchemaIncompatible
from tests.oracle import Oracle
from tests.scd2_source import COLLECTION, Source, column
from tests.unit.test_scd2_fold_random import deliveries, history

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # PySpark's own, on Python 3.11
    pytest.mark.timeout(1800),
]
NAMESPACE = "scd2_tests"
BRONZE = (
    "topic string, topic_partition int, topic_offset bigint, kafka_ts timestamp, message_key string, "
    "headers map<string,string>, op string, value_schema string, payload string, dt string"
)
STEPS = ["branch", "tables", "write history", "write changes", "check", "write checkpoint", "publish"]


@pytest.fixture(scope="module")
def spark(stack: Stack) -> Iterator[Any]:
    """A session in this process, with the settings and the environment of the installed Spark."""
    home = Path(environment(stack.home)["PATH"].split(os.pathsep)[0]).parent
    script = f"set -a; . {home}/conf/spark-env.sh; env -0"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in told.split("\0") if "=" in line)
    kept = {name: settings[name] for name in settings if name.startswith(("AWS_", "JAVA_", "SPARK_"))}
    os.environ.update(kept, SPARK_HOME=str(home), SPARK_CONF_DIR=str(home / "conf"))
    libraries = [str(home / "python"), *map(str, (home / "python" / "lib").glob("py4j-*.zip"))]
    sys.path[:0] = libraries
    for name in [name for name in sys.modules if name.split(".")[0] in ("pyspark", "py4j")]:
        del sys.modules[name]
    from airflow_provider_rtlake.scd2.job import session

    found = session("scd2-tests")
    found.sql(f"CREATE NAMESPACE IF NOT EXISTS nessie.{NAMESPACE}")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def nessie(stack: Stack) -> Iterator[NessieClient]:
    """The catalog's API."""
    with NessieClient(f"{stack.connection('rtlake_nessie').url}/api/v2") as client:
        yield client


class Table:
    """A captured table of its own: its bronze, and merges of it."""

    def __init__(self, spark: Any, nessie: NessieClient, **request: Any) -> None:
        self.spark, self.nessie = spark, nessie
        name = f"{NAMESPACE}.t{uuid.uuid4().hex[:10]}"
        self.request = MergeRequest(
            history=f"{name}_scd2_iceberg",
            base=f"{name}_scd2",
            bronze=f"{name}_bronze",
            collection=COLLECTION,
            **{"patience_seconds": 10**9, "snapshot_patience_seconds": 10**9, **request},
        )
        spark.sql(
            f"CREATE TABLE nessie.{self.request.bronze} ({BRONZE}) USING iceberg PARTITIONED BY (dt) "
            "TBLPROPERTIES ('format-version'='2')"
        )

    def arrive(self, raws: list[RawChange]) -> None:
        """One commit of the bronze lane."""
        rows = [
            (
                *raw[:3],
                datetime.fromtimestamp(raw.kafka_ts / 1e6, timezone.utc),
                *raw[4:],
                "2026-01-01",
            )
            for raw in raws
        ]
        frame = self.spark.createDataFrame(rows, BRONZE)
        frame.writeTo(f"nessie.{self.request.bronze}").append()

    def merge(self, nessie: Any = None, crash: Callable[[str], None] | None = None) -> Any:
        """One merge."""
        from airflow_provider_rtlake.scd2.job import merge_once

        return merge_once(self.spark, self.request, nessie or self.nessie, crash)

    def rows(self) -> list[Any]:
        """The history on main."""
        frame = self.spark.table(f"nessie.{self.request.history}")
        return sorted(frame.collect(), key=lambda row: (row.scd2_key, row.effective_start_ts))

    def facts(self) -> dict[str, list[tuple[Any, ...]]]:
        """As the oracle tells them."""
        result: dict[str, list[tuple[Any, ...]]] = {}
        for row in self.rows():
            values = {name: row[name] for name in ("id", "a", "b", "big", "note")}
            times = [
                None if row[name] is None else micros(row[name]) for name in ("effective_start_ts", "effective_end_ts")
            ]
            assert row.is_current == (row.effective_end_ts is None)
            result.setdefault(row.scd2_key, []).append((sorted(values.items()), *times, row.is_deleted))
        for key, versions in result.items():
            last = [row.scd2_last for row in self.rows_of(key)]
            assert last == [False] * (len(versions) - 1) + [True], key
        return result

    def rows_of(self, key: str) -> list[Any]:
        """Versions of a key."""
        return [row for row in self._all if row.scd2_key == key]

    @property
    def _all(self) -> list[Any]:
        if getattr(self, "_cached", None) is None or self._cached[0] != self.snapshots():
            self._cached = (self.snapshots(), self.rows())
        return list(self._cached[1])

    def snapshots(self) -> list[int | None]:
        """Snapshots of the three tables on main."""
        names = (self.request.history, self.request.changes, self.request.checkpoint)
        entries = [self.nessie.content(tuple(name.split("."))) for name in names]
        return [entry and entry.snapshot_id for entry in entries]

    def branches(self) -> list[str]:
        """What merges left."""
        return [ref.name for ref in self.nessie.references() if self.request.history in ref.name]


def micros(moment: datetime) -> int:
    # Spark's Python gives local times without a zone; the session's zone is UTC.
    whole = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return round((whole - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() * 1_000_000)


@pytest.fixture
def table(spark: Any, nessie: NessieClient) -> Table:
    """A captured table."""
    return Table(spark, nessie)


@pytest.mark.parametrize("full", [True, False])
def test_property_3_hundreds_of_histories_in_few_merges(spark: Any, nessie: NessieClient, full: bool) -> None:
    source, oracle = history(20261121 + full, full=full, untracked=frozenset({"note"}), keys=300, transactions=400)
    table = Table(spark, nessie, untracked=("note",), buckets=2)
    batches = deliveries(random.Random(5), source)
    quarter = -(-len(batches) // 4)
    for start in range(0, len(batches), quarter):
        table.arrive([raw for batch in batches[start : start + quarter] for raw in batch])
        assert table.merge().changed
    assert table.facts() == oracle.facts()
    assert len(oracle.facts()) > 100
    assert table.branches() == []


def written(table: Table) -> tuple[Source, Oracle]:
    """A table with a first merge done and a second batch in bronze."""
    source = Source()
    table.arrive(source.begin(1_000_000).insert(1, a="x").insert(2, a="y").insert(3, a="z").commit())
    table.merge()
    table.arrive(source.begin(2_000_000).update(1, a="x2").delete(2).insert(4, a="w").commit())
    return source, Oracle()


EXPECTED = [
    ('{"id":1}', "x", False),
    ('{"id":1}', "x2", True),
    ('{"id":2}', "y", False),
    ('{"id":3}', "z", True),
    ('{"id":4}', "w", True),
]


def content(table: Table) -> list[tuple[Any, ...]]:
    return [(row.scd2_key, row.a, row.is_current) for row in table.rows()]


class Killed(BaseException):
    """The process is gone."""


def test_property_16_killed_before_any_step_and_run_again(table: Table) -> None:
    written(table)
    before = table.snapshots()
    for step in STEPS:

        def crash(now: str, at: str = step) -> None:
            if now == at:
                raise Killed

        with pytest.raises(Killed):
            table.merge(crash=crash)
        assert table.snapshots() == before, step
    assert table.merge().changed
    assert content(table) == EXPECTED
    assert table.branches() == []


class LostAnswer:
    """Nessie's client, whose merge is applied but whose answer is lost."""

    def __init__(self, client: NessieClient, applied: bool) -> None:
        self._client, self._applied = client, applied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def merge(self, *args: Any, **kwargs: Any) -> MergeResult:
        if self._applied:
            self._client.merge(*args, **kwargs)
        raise ServiceUnavailable("Nessie", "no answer")


def test_property_16_after_a_lost_answer_the_checkpoint_on_main_decides(table: Table) -> None:
    written(table)
    with pytest.raises(ServiceUnavailable):
        table.merge(nessie=LostAnswer(table.nessie, applied=False))
    assert table.merge(nessie=LostAnswer(table.nessie, applied=True)).changed
    assert content(table) == EXPECTED
    assert not table.merge().changed
    assert content(table) == EXPECTED


def test_property_17_an_empty_cut_makes_no_branch_and_no_commit(table: Table) -> None:
    written(table)
    table.merge()
    before = table.snapshots()
    outcome = table.merge()
    assert (outcome.changed, table.snapshots(), table.branches()) == (False, before, [])


def test_property_1_redelivery_leaves_the_history_untouched(table: Table) -> None:
    source, _ = written(table)
    table.merge()
    before = table.snapshots()[:2]
    again = [raw._replace(topic_offset=raw.topic_offset + 500) for group in source.messages for raw in group]
    table.arrive(again)
    outcome = table.merge()
    assert outcome.statistics["duplicates"] == 6
    assert table.snapshots()[:2] == before
    assert content(table) == EXPECTED


def test_property_20_of_two_writers_at_once_one_fails_clearly(table: Table) -> None:
    written(table)

    def meanwhile(step: str) -> None:
        if step == "publish":
            table.merge()

    with pytest.raises(Overtaken):
        table.merge(crash=meanwhile)
    assert content(table) == EXPECTED
    assert not table.merge().changed
    assert table.branches() == []


def test_property_22_a_refused_batch_writes_nothing_and_names_rule_and_keys(table: Table) -> None:
    source, _ = written(table)
    table.merge()
    before = table.snapshots()
    bad = source.begin(3_000_000).insert(8, a="p").insert(9, a="q").commit()
    table.arrive([raw._replace(message_key='{"id":8}') for raw in bad])
    with pytest.raises(Refused, match=r'more than one row of a key: key \{"id":8\}'):
        table.merge()
    assert table.snapshots() == before


def test_property_22_a_branch_that_does_not_hold_what_was_written_is_kept(table: Table) -> None:
    written(table)
    before = table.snapshots()

    def spoil(step: str) -> None:
        if step == "check":
            branch = next(name for name in table.branches() if name.startswith("scd2/"))
            settings = {"ref": branch, "cache-enabled": "false"}
            from airflow_provider_rtlake.scd2.lake import Lake

            lake = Lake(table.spark, table.request.catalog, settings["ref"])
            lake.sql(f"DELETE FROM {lake.quoted(table.request.history)} WHERE a = 'w'")

    with pytest.raises(Refused, match=r"was to be written: key .*branch scd2-refused/.* is kept"):
        table.merge(crash=spoil)
    assert table.snapshots() == before
    kept = table.branches()
    assert len(kept) == 1
    assert table.merge().changed
    assert content(table) == EXPECTED
    assert table.branches() == kept
    table.nessie.delete_reference(kept[0])


def test_property_10_and_11_columns_come_go_and_widen(table: Table) -> None:
    source, _ = written(table)
    table.merge()
    wide = [field if field["field"] != "b" else column("b", "int64", type="INT8") for field in source.columns]
    source.columns = [field for field in wide if field["field"] != "note"] + [
        column("ex tra`.1", "boolean", type="BOOL")
    ]
    for row in source.rows.values():
        row.pop("note")
        row["ex tra`.1"] = None
    table.arrive(source.begin(4_000_000).update(1, b=2**40).update(3, **{"ex tra`.1": True}).commit())
    table.merge()
    current = {row.scd2_key: row for row in table.rows() if row.is_current}
    assert current['{"id":1}'].b == 2**40
    assert current['{"id":3}']["ex tra`.1"] is True
    assert len(table.rows()) == len(EXPECTED) + 2
    before = table.snapshots()
    source.columns = [column("a", "int64", type="INT8") if field["field"] == "a" else field for field in source.columns]
    table.arrive(source.begin(5_000_000).update(1, a=5).commit())
    with pytest.raises(SchemaIncompatible, match="column a is string in the history, and long"):
        table.merge()
    assert table.snapshots() == before


def test_property_18_replay_when_the_start_is_gone(table: Table) -> None:
    written(table)
    table.spark.sql(f"DELETE FROM nessie.{table.request.bronze} WHERE false")
    table.merge()
    before = content(table)
    bronze = f"nessie.{table.request.bronze}"
    rows = table.spark.table(bronze).collect()
    table.spark.sql(f"DROP TABLE {bronze}")
    table.spark.sql(f"CREATE TABLE {bronze} ({BRONZE}) USING iceberg PARTITIONED BY (dt)")
    table.spark.createDataFrame(rows, BRONZE).writeTo(bronze).append()
    table.merge()
    assert content(table) == before == EXPECTED


def test_cost_ten_changes_on_a_million_rows_read_few_rows(table: Table) -> None:
    from airflow_provider_rtlake.scd2.fold import Event, Version
    from airflow_provider_rtlake.scd2.job import Checkpoint
    from airflow_provider_rtlake.scd2.lake import Lake, Traffic
    from airflow_provider_rtlake.scd2.position import Position
    from airflow_provider_rtlake.scd2.tables import Layout

    source = Source()
    table.arrive(source.begin(1_000_000).insert(0, a="x").commit())
    table.merge()
    lake = Lake(table.spark, table.request.catalog, "main")
    iceberg = lake.table(table.request.history)
    assert iceberg is not None
    where = Position(1, 1, 0, 1)
    event = Event(where, 1, "p.public.t", 0, 0)
    sample = Version('{"id":0}', {"id": 0, "a": "x"}, 1_000_000, "stream", False, event, where)
    one = Layout(iceberg.schema_json, 1, frozenset()).rows([(sample, True)])[True, 0]
    count = 1_000_000
    keyed = sorted((key_hash(f'{{"id":{number}}}'), number) for number in range(1, count + 1))
    big = one.take(pa.array([0] * count, pa.int32()))
    for name, values in (
        ("id", [number for _, number in keyed]),
        ("scd2_key", [f'{{"id":{number}}}' for _, number in keyed]),
        ("scd2_key_hash", [hashed for hashed, _ in keyed]),
    ):
        index = big.schema.get_field_index(name)
        big = big.set_column(index, big.schema.field(name), pa.array(values, big.schema.field(name).type))
    iceberg.append(iceberg.write({"scd2_last=true/scd2_bucket=0": big}, Traffic()), {})
    assert Checkpoint is not None
    tx = source.begin(2_000_000)
    for number in range(1, 11):
        tx.rows[number * 90_001] = {"id": number * 90_001, "a": "x", "b": None, "big": None, "note": None}
        tx.update(number * 90_001, a="y")
    table.arrive(tx.commit())
    outcome = table.merge()
    found = outcome.statistics
    print(
        {
            name: found[name]
            for name in ("files_read", "bytes_listed", "rows_read", "files_written", "bytes_written", "seconds")
        }
    )
    assert (found["opened"], found["closed"]) == (10, 10)
    assert found["files_read"] <= 6
    assert found["rows_read"] <= 120_000
    assert found["bytes_written"] <= 200_000
