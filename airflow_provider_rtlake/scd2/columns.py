"""Rows of bronze read as columns: what :class:`.change.ChangeReader` reads row by row, for many rows at once.

Only what is plain is read so. A batch in which anything is unusual (a number where a text belongs, NaN, a schema that
is no envelope) is given back to the reader of rows, which reads it exactly or says what is wrong. So this module never
decides about an error, and has one duty: where it gives a value, it is the reader's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from airflow_provider_rtlake.scd2.bronze import COLUMNS, raw_changes
from airflow_provider_rtlake.scd2.change import (
    EPOCH_HEADER,
    PLACEHOLDER_HEADER,
    Change,
    ChangeReader,
    Placeholder,
    Shape,
    Unread,
    UnreadableChange,
    key_hash,
)
from airflow_provider_rtlake.scd2.position import OPS, epoch_number
from airflow_provider_rtlake.scd2.rows import Array, D, Rows, T, joined
from airflow_provider_rtlake.scd2.tables import scalar_type
from airflow_provider_rtlake.scd2.values import ColumnType, ValueRefused

_ENDS = frozenset({"last", "last_in_data_collection"})
_KEY_HEADERS = ("__debezium.newkey", "__debezium.oldkey")
# A key of one column that is spelled as canonical JSON spells it
_PLAIN_KEY = r'^\{"[^"\\]*":(0|-?[1-9][0-9]{0,17}|"[^"\\\x00-\x1f]*")\}$'
# A member of a key whose value is no list and no object
_MEMBER = r'("(?:[^"\\]|\\.)*"):(?:"(?:[^"\\]|\\.)*"|[^,"{}\[\]]*)'
_SEQUENCE = r'^\["(?P<first>[0-9]{1,18})",'
_NO_SEQUENCE = "[null,"
_ZONED = r"^[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z$"
_DECIMAL = r"^-?[0-9]{1,38}(\.[0-9]+)?$"
_MANY = 10**15  # seconds, as microseconds, up to which a time needs no second look
_SLICE = 10_000  # rows whose JSON is parsed together
_PARSERS = 2


class NotPlain(ValueError):
    """The rows have to be read one by one."""


_TRANSPORT = {
    "boolean": pa.bool_(),
    **dict.fromkeys(("int8", "int16", "int32", "int64"), pa.int64()),
    **dict.fromkeys(("float", "double", "float32", "float64"), pa.float64()),
    **dict.fromkeys(("string", "bytes"), pa.string()),
}
_DATES = frozenset({"io.debezium.time.Date", "org.apache.kafka.connect.data.Date"})
_TIMES = {
    "io.debezium.time.MicroTimestamp": 1,
    "io.debezium.time.Timestamp": 1000,
    "org.apache.kafka.connect.data.Timestamp": 1000,
}
_NUMERIC = frozenset({"NUMERIC", "DECIMAL"})


def arrow_type(iceberg: str) -> pa.DataType:
    """Arrow's form of an Iceberg type as :class:`.values.ColumnType` spells it."""
    if iceberg.startswith("list<"):
        return pa.list_(pa.field("element", arrow_type(iceberg[5:-1])))
    return scalar_type(iceberg)


