"""What a merge of plain keys writes: its versions checked, hashed and laid out as rows of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.arrays import cast, codes, flat
from airflow_provider_rtlake.scd2.bulk import Bulk, Plain
from airflow_provider_rtlake.scd2.columns import Batch
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.names import RESERVED
from airflow_provider_rtlake.scd2.position import OPS
from airflow_provider_rtlake.scd2.rows import Array, changes, runs
from airflow_provider_rtlake.scd2.tables import python_values
from airflow_provider_rtlake.scd2.values import canonical

_EXACT_TEXT = 6  # digits after the point up to which Arrow writes decimals without an exponent
_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\b", "\\b"), ("\f", "\\f"))
_BETWEEN = "\x1f"


def record_hashes(versions: pa.Table, columns: Sequence[str], untracked: frozenset[str]) -> pa.Array:
    """:func:`.fold.record_hash` of each row.

    :param columns: those of the source.
    """
    count = versions.num_rows
    parts = []
    for name in sorted(columns):
        if name in untracked or name in RESERVED:
            continue
        column = flat(versions[name])
        if column.null_count == count:
            continue
        label = json.dumps(name, ensure_ascii=False)
        parts.append(pc.binary_join_element_wise(f"[{label},", _canonical(column), "]", ""))
    if not parts:
        return pa.array([hashlib.sha256(b"[]").hexdigest()] * count, pa.string())
    inner = pc.binary_join_element_wise(*parts, ",", null_handling="skip")
    texts = pc.binary_join_element_wise("[", inner, "]", "").to_pylist()
    return pa.array([hashlib.sha256(text.encode()).hexdigest() for text in texts], pa.string())


def _canonical(column: pa.Array) -> pa.Array:
    """JSON of :func:`.values.canonical`, null for null."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.if_else(column, '["b",true]', '["b",false]')
    if pa.types.is_integer(kind):
        return pc.binary_join_element_wise('["i","', column.cast(pa.string()), '"]', "")
    if pa.types.is_date(kind):
        return _canonical(column.cast(pa.int32()))
    if pa.types.is_timestamp(kind):
        return _canonical(column.cast(pa.int64()))
    if pa.types.is_decimal(kind) and kind.scale <= _EXACT_TEXT:
        return pc.binary_join_element_wise('["n","', column.cast(pa.string()), '"]', "")
    if pa.types.is_string(kind):
        text = _escaped(column)
        if text is not None:
            return pc.binary_join_element_wise('"', text, '"', "")
    values = python_values(pa.chunked_array([column]))
    return pa.array(
        [
            None if value is None else json.dumps(canonical(value), ensure_ascii=False, separators=(",", ":"))
            for value in values
        ],
        pa.string(),
    )


def _escaped(column: pa.Array) -> pa.Array | None:
    """Text as JSON has it between quotes, None where it holds rare characters."""
    if pc.any(pc.match_substring_regex(column, '[\x00-\x1f"\\\\]')).as_py():
        for found, written in _ESCAPES:
            column = pc.replace_substring(column, found, written)
        if pc.any(pc.match_substring_regex(column, "[\x00-\x1f]")).as_py():
            return None
    return column


# --- checks and the rows to write ---


def check_bulk(bulk: Bulk) -> None:
    """The rules of :func:`.checks.check_plan` over the plain keys.

    :raises Refused: naming the rule and the keys that break it.
    """
    rows = bulk.versions
    if rows is None:
        return
    start = rows["effective_start_ts"].cast(pa.int64()).to_numpy()
    end = pc.fill_null(rows["effective_end_ts"].cast(pa.int64()), np.iinfo(np.int64).max).to_numpy()
    last = rows["scd2_last"].to_numpy()
    open_ = rows["is_current"].to_numpy()
    _refuse("a version is empty or inverted", rows, end <= start)
    _refuse("a version that is not the last of its key is open", rows, open_ & ~last)
    keys = codes(flat(rows["scd2_key"]))[0]
    order = np.lexsort((start, keys))
    follows = ~changes([keys[order]])[1:]
    wrong = np.zeros(len(keys), bool)
    wrong[order[1:]] = follows & (end[order][:-1] > start[order][1:])
    _refuse("two versions of a key overlap", rows, wrong)
    lasts = np.bincount(keys[last], minlength=int(keys.max()) + 1)
    _refuse("a key has not one last version", rows, lasts[keys] != 1)


