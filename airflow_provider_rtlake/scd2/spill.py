"""Rows of bronze on the disk of the driver, parted by the hash of their key: a merge of any size takes part after part.

What must be published together (a first snapshot, one large transaction) may be larger than the driver's memory. Keys
do not depend on each other, but for those linked by a changed primary key: they are planned and written part by part.
Parts follow the buckets of the history and, inside a bucket, the order of its files, so that each part reads and writes
its own stretch of each file.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.scd2.bronze import COLUMNS
from airflow_provider_rtlake.scd2.columns import Batch, arrow_type, join
from airflow_provider_rtlake.scd2.rows import Array, Rows
from airflow_provider_rtlake.scd2.stretch import part_of

_KEY, _INDEX, _VALUE = "#key", "#index", "="


class Spill:
    """A folder of parts.

    :param buckets: of the history.
    :param parts: how many.
    """

    def __init__(self, buckets: int, parts: int) -> None:
        self.buckets, self.parts = buckets, parts
        self._folder = Path(tempfile.mkdtemp(prefix="rtlake-scd2-"))
        self._writers: dict[tuple[int, int], Any] = {}
        self._written: set[tuple[int, int]] = set()
        self._kinds: list[tuple[tuple[Any, ...], Any, tuple[str, ...]]] = []  # signature, shape, columns

    def add(self, batch: Batch, first: int) -> None:
        """Write rows down.

        :param first: number of the first of them among all rows.
        """
        kind = self._kind(batch)
        parts = part_of(batch.hashed, self.buckets, self.parts)
        order = np.argsort(parts, kind="stable")
        table = self._table(batch, first).take(pa.array(order))
        begin = 0
        for part, count in zip(*np.unique(parts, return_counts=True), strict=True):
            self._write(int(part), kind, table.slice(begin, int(count)))
            begin += int(count)

    def _kind(self, batch: Batch) -> int:
        for number, (signature, _, _) in enumerate(self._kinds):
            if signature == batch.signature:
                return number
        self._kinds.append((batch.signature, batch.shape, tuple(batch.values)))
        return len(self._kinds) - 1

    @staticmethod
    def _table(batch: Batch, first: int) -> pa.Table:
        content = {name: batch.rows[name] for name in COLUMNS.names}
        content |= {_KEY: batch.key, _INDEX: pa.array(np.arange(first, first + len(batch)))}
        return pa.table(content | {_VALUE + name: column for name, column in batch.values.items()})

    def _write(self, part: int, kind: int, rows: pa.Table) -> None:
        writer = self._writers.get((part, kind))
        if writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writer = pa.ipc.new_stream(str(self._path(part, kind)), rows.schema, options=options)
            self._writers[part, kind] = writer
            self._written.add((part, kind))
        writer.write_table(rows.combine_chunks())

    def _path(self, part: int, kind: int) -> Path:
        return self._folder / f"{part}-{kind}"

    def finish(self) -> None:
        """Nothing more is added."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def load(self, part: int, numbers: Rows) -> tuple[Batch, Array]:
        """Read a part back.

        :param part: which.
        :param numbers: of all rows.
        :return: their rows, and the number of each among all rows.
        """
        batches, places = [], []
        for kind, (signature, shape, columns) in enumerate(self._kinds):
            if (part, kind) not in self._written:
                continue
            table = self._read(part, kind)
            index = table[_INDEX].to_numpy()
            types = {column.name: arrow_type(column.iceberg) for column in shape.columns} if shape else {}
            batches.append(
                Batch(
                    rows=table.select(COLUMNS.names),
                    key=table[_KEY].combine_chunks(),
                    signature=signature,
                    shape=shape,
                    values={name: _one(table[_VALUE + name], types[name]) for name in columns},
                    changes={},
                    **numbers.numbers(index),
                )
            )
            places.append(index)
        return join(batches), np.concatenate([np.empty(0, np.int64), *places])

    def _read(self, part: int, kind: int) -> pa.Table:
        with pa.OSFile(str(self._path(part, kind)), "rb") as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()

    def drop(self) -> None:
        """Remove the folder."""
        self.finish()
        shutil.rmtree(self._folder, ignore_errors=True)


def _one(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    return column.combine_chunks() if column.num_chunks else pa.nulls(0, kind)