@dataclass(frozen=True)
class _Field:
    """How one column of a message is read."""

    column: ColumnType
    transport: pa.DataType
    semantic: str
    numeric: bool
    declared_text: bool

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for columns that are read alike."""
        return self.column.field, self.column.name, self.column.iceberg, *self._kind

    @property
    def _kind(self) -> tuple[Any, ...]:
        return self.transport, self.semantic, self.numeric, self.declared_text


def _transport(member: dict[str, Any]) -> pa.DataType:
    kind = member.get("type")
    if kind == "array":
        return pa.list_(_transport(member.get("items") or {}))
    found = _TRANSPORT.get(str(kind))
    if found is None:
        raise NotPlain(f"a column of type {kind}")
    return found


def _fields(schema: str, reader: ChangeReader) -> tuple[_Field, ...]:
    members = {member["field"]: member for member in json.loads(schema)["fields"]}
    row = {member["field"]: member for member in (members.get("after") or members["before"])["fields"]}
    found = []
    for column in reader.shape(schema).columns:
        member = row[column.field]
        source = (member.get("parameters") or {}).get("__debezium.source.column.type", "").upper()
        semantic, declared = member.get("name") or "", column.name in reader.text_columns
        found.append(_Field(column, _transport(member), semantic, source in _NUMERIC, declared))
    return tuple(found)


@dataclass(kw_only=True)
class Batch(Rows):
    """Rows of bronze with their contents. Everything but ``values`` is known of each row.

    :param rows: as they are in bronze.
    :param key: canonical key; null for a truncate.
    :param shape: columns of the plain rows.
    :param values: column → its values after the change.
    :param changes: the rows that were read one by one.
    """

    rows: pa.Table
    key: pa.Array
    signature: tuple[Any, ...] = ()
    shape: Shape | None = None
    values: dict[str, pa.Array] = field(default_factory=dict)
    changes: dict[int, Change] = field(default_factory=dict)
    _texts: pa.Array | None = field(default=None, repr=False)

    def only(self, rows: Array) -> Batch:
        """Some of the rows.

        :param rows: which, a mask.
        """
        if rows.all():
            return self
        index = np.flatnonzero(rows)
        taken, place = pa.array(index), {int(old): new for new, old in enumerate(index)} if self.changes else {}
        return Batch(
            rows=self.rows.take(taken),
            key=self.key.take(taken),
            signature=self.signature,
            shape=self.shape,
            values={name: column.take(taken) for name, column in self.values.items()},
            changes={place[old]: change for old, change in self.changes.items() if old in place},
            **self.numbers(index),
        )

    def epochs(self) -> pa.DictionaryArray:
        """The header that tells the epoch, of each row."""
        column = _one(self.rows["headers"])
        try:
            return _Headers(column).coded(EPOCH_HEADER)
        except NotPlain:
            told = [dict(found or ()).get(EPOCH_HEADER) for found in column.to_pylist()]
            return pa.array(told, pa.string()).dictionary_encode()

    def key_columns(self) -> pa.DictionaryArray:
        """The names of each key's columns as a JSON list; null for a truncate."""
        coded = pc.replace_substring_regex(self.key, _MEMBER, r"\1:0").dictionary_encode()
        try:
            return pa.DictionaryArray.from_arrays(coded.indices, pa.array(map(_names, coded.dictionary.to_pylist())))
        except ValueError:  # a key with a list or an object in it
            names = [None if key is None else _names(key) for key in self.key.to_pylist()]
            return pa.array(names, pa.string()).dictionary_encode()

    def read(self, indices: Array, reader: ChangeReader) -> list[Change]:
        """Rows as the reader of rows reads them."""
        missing = [int(index) for index in indices if int(index) not in self.changes]
        if missing:
            raws = raw_changes(self.rows.take(pa.array(missing)))
            self.changes |= {index: reader.read(raw) for index, raw in zip(missing, raws, strict=True)}
        return [self.changes[int(index)] for index in indices]

    def position_texts(self) -> pa.Array:
        """As :attr:`.position.Position.text`."""
        if self._texts is not None:
            return self._texts
        parts = [
            pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
            for numbers, width in ((self.epoch, 6), (self.phase, 1), (self.commit, 20), (self.lsn, 20))
        ]
        self._texts = pc.binary_join_element_wise(*parts, "-")
        return self._texts


def _names(key: str) -> str:
    return json.dumps(list(json.loads(key)), ensure_ascii=False)


