"""What the footer of a Parquet file tells without its rows being read.

Of a history's columns many hold the same in every row of a row group: who closed a version that is open still, the
partition of the topic, whether the row is deleted. The statistics tell so, and such a column need not be decoded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

FIELD_ID = b"PARQUET:field_id"
_LENGTH = 4  # bytes in which Parquet tells the length of a text
_MIXED = object()
K = TypeVar("K")
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The newest so many answers of a function."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The answer for a key, made where it is not known."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = make()
        with self._lock:
            self._known[key] = made
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return made


class Footer:
    """A file's metadata.

    :param metadata: Arrow's.
    """

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata
        self.schema: pa.Schema = metadata.schema.to_arrow_schema()
        self._sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._constants: dict[int, dict[str, Any]] = {}

    def rows(self, group: int) -> int:
        """Rows of a row group."""
        return int(self._sizes[group])

    def positions(self, groups: Sequence[int]) -> np.ndarray[Any, Any]:
        """Numbers in the file of the rows of some row groups."""
        return np.concatenate(
            [np.arange(self._starts[group], self._starts[group + 1], dtype=np.int64) for group in groups]
        )

    @cached_property
    def _columns(self) -> dict[str, int]:
        """Plain columns, by name."""
        if not self._sizes:
            return {}
        first = self.metadata.row_group(0)
        names = {first.column(index).path_in_schema: index for index in range(self.metadata.num_columns)}
        return {name: index for name, index in names.items() if name in self.schema.names}

    def bounds(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Least and greatest number of a column in each row group; None where that is not told."""
        index = self._columns.get(name)
        if index is None:
            return None
        found = [self.metadata.row_group(group).column(index).statistics for group in range(len(self._sizes))]
        if any(one is None or not one.has_min_max for one in found):
            return None
        return np.array([one.min for one in found], np.int64), np.array([one.max for one in found], np.int64)

    def repeating(self, group: int) -> set[str]:
        """Columns whose texts take up less room than their lengths would: the same ones over and over."""
        found = self.metadata.row_group(group)
        chunks = {name: found.column(index) for name, index in self._columns.items()}
        most = _LENGTH * self._sizes[group]
        return {
            name
            for name, chunk in chunks.items()
            if chunk.physical_type == "BYTE_ARRAY" and chunk.total_uncompressed_size < most
        }

    def constants(self, groups: Sequence[int]) -> set[str]:
        """Columns that hold one value, or null, in all rows of some row groups."""
        first, *others = (self._constants_of(group) for group in groups)
        return {name for name, value in first.items() if all(one.get(name, _MIXED) == value for one in others)}

    def constant(self, name: str, groups: Sequence[int], count: int) -> pa.Array:
        """So many rows of a column of :meth:`constants`."""
        kind, value = self.schema.field(name).type, self._constants_of(groups[0])[name]
        if value is None:
            return pa.nulls(count, kind)
        if pa.types.is_boolean(kind):
            return pa.repeat(pa.scalar(value), count)
        return pa.array(np.full(count, value, f"int{kind.bit_width}")).view(kind)

    def _constants_of(self, group: int) -> dict[str, Any]:
        if group not in self._constants:
            found = self.metadata.row_group(group)
            values = {
                name: _constant(found.column(i), self.schema.field(name).type) for name, i in self._columns.items()
            }
            self._constants[group] = {name: value for name, value in values.items() if value is not _MIXED}
        return self._constants[group]


def _constant(chunk: Any, kind: pa.DataType) -> Any:
    """The one value of a column in a row group, as Parquet stores it."""
    found = chunk.statistics
    if found is None or not found.has_null_count:
        return _MIXED
    if found.null_count == chunk.num_values:
        return None
    # Bounds of texts may be shortened, those of floating point numbers know neither -0.0 nor NaN.
    exact = pa.types.is_boolean(kind) or kind in _NUMBERS or pa.types.is_timestamp(kind)
    if not exact or found.null_count or not found.has_min_max or found.min_raw != found.max_raw:
        return _MIXED
    return found.min_raw


_NUMBERS = (pa.int32(), pa.int64(), pa.date32())
