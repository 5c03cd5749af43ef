"""Iceberg tables from Spark's driver: read by Spark, written as files of our own and committed through Iceberg's API.

A merge knows exactly which rows it replaces (data file and row number came with the versions it read) and has the new
rows at hand. So instead of a MERGE, which would read the table once more to find them, it writes the Parquet files and
the position deletes and commits both in one step. The object store's keys stay in the JVM's environment.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.tables import quoted

_DELETE_SCHEMA = pa.schema(
    [
        pa.field("file_path", pa.string(), False, metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
)
ROW_GROUP = 8192  # rows; small, so that ten keys among a million read a few row groups
_UPLOADS = 4
_SCAN_METRICS = ("resultDataFiles", "resultDeleteFiles", "totalDataFileSize", "totalDeleteFileSize", "numOutputRows")
_PREFIX = "spark.sql.catalog."
T = TypeVar("T")


@dataclass
class Traffic:
    """What a merge read and wrote.

    :param files_read: data and delete files that were opened.
    :param bytes_listed: their whole size; of a file only some row groups and columns are read.
    :param rows_read: rows of the row groups that were read.
    """

    files_read: int = 0
    bytes_listed: int = 0
    rows_read: int = 0
    files_written: int = 0
    bytes_written: int = 0
    rows_written: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wrote(self, size: int, rows: int) -> None:
        """Count a written file."""
        with self._lock:
            self.files_written += 1
            self.bytes_written += size
            self.rows_written += rows

    def as_json(self) -> dict[str, int]:
        """For the statistics."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def catalog_settings(spark: Any, catalog: str) -> dict[str, str]:
    """Settings of one of Spark's catalogs.

    :raises UserError: Spark has no such catalog.
    """
    prefix = f"{_PREFIX}{catalog}."
    found = spark._jvm.scala.collection.JavaConverters.mapAsJavaMap(spark._jsparkSession.conf().getAll())
    settings = {str(key)[len(prefix) :]: str(value) for key, value in found.items() if key.startswith(prefix)}
    if "uri" not in settings:
        raise UserError(f"Spark's settings know no catalog {catalog}: set {prefix}uri in spark-defaults.conf")
    return settings


class Lake:
    """One reference of the lakehouse's catalog.

    :param spark: the session.
    :param catalog: name of the catalog in Spark's settings, which this one is a copy of but for the reference.
    :param ref: Nessie reference.
    :param ref_hash: its commit, where the reference must not move.
    """

    def __init__(self, spark: Any, catalog: str, ref: str, ref_hash: str | None = None) -> None:
        self.spark = spark
        self.jvm = spark._jvm
        # A catalog keeps its settings from its first use on: each reference gets a name of its own.
        self.name = f"rt_{uuid.uuid4().hex[:12]}"
        settings = {**catalog_settings(spark, catalog), "cache-enabled": "false", "ref": ref}
        if ref_hash:
            settings["ref.hash"] = ref_hash
        spark.conf.set(_PREFIX + self.name, "org.apache.iceberg.spark.SparkCatalog")
        for key, value in settings.items():
            spark.conf.set(f"{_PREFIX}{self.name}.{key}", value)

    def quoted(self, table: str) -> str:
        """Full name of a table for SQL."""
        return ".".join(quoted(part) for part in (self.name, *table.split(".")))

    def sql(self, statement: str) -> None:
        """Run a statement."""
        self.spark.sql(statement)

    def table(self, name: str) -> Table | None:
        """A table as it is now, None where there is none.

        :param name: ``namespace.name``.
        """
        catalog = self.jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergCatalog(self.spark._jsparkSession, self.name)
        levels = name.split(".")
        namespace = self.jvm.org.apache.iceberg.catalog.Namespace.of(_strings(self.spark, levels[:-1]))
        identifier = self.jvm.org.apache.iceberg.catalog.TableIdentifier.of(namespace, levels[-1])
        if not catalog.tableExists(identifier):
            return None
        return Table(self, name, catalog.loadTable(identifier))

    def create_namespace(self, table: str) -> None:
        """Make a table's namespace if it is missing."""
        parts = [quoted(part) for part in (self.name, *table.split(".")[:-1])]
        self.sql(f"CREATE NAMESPACE IF NOT EXISTS {'.'.join(parts)}")