def hashes_of(keys: pa.Array) -> Array:
    """The hash of each key, 0 for none."""
    coded = keys.dictionary_encode()
    texts = coded.dictionary.to_pylist()
    known = np.fromiter((key_hash(text) for text in texts), np.int64, len(texts))
    places = pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)
    return np.asarray(np.append(known, 0)[places])


def of_changes(rows: pa.Table, changes: Sequence[Change], part: int) -> Batch:
    """A batch of rows that were read one by one.

    :param rows: those of the changes, in their order.
    """
    count = len(changes)

    def numbers(of: Callable[[Change], Any], kind: Any = np.int64) -> Array:
        return np.fromiter((of(change) for change in changes), kind, count)

    keys = pa.array([change.key for change in changes], pa.string())
    return Batch(
        rows=rows,
        plain=np.zeros(count, bool),
        key=keys,
        hashed=hashes_of(keys),
        epoch=numbers(lambda change: change.position.epoch),
        phase=numbers(lambda change: change.position.phase),
        commit=numbers(lambda change: change.position.commit),
        lsn=numbers(lambda change: change.position.lsn),
        tx=numbers(lambda change: -1 if change.tx is None else change.tx),
        op=numbers(lambda change: OPS.index(change.op)),
        ts=numbers(lambda change: change.ts),
        arrived=numbers(lambda change: change.raw.kafka_ts),
        ended=numbers(lambda change: change.snapshot in _ENDS, bool),
        moves=numbers(lambda change: change.moves_key, bool),
        part=np.full(count, part),
        changes=dict(enumerate(changes)),
    )


def join(batches: Sequence[Batch]) -> Batch:
    """Batches as one; only rows with the columns of the largest stay plain."""
    if not batches:
        return of_changes(COLUMNS.empty_table(), [], 0)
    if len(batches) == 1:
        return batches[0]
    sizes: dict[tuple[Any, ...], int] = {}
    for batch in batches:
        sizes[batch.signature] = sizes.get(batch.signature, 0) + int(batch.plain.sum())
    signature = max(sizes, key=lambda one: sizes[one])
    shape = next(batch.shape for batch in batches if batch.signature == signature)
    values: dict[str, pa.Array] = {}
    for column in shape.columns if shape else ():
        kind = arrow_type(column.iceberg)
        chunks = [
            batch.values[column.name] if batch.signature == signature else pa.nulls(len(batch), kind)
            for batch in batches
        ]
        values[column.name] = _one(pa.chunked_array(chunks, kind))
    whole = joined(batches).numbers()
    alike = np.concatenate([np.full(len(batch), batch.signature == signature) for batch in batches])
    whole["plain"] = whole["plain"] & alike
    starts = np.concatenate([[0], np.cumsum([len(batch) for batch in batches])])
    changes = {
        int(start) + index: change
        for start, batch in zip(starts, batches, strict=False)
        for index, change in batch.changes.items()
    }
    return Batch(
        rows=pa.concat_tables([batch.rows for batch in batches]),
        key=_one(pa.chunked_array([batch.key for batch in batches], pa.string())),
        signature=signature,
        shape=shape,
        values=values,
        changes=changes,
        **whole,
    )


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def read_rows(rows: pa.Table, reader: ChangeReader, part: int) -> tuple[Batch, list[Unread]]:
    """Read rows of bronze: as columns where they are plain, one by one where not.

    :param rows: with the columns of bronze.
    :param part: number of the range they came with.
    :return: the rows, and those that are no changes.
    :raises ValueRefused: a value has no exact form in its column's type.
    """
    batch = decode(rows, reader, part)
    if batch is not None:
        return batch, []
    changes, kept, unread = [], [], []
    for index, raw in enumerate(raw_changes(rows)):
        found, bad = reader.read_all([raw])
        changes += found
        kept += [index] * len(found)
        unread += bad
    return of_changes(rows.take(pa.array(kept, pa.int64())), changes, part), unread


