"""Small things that several modules do with Arrow's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.rows import NOWHERE, Array
from airflow_provider_rtlake.scd2.tables import python_values
from airflow_provider_rtlake.scd2.values import same


def codes(keys: pa.Array) -> tuple[Array, pa.Array]:
    """Texts as numbers, -1 for none, and the texts that the numbers stand for."""
    coded = keys.dictionary_encode()
    return pc.fill_null(coded.indices, NOWHERE).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary


def flat(column: Any) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def cast(column: Any, kind: pa.DataType) -> Any:
    """A column as a type."""
    return column if column.type == kind else column.cast(kind)


def alike(left: pa.Array, right: pa.Array) -> Array:
    """Whether values are the same, as :func:`.values.same` says; null is the same as null."""
    if pa.types.is_nested(left.type):
        pairs = zip(python_values(pa.chunked_array([left])), python_values(pa.chunked_array([right])), strict=True)
        return np.fromiter((same(one, other) for one, other in pairs), bool, len(left))
    if pa.types.is_floating(left.type):
        left, right = _bits(left), _bits(right)
    equal = pc.fill_null(pc.equal(left, right), fill_value=False)
    both = pc.and_(left.is_null(), right.is_null())
    return np.asarray(pc.or_(equal, both).to_numpy(zero_copy_only=False))


def _bits(column: pa.Array) -> pa.Array:
    """Numbers by their bits: -0.0 is not 0.0, and there is one NaN."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False).copy()
    numbers[np.isnan(numbers)] = np.nan
    return pa.array(numbers.view(np.int64), mask=missing)