def _strings(spark: Any, values: Sequence[str]) -> Any:
    array = spark.sparkContext._gateway.new_array(spark._jvm.java.lang.String, len(values))
    for index, value in enumerate(values):
        array[index] = value
    return array


class Table:
    """One Iceberg table.

    :param lake: where it is.
    :param name: ``namespace.name``.
    :param java: Iceberg's table.
    """

    def __init__(self, lake: Lake, name: str, java: Any) -> None:
        self.lake = lake
        self.name = name
        self.java = java
        self._jvm = lake.jvm

    @property
    def schema_json(self) -> str:
        """Iceberg's JSON of the schema."""
        return str(self._jvm.org.apache.iceberg.SchemaParser.toJson(self.java.schema()))

    @property
    def properties(self) -> dict[str, str]:
        """Table properties."""
        return dict(self.java.properties())

    @property
    def snapshot_id(self) -> int | None:
        """Current snapshot."""
        snapshot = self.java.currentSnapshot()
        return None if snapshot is None else int(snapshot.snapshotId())

    def summary(self, snapshot: Any = None) -> dict[str, str]:
        """Summary of a snapshot, by default the current one."""
        snapshot = snapshot or self.java.currentSnapshot()
        return {} if snapshot is None else dict(snapshot.summary())

    def newest_with(self, key: str) -> str | None:
        """The value of a summary key in the newest snapshot that has it."""
        snapshot = self.java.currentSnapshot()
        while snapshot is not None:
            value = snapshot.summary().get(key)
            if value is not None:
                return str(value)
            parent = snapshot.parentId()
            snapshot = None if parent is None else self.java.snapshot(parent)
        return None

    def has_ancestor(self, snapshot_id: int) -> bool:
        """Whether a snapshot is there still, and the current one came from it."""
        if self.java.snapshot(snapshot_id) is None or self.java.currentSnapshot() is None:
            return False
        return bool(self._jvm.org.apache.iceberg.util.SnapshotUtil.isAncestorOf(self.java, snapshot_id))

    def appended_since(self, start: int | None) -> list[tuple[int, int]]:
        """Snapshots after ``start`` (all, for None), oldest first, with the rows that each added."""
        found = []
        snapshot = self.java.currentSnapshot()
        while snapshot is not None and snapshot.snapshotId() != start:
            found.append((int(snapshot.snapshotId()), int(snapshot.summary().get("added-records") or 0)))
            parent = snapshot.parentId()
            snapshot = None if parent is None else self.java.snapshot(parent)
        return found[::-1]

    def frame(self, start: int | None = None, end: int | None = None) -> Any:
        """The table as a data frame: all of it, or what was appended after ``start`` up to ``end``."""
        reader = self.lake.spark.read.format("iceberg")
        if start is not None:
            reader = reader.option("start-snapshot-id", start).option("end-snapshot-id", end)
        elif end is not None:
            reader = reader.option("snapshot-id", end)
        return reader.load(self.lake.quoted(self.name))

    # --- writing ---

    def write(self, tables: Mapping[str, pa.Table], traffic: Traffic) -> list[Any]:
        """Write data files; nothing of them is visible before a commit.

        :param tables: partition path (empty for none) → rows.
        :return: Iceberg's data files.
        """
        return _in_parallel(lambda item: self._data_file(item[0], item[1], traffic), tables.items())

    def write_deletes(self, positions: Mapping[str, Iterable[tuple[str, int]]], traffic: Traffic) -> list[Any]:
        """Write position deletes.

        :param positions: partition path → data file and row number.
        :return: Iceberg's delete files.
        """
        return _in_parallel(lambda item: self._delete_file(item[0], item[1], traffic), positions.items())

    def _data_file(self, partition: str, rows: pa.Table, traffic: Traffic) -> Any:
        location, local, size = self._upload(partition, rows, "data", traffic)
        iceberg = self._jvm.org.apache.iceberg
        metrics = iceberg.parquet.ParquetUtil.fileMetrics(
            iceberg.Files.localInput(local), iceberg.MetricsConfig.forTable(self.java)
        )
        Path(local).unlink()
        builder = iceberg.DataFiles.builder(self.java.spec()).withPath(location).withFormat("PARQUET")
        builder = builder.withFileSizeInBytes(size).withMetrics(metrics)
        return (builder.withPartitionPath(partition) if partition else builder).build()

    def _delete_file(self, partition: str, positions: Iterable[tuple[str, int]], traffic: Traffic) -> Any:
        ordered = sorted(positions)
        rows = pa.table(
            [pa.array([path for path, _ in ordered]), pa.array([pos for _, pos in ordered], pa.int64())],
            schema=_DELETE_SCHEMA,
        )
        location, local, size = self._upload(partition, rows, "deletes", traffic)
        iceberg = self._jvm.org.apache.iceberg
        metrics = iceberg.parquet.ParquetUtil.fileMetrics(
            iceberg.Files.localInput(local), iceberg.MetricsConfig.forPositionDelete()
        )
        Path(local).unlink()
        builder = iceberg.FileMetadata.deleteFileBuilder(self.java.spec()).ofPositionDeletes()
        builder = builder.withPath(location).withFormat("PARQUET").withFileSizeInBytes(size).withMetrics(metrics)
        return (builder.withPartitionPath(partition) if partition else builder).build()

    def _upload(self, partition: str, rows: pa.Table, kind: str, traffic: Traffic) -> tuple[str, str, int]:
        name = f"{uuid.uuid4()}-{kind}.parquet"
        local = str(Path(tempfile.gettempdir()) / name)
        pq.write_table(rows, local, compression="zstd", row_group_size=ROW_GROUP, store_schema=False)
        size = Path(local).stat().st_size
        location = self.java.locationProvider().newDataLocation(f"{partition}/{name}" if partition else name)
        stream = self.java.io().newOutputFile(location).create()
        try:
            self._jvm.java.nio.file.Files.copy(self._jvm.java.io.File(local).toPath(), stream)
        finally:
            stream.close()
        traffic.wrote(size, rows.num_rows)
        return str(location), local, size

    def append(self, files: Sequence[Any], summary: Mapping[str, str]) -> int:
        """Commit data files; returns the new snapshot."""
        update = self.java.newAppend()
        for file in files:
            update = update.appendFile(file)
        return self._commit(update, summary)

    def replace(self, added: Sequence[Any], deletes: Sequence[Any], summary: Mapping[str, str]) -> int:
        """Commit data files and position deletes as one snapshot; returns it."""
        update = self.java.newRowDelta()
        for file in added:
            update = update.addRows(file)
        for file in deletes:
            update = update.addDeletes(file)
        return self._commit(update, summary)

    def _commit(self, update: Any, summary: Mapping[str, str]) -> int:
        for key, value in summary.items():
            update = update.set(key, value)
        update.commit()
        self.java.refresh()
        return int(self.java.currentSnapshot().snapshotId())