def decode(rows: pa.Table, reader: ChangeReader, part: int) -> Batch | None:
    """Read rows of bronze as columns; None where they have to be read one by one.

    :param rows: with the columns of bronze.
    :param reader: whose rules count.
    :param part: number of the range they came with.
    """
    try:
        return _decode(rows, reader, part)
    except (pa.ArrowException, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
    except (UnreadableChange, ValueRefused):
        return None


def _decode(rows: pa.Table, reader: ChangeReader, part: int) -> Batch:
    if not rows.num_rows:
        raise NotPlain("no rows")
    fields, shape, alike = _shape(rows["value_schema"], reader)
    parsed = _parse(rows["payload"], fields)
    source = parsed["source"].combine_chunks()
    headers = _Headers(_one(rows["headers"]))
    epochs = headers.numbers(EPOCH_HEADER, epoch_number)
    op = _ops(parsed["op"])
    phase, commit, lsn = _positions(source)
    ts = _numbers(_filled(source, "ts_us", pc.multiply(source.field("ts_ms"), 1000)))
    after = parsed["after"].combine_chunks()
    placeholders = reader.placeholders(headers.texts(PLACEHOLDER_HEADER))
    values, unsent = {}, np.zeros(len(op), bool)
    for found in fields:
        column = after.field(found.column.field)
        column = pc.if_else(after.is_valid(), column, pa.scalar(None, column.type))
        unsent |= _unsent(column, placeholders)
        values[found.column.name] = column
    sent = pa.array(~unsent)
    values = {
        found.column.name: _read(found, pc.if_else(sent, values[found.column.name], pa.scalar(None, found.transport)))
        for found in fields
    }
    tx = _numbers(pc.fill_null(source.field("txId"), -1))
    keys = _keys(_one(rows["message_key"]), op, reader)
    return Batch(
        rows=rows,
        plain=alike & ~unsent & (op != T) & ~((op != D) & _flags(after.is_null())),
        key=keys,
        hashed=hashes_of(keys),
        epoch=epochs,
        phase=phase,
        commit=commit,
        lsn=lsn,
        tx=np.where(phase == 1, tx, -1),
        op=op,
        ts=ts,
        arrived=_numbers(_one(rows["kafka_ts"]).cast(pa.int64())),
        ended=_flags(pc.is_in(_snapshot(source), pa.array(sorted(_ENDS)))),
        moves=headers.have(_KEY_HEADERS),
        part=np.full(len(op), part),
        signature=tuple(found.signature for found in fields),
        shape=shape,
        values=values,
    )


def _shape(schemas: pa.ChunkedArray, reader: ChangeReader) -> tuple[tuple[_Field, ...], Shape, Array]:
    """The columns that most rows have, and which rows those are."""
    coded = _one(schemas.dictionary_encode())
    if coded.null_count:
        raise NotPlain("a row without schema")
    texts = coded.dictionary.to_pylist()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(codes, minlength=len(texts))
    fields = [_fields(text, reader) for text in texts]
    most = int(np.argmax(counts))
    signature = [one.signature for one in fields[most]]
    alike = np.array([[one.signature for one in found] == signature for found in fields])
    return fields[most], reader.shape(texts[most]), alike[codes]


def _parse(payload: pa.ChunkedArray, fields: Sequence[_Field]) -> pa.Table:
    schema = pa.schema(
        [
            ("after", pa.struct([(found.column.field, found.transport) for found in fields])),
            (
                "source",
                pa.struct(
                    [
                        ("lsn", pa.int64()),
                        ("sequence", pa.string()),
                        ("txId", pa.int64()),
                        ("ts_us", pa.int64()),
                        ("ts_ms", pa.int64()),
                        ("snapshot", pa.string()),
                    ]
                ),
            ),
            ("op", pa.string()),
        ]
    )
    if payload.null_count:
        raise NotPlain("a row without payload")
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    slices = [
        chunk.slice(start, _SLICE) for chunk in payload.chunks for start in range(0, len(chunk), _SLICE) if len(chunk)
    ]
    if len(slices) < 2:
        return _parse_slice(slices[0], options)
    with ThreadPoolExecutor(_PARSERS) as pool:
        return pa.concat_tables(pool.map(lambda one: _parse_slice(one, options), slices)).combine_chunks()


def _parse_slice(texts: pa.Array, options: pj.ParseOptions) -> pa.Table:
    lines = pc.binary_join_element_wise(texts, "", "\n")
    _, offsets, content = lines.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[lines.offset, lines.offset + len(lines)]].tolist()
    table = pj.read_json(
        pa.BufferReader(content.slice(first, last - first)),
        read_options=pj.ReadOptions(block_size=max(last - first, 1) + 1, use_threads=False),
        parse_options=options,
    )
    if table.num_rows != len(texts):
        raise NotPlain("a payload of several lines")
    return table


