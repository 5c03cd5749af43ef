"""Iceberg tables from Spark's driver: planned and committed through Iceberg's API, files read and written by Arrow.

A merge knows exactly which rows it replaces (data file and row number came with the versions it read) and has the new
rows at hand. So instead of a MERGE, which would read the table once more to find them, it writes the Parquet files and
the position deletes and commits both in one step. The object store's keys stay in the JVM's environment.
"""

from __future__ import annotations

import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, refuse_equality_delete
from airflow_provider_rtlake.scd2.tables import quoted

_DELETE_SCHEMA = pa.schema(
    [
        pa.field("file_path", pa.string(), False, metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
)
ROW_GROUP = 8192  # rows; small, so that ten keys among a million read a few row groups
_UPLOADS = 4
_PREFIX = "spark.sql.catalog."
_NESSIE = "org.apache.iceberg.nessie.NessieCatalog"
_MISSING = frozenset({"NoSuchTableException", "NoSuchNamespaceException"})
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

    def read(self, files: int, size: int, rows: int) -> None:
        """Count read files."""
        with self._lock:
            self.files_read += files
            self.bytes_listed += size
            self.rows_read += rows

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


class _Catalogs:
    """Makes catalogs of one Spark catalog's settings, one for each reference, that share their connections."""

    def __init__(self, spark: Any, catalog: str) -> None:
        self.settings = catalog_settings(spark, catalog)
        self._jvm = spark._jvm
        self._conf = spark._jsc.hadoopConfiguration()
        self._client: Any = None
        self._io: Any = None

    def catalog(self, name: str, ref: str, ref_hash: str | None) -> Any:
        """A catalog whose tables are those of a reference."""
        jvm = self._jvm
        if self.settings.get("catalog-impl") != _NESSIE:
            return jvm.org.apache.iceberg.CatalogUtil.buildIcebergCatalog(name, self.settings, self._conf)
        if self._client is None:
            client = jvm.org.projectnessie.client
            source = client.config.NessieClientConfigSources.mapConfigSource(
                {f"nessie.{key}": value for key, value in self.settings.items()}
            )
            builder = client.NessieClientBuilder.createClientBuilderFromSystemSettings(source)
            version = client.api.NessieApiV2 if self.settings["uri"].rstrip("/").endswith("2") else None
            api = builder.withUri(self.settings["uri"]).build(_class(jvm, version or client.api.NessieApiV1))
            self._client = jvm.org.apache.iceberg.nessie.NessieIcebergClient(api, ref, ref_hash, {})
            # Manifests never change, and each merge reads those of the merges before it.
            settings = {**self.settings, "io.manifest.cache-enabled": "true"}
            self._io = jvm.org.apache.iceberg.CatalogUtil.loadFileIO(self.settings["io-impl"], settings, self._conf)
        found = jvm.org.apache.iceberg.nessie.NessieCatalog()
        found.setConf(self._conf)
        settings = {**self.settings, "ref": ref, "cache-enabled": "false"}
        found.initialize(name, self._client.withReference(ref, ref_hash), self._io, settings)
        return found


def _class(jvm: Any, found: Any) -> Any:
    return jvm.java.lang.Class.forName(found._fqn)


_CATALOGS: dict[tuple[str, str], _Catalogs] = {}


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
        self._ref, self._ref_hash = ref, ref_hash
        key = (spark.sparkContext.applicationId, catalog)
        self._catalogs = _CATALOGS.get(key) or _CATALOGS.setdefault(key, _Catalogs(spark, catalog))
        self._catalog = self._catalogs.catalog(self.name, ref, ref_hash)
        self._known_to_sql = False

    @property
    def store(self) -> ObjectStore:
        """Where the files lie."""
        return ObjectStore(self._catalogs.settings)

    def quoted(self, table: str) -> str:
        """Full name of a table for SQL."""
        self._tell_sql()
        return ".".join(quoted(part) for part in (self.name, *table.split(".")))

    def _tell_sql(self) -> None:
        """Make the catalog known to Spark SQL: only statements need it, not reading and writing."""
        if self._known_to_sql:
            return
        self._known_to_sql = True
        settings = {**self._catalogs.settings, "cache-enabled": "false", "ref": self._ref}
        if self._ref_hash:
            settings["ref.hash"] = self._ref_hash
        self.spark.conf.set(_PREFIX + self.name, "org.apache.iceberg.spark.SparkCatalog")
        for key, value in settings.items():
            self.spark.conf.set(f"{_PREFIX}{self.name}.{key}", value)

    def sql(self, statement: str) -> None:
        """Run a statement."""
        self._tell_sql()
        self.spark.sql(statement)

    def table(self, name: str) -> Table | None:
        """A table as it is now, None where there is none.

        :param name: ``namespace.name``.
        """
        levels = name.split(".")
        namespace = self.jvm.org.apache.iceberg.catalog.Namespace.of(_strings(self.spark, levels[:-1]))
        identifier = self.jvm.org.apache.iceberg.catalog.TableIdentifier.of(namespace, levels[-1])
        try:
            return Table(self, name, self._catalog.loadTable(identifier))
        except Exception as error:  # py4j's, whose module is Spark's own
            java = getattr(error, "java_exception", None)
            if java is None or java.getClass().getSimpleName() not in _MISSING:
                raise
            return None

    def tables(self, names: Sequence[str]) -> list[Table | None]:
        """Several tables, loaded side by side."""
        return _in_parallel(self.table, names)

    def create_namespace(self, table: str) -> None:
        """Make a table's namespace if it is missing."""
        self._tell_sql()
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

    def appended_at(self) -> int | None:
        """When rows were appended last, microseconds UTC; None where no snapshot tells."""
        snapshot = self.java.currentSnapshot()
        while snapshot is not None:
            # Compaction and erasure commit too, but bring nothing from Kafka.
            if str(snapshot.operation()) == "append" and int(snapshot.summary().get("added-records") or 0):
                return int(snapshot.timestampMillis()) * 1000
            parent = snapshot.parentId()
            snapshot = None if parent is None else self.java.snapshot(parent)
        return None

    def tasks(
        self,
        *,
        start: int | None = None,
        end: int | None = None,
        last: bool | None = None,
        buckets: Sequence[int] | None = None,
    ) -> list[DataTask]:
        """Data files to read, as Iceberg plans them from its metadata.

        :param start: only files appended after this snapshot ...
        :param end: ... up to this one; alone: the table as it was then.
        :param last: only the partition of the last versions, or the other.
        :param buckets: only these partitions.
        """
        if start is not None:
            scan = self.java.newIncrementalAppendScan().fromSnapshotExclusive(start).toSnapshot(end)
        elif self.java.currentSnapshot() is None:
            return []
        else:
            scan = self.java.newScan() if end is None else self.java.newScan().useSnapshot(end)
        expressions = self._jvm.org.apache.iceberg.expressions.Expressions
        if last is not None:
            scan = scan.filter(expressions.equal("scd2_last", last))
        if buckets is not None:
            scan = scan.filter(getattr(expressions, "in")("scd2_bucket", list(buckets)))
        planned = scan.planFiles()
        found = []
        try:
            tasks = planned.iterator()
            while tasks.hasNext():
                found.append(_task(tasks.next()))
        finally:
            planned.close()
        return sorted(found, key=lambda task: task.path)

    def field_ids(self) -> dict[str, int]:
        """Name → field id of the columns."""
        return {field["name"]: int(field["id"]) for field in json.loads(self.schema_json)["fields"]}

    # --- writing ---

    def write(self, tables: Mapping[str, pa.Table], traffic: Traffic) -> list[Any]:
        """Write data files; nothing of them is visible before a commit.

        :param tables: partition path (empty for none) → rows.
        :return: Iceberg's data files.
        """
        return _in_parallel(lambda item: self._data_file(item[0], item[1], traffic), tables.items())

    def write_deletes(self, positions: Mapping[str, Mapping[str, Any]], traffic: Traffic) -> list[Any]:
        """Write position deletes.

        :param positions: partition path → data file → row numbers.
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

    def _delete_file(self, partition: str, positions: Mapping[str, Any], traffic: Traffic) -> Any:
        named = sorted(positions)
        numbers = [np.sort(np.asarray(positions[path], np.int64)) for path in named]
        codes = np.repeat(np.arange(len(named), dtype=np.int32), [len(found) for found in numbers])
        paths = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(named, pa.string())).cast(pa.string())
        rows = pa.table([paths, pa.array(np.concatenate(numbers))], schema=_DELETE_SCHEMA)
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
        pq.write_table(
            rows,
            local,
            compression="zstd",
            row_group_size=ROW_GROUP,
            store_schema=False,
            use_dictionary=repeating(rows) or False,
            store_decimal_as_integer=True,  # as Iceberg's specification has it, and quicker to decode
        )
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

    def replace(
        self,
        added: Sequence[Any],
        deletes: Sequence[Any],
        summary: Mapping[str, str],
        *,
        removed: Sequence[Any] = (),
        removed_deletes: Sequence[Any] = (),
    ) -> int:
        """Commit data files and position deletes as one snapshot; returns it.

        :param removed: data files that go.
        :param removed_deletes: delete files that go.
        """
        update = self.java.newRowDelta()
        for file in added:
            update = update.addRows(file)
        for file in deletes:
            update = update.addDeletes(file)
        for file in removed:
            update = update.removeRows(file)
        for file in removed_deletes:
            update = update.removeDeletes(file)
        return self._commit(update, summary)

    def _commit(self, update: Any, summary: Mapping[str, str]) -> int:
        for key, value in summary.items():
            update = update.set(key, value)
        update.commit()  # which reads the table again itself
        return int(self.java.currentSnapshot().snapshotId())


def repeating(rows: pa.Table) -> list[str]:
    """Columns with few distinct values. A dictionary of the others would cost room and time, to write and to read."""
    sample = rows.slice(0, ROW_GROUP)
    found = []
    for name, column in zip(sample.column_names, sample.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind) or (
            not pa.types.is_nested(kind) and 2 * pc.count_distinct(column).as_py() <= len(column)
        ):
            found.append(name)
    return found


def _in_parallel(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    waiting = list(items)
    if len(waiting) < 2:
        return [work(item) for item in waiting]
    return list(_pool("files").map(work, waiting))


def begin_side_by_side(*works: Callable[[], Any]) -> list[Future[Any]]:
    """Start functions; their results tell when they have ended."""
    return [_pool("steps").submit(work) for work in works]


def begin_leaves(work: Callable[[Any], T], items: Iterable[Any]) -> list[Future[T]]:
    """Start a function over items that waits for no other such function."""
    return [_pool("files").submit(work, item) for item in items]


def side_by_side(*works: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time; all have ended when this returns, or raises the first error."""
    running = [_pool("steps").submit(work) for work in works]
    wait(running)
    return [one.result() for one in running]


@lru_cache(maxsize=2)
def _pool(_name: str) -> ThreadPoolExecutor:
    # Kept: each thread has a connection to the JVM. Two of them: a step waits for its files.
    return ThreadPoolExecutor(_UPLOADS)


def _task(java: Any) -> DataTask:
    file, listed = java.file(), java.deletes()
    deletes = {}
    for index in range(listed.size()):
        one = listed.get(index)
        path = str(one.location())
        refuse_equality_delete(path, str(one.content().toString()))
        deletes[path] = one
    return DataTask(
        path=str(file.location()),
        records=int(file.recordCount()),
        size=int(file.fileSizeInBytes()),
        deletes=tuple(deletes),
        java=file,
        java_deletes=deletes,
        partition=str(java.spec().partitionToPath(file.partition())),
    )