def _refuse(rule: str, rows: pa.Table, wrong: Array) -> None:
    if wrong.any():
        raise Refused(rule, sorted(set(rows["scd2_key"].filter(pa.array(wrong)).to_pylist())))


def partitions(
    versions: pa.Table, schema: pa.Schema, buckets: int, columns: Sequence[str], untracked: frozenset[str]
) -> dict[tuple[bool, int], pa.Table]:
    """Versions as rows of the history, one table for each partition, ordered by key.

    :param schema: of the history.
    :param buckets: partitions of the last versions.
    """
    hashes = versions["scd2_key_hash"].to_numpy()
    bucket = np.mod(hashes, buckets).astype(np.int32)
    last = versions["scd2_last"].to_numpy()
    start = versions["effective_start_ts"].cast(pa.int64()).to_numpy()
    order = np.lexsort((start, hashes, bucket, last))
    whole = versions.append_column("scd2_bucket", pa.array(bucket))
    result = {}
    for begin, end in runs([last[order], bucket[order]]):
        rows = whole.take(pa.array(order[begin:end])).combine_chunks()
        rows = rows.append_column("record_hash", record_hashes(rows, columns, untracked))
        where = bool(last[order[begin]]), int(bucket[order[begin]])
        result[where] = pa.table([cast(rows[name.name], name.type) for name in schema], schema=schema)
    return result


def change_rows(
    batch: Batch, rows: Array, plain: Plain, schema: pa.Schema, buckets: int, merge_id: str
) -> dict[int, pa.Table]:
    """Rows of the batch as rows of the changes table, one table for each bucket, ordered by key.

    :param rows: to remember.
    """
    hashes = plain._hash[plain._code[rows]]
    bucket = np.mod(hashes, buckets)
    order = np.lexsort((batch.lsn[rows], batch.commit[rows], batch.phase[rows], batch.epoch[rows], hashes, bucket))
    result = {}
    for begin, end in runs([bucket[order]]):
        mine = rows[order[begin:end]]
        taken = pa.array(mine)
        number = int(bucket[order[begin]])
        content: dict[str, Any] = {
            "scd2_bucket": pa.array(np.full(len(mine), number, np.int32)),
            "scd2_key_hash": pa.array(hashes[order[begin:end]]),
            "scd2_key": batch.key.take(taken),
            "position": batch.position_texts().take(taken),
            "tx_id": pa.array(batch.tx[mine], mask=batch.tx[mine] < 0),
            "op": pa.array(OPS).take(pa.array(batch.op[mine])),
            "headers": _header_texts(flat(batch.rows["headers"].take(taken))),
            "merge_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(mine), np.int32)), pa.array([merge_id])),
        }
        columns = [content[one.name] if one.name in content else batch.rows[one.name].take(taken) for one in schema]
        # Texts of which there are few stay so: in the file they are the same.
        kinds = [
            column.type if pa.types.is_dictionary(column.type) else one.type
            for column, one in zip(columns, schema, strict=True)
        ]
        own = pa.schema([one.with_type(kind) for one, kind in zip(schema, kinds, strict=True)])
        result[number] = pa.table(
            [cast(column, one.type) for column, one in zip(columns, own, strict=True)], schema=own
        )
    return result


def _header_texts(column: pa.MapArray) -> pa.Array:
    """Headers as JSON; rows with equal headers share the work."""
    parts = [column.keys, column.items]
    if column.null_count or any(_has_separator(part) for part in parts):
        return pa.array([None if one is None else json.dumps(dict(one)) for one in column.to_pylist()], pa.string())
    joined = [pc.binary_join(pa.ListArray.from_arrays(column.offsets, part), _BETWEEN) for part in parts]
    coded = pc.binary_join_element_wise(*joined, _BETWEEN * 2).dictionary_encode()
    numbered = coded.indices.to_numpy(zero_copy_only=False)
    firsts = np.unique(numbered, return_index=True)[1]
    texts = [json.dumps(dict(column[int(first)].as_py())) for first in firsts]
    return pa.array(texts, pa.string()).take(pa.array(numbered))


def _has_separator(texts: pa.Array) -> bool:
    return texts.null_count > 0 or bool(pc.any(pc.match_substring(texts, _BETWEEN)).as_py())