def _ops(column: pa.ChunkedArray) -> Array:
    found = pc.index_in(_one(column), pa.array(OPS))
    if found.null_count:
        raise NotPlain("an operation that is unknown")
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _filled(source: pa.StructArray, name: str, other: pa.Array) -> pa.Array:
    return pc.coalesce(source.field(name), other)


def _numbers(column: pa.Array) -> Array:
    if column.null_count:
        raise NotPlain("a number that is missing")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _flags(column: pa.Array) -> Array:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)


def _snapshot(source: pa.StructArray) -> pa.Array:
    told = pc.utf8_lower(pc.fill_null(source.field("snapshot"), "false"))
    if pc.any(pc.equal(told, "")).as_py():
        raise NotPlain("a snapshot that is empty")
    return told


def _positions(source: pa.StructArray) -> tuple[Array, Array, Array]:
    """Phase, commit and log position, as :func:`.position.of_source` tells them."""
    sequence = source.field("sequence")
    first = pc.struct_field(pc.extract_regex(sequence, _SEQUENCE), "first")
    unread = pc.and_(pc.is_valid(sequence), pc.is_null(first))
    if pc.any(pc.and_not_kleene(unread, pc.starts_with(sequence, _NO_SEQUENCE))).as_py():
        raise NotPlain("a sequence that is spelled in another way")
    known = _flags(pc.is_valid(first))
    commit = _numbers(pc.fill_null(first.cast(pa.int64()), 0))
    lsn = _numbers(pc.fill_null(source.field("lsn"), 0))
    stream = _flags(pc.is_in(_snapshot(source), pa.array(["false", "incremental"])))
    phase = (stream | known).astype(np.int64)
    return phase, np.where(phase == 1, commit, 0), np.where(stream | ~known, lsn, 0)


def _keys(column: pa.Array, op: Array, reader: ChangeReader) -> pa.Array:
    if np.any((op != T) & _flags(column.is_null())):
        raise NotPlain("a change without key")
    keys = pc.if_else(pa.array(op != T), column, pa.scalar(None, pa.string()))
    plain = pc.fill_null(pc.match_substring_regex(keys, _PLAIN_KEY), fill_value=True)
    if reader.renames:
        plain = pc.is_null(keys)
    if pc.all(plain).as_py():
        return keys
    other = np.flatnonzero(~_flags(plain))
    texts = [reader.key(text) for text in keys.take(pa.array(other)).to_pylist()]
    return pc.replace_with_mask(keys, pc.invert(plain), pa.array(texts, pa.string()))