def _in_parallel(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    waiting = list(items)
    if len(waiting) < 2:
        return [work(item) for item in waiting]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        return list(pool.map(work, waiting))


def collect(frame: Any, traffic: Traffic | None = None) -> pa.Table:
    """A data frame's rows as one Arrow table in the driver, without pandas.

    :param traffic: counts what Spark read for it.
    """
    batches = frame._collect_as_arrow()
    if traffic is not None:
        _count_scans(frame, traffic)
    if batches:
        return pa.Table.from_batches(batches)
    from pyspark.sql.pandas.types import to_arrow_schema

    return to_arrow_schema(frame.schema).empty_table()


def _count_scans(frame: Any, traffic: Traffic) -> None:
    """Add up what Iceberg's scans say of themselves: files and bytes left after pruning, rows read from them."""
    jvm = frame.sparkSession._jvm
    leaves = frame._jdf.queryExecution().executedPlan().collectLeaves().iterator()
    while leaves.hasNext():
        metrics = jvm.scala.collection.JavaConverters.mapAsJavaMap(leaves.next().metrics())
        found = {name: int(metrics[name].value()) for name in _SCAN_METRICS if name in metrics}
        traffic.files_read += found.get("resultDataFiles", 0) + found.get("resultDeleteFiles", 0)
        traffic.bytes_listed += found.get("totalDataFileSize", 0) + found.get("totalDeleteFileSize", 0)
        traffic.rows_read += found.get("numOutputRows", 0) if "resultDataFiles" in found else 0