class _Headers:
    """Headers of rows, each with its last value as a dict would have it."""

    def __init__(self, column: pa.MapArray) -> None:
        self._count = len(column)
        offsets = column.offsets.to_numpy()
        lengths = np.where(_flags(column.is_null()), 0, np.diff(offsets))
        if int(lengths.sum()) != int(offsets[-1] - offsets[0]):
            raise NotPlain("headers hidden behind nulls")
        begin, end = int(offsets[0]), int(offsets[-1])
        self._names = column.keys.slice(begin, end - begin)
        self._values = column.items.slice(begin, end - begin)
        self._row = np.repeat(np.arange(self._count), lengths)

    def _places(self, name: str) -> Array:
        found = np.flatnonzero(_flags(pc.fill_null(pc.equal(self._names, name), fill_value=False)))
        places = np.full(self._count, -1)
        places[self._row[found]] = found
        return places

    def _column(self, name: str) -> pa.Array:
        places = self._places(name)
        return self._values.take(pa.array(places, mask=places < 0))

    def coded(self, name: str) -> pa.DictionaryArray:
        """A header's values, equal ones as one."""
        return self._column(name).dictionary_encode()

    def texts(self, name: str) -> list[str]:
        """Distinct values of a header."""
        return [text for text in self._column(name).unique().to_pylist() if text is not None]

    def numbers(self, name: str, read: Callable[[str | None], int]) -> Array:
        """A header's values, read; also where it is missing."""
        coded = self.coded(name)
        meanings = np.array([*(read(text) for text in coded.dictionary.to_pylist()), read(None)], np.int64)
        codes = pc.fill_null(coded.indices, len(meanings) - 1).to_numpy(zero_copy_only=False)
        return np.asarray(meanings[codes])

    def have(self, names: Sequence[str]) -> Array:
        """Which rows have one of these headers."""
        found = np.zeros(self._count, bool)
        for name in names:
            found |= self._places(name) >= 0
        return found


def _unsent(column: pa.Array, placeholders: Sequence[Placeholder]) -> Array:
    """Where a large value was not sent, or may not have been."""
    if pa.types.is_string(column.type):
        texts = sorted({text for placeholder in placeholders for text in placeholder.texts})
        return _flags(pc.is_in(column, pa.array(texts, pa.string())))
    if pa.types.is_list(column.type):
        found = (any(value in one for one in placeholders) for value in column.to_pylist())
        return np.fromiter(found, bool, len(column))
    return np.zeros(len(column), bool)


# --- values ---


def _read(found: _Field, column: pa.Array) -> pa.Array:
    """A column's values in the history's form."""
    kind = arrow_type(found.column.iceberg)
    quick = _quick(found, column, kind)
    if quick is not None:
        return quick
    read = found.column.read
    return pa.array([None if value is None else read(value) for value in column.to_pylist()], kind)


def _quick(found: _Field, column: pa.Array, kind: pa.DataType) -> pa.Array | None:
    iceberg, semantic = found.column.iceberg, found.semantic
    if found.declared_text:
        return None
    if found.numeric and pa.types.is_decimal(kind):
        return column.cast(kind) if _all_match(column, _DECIMAL) else None
    if found.numeric or semantic in ("io.debezium.data.Bits",):
        return None
    if semantic in _DATES:
        days = _bounded(column, 3_000_000)
        return None if days is None else days.cast(pa.int32()).cast(kind)
    if semantic in _TIMES:
        raw = _bounded(column, _MANY * 100)
        return None if raw is None else pc.multiply(raw, _TIMES[semantic]).cast(kind)
    if semantic == "io.debezium.time.ZonedTimestamp":
        return column.cast(kind) if _all_match(column, _ZONED) else None
    if iceberg in ("boolean", "int", "long", "double") and not semantic.startswith("io.debezium.time"):
        return column.cast(kind)
    if iceberg == "string" and pa.types.is_string(column.type):
        return column
    return None


def _bounded(column: pa.Array, limit: int) -> pa.Array | None:
    if not pa.types.is_integer(column.type):
        return None
    ends = pc.min_max(column).as_py()
    inside = ends["min"] is None or (ends["min"] > -limit and ends["max"] < limit)
    return column if inside else None


def _all_match(column: pa.Array, pattern: str) -> bool:
    return pa.types.is_string(column.type) and pc.all(pc.match_substring_regex(column, pattern)).as_py() in (True, None)
