"""One row of bronze, read: what happened to which key, where in the order of commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.scd2.names import first_name, history_name
from airflow_provider_rtlake.scd2.position import OPS, Position, epoch_number, of_source
from airflow_provider_rtlake.scd2.values import ColumnType, ValueRefused, column_type

EPOCH_HEADER = "rtlake.epoch"
PLACEHOLDER_HEADER = "rtlake.unavailable"  # the connector's own random text
_KEY_HEADERS = frozenset({"__debezium.newkey", "__debezium.oldkey"})
DEFAULT_PLACEHOLDER = "__debezium_unavailable_value"


class UnreadableChange(TerminalError):
    """A row of bronze that cannot be understood: names topic, partition and offset."""


class RawChange(NamedTuple):
    """A row of bronze, or of the table of applied changes, as it arrived.

    :param kafka_ts: microseconds UTC.
    """

    topic: str
    topic_partition: int
    topic_offset: int
    kafka_ts: int
    message_key: str | None
    headers: dict[str, str] | None
    op: str
    value_schema: str
    payload: str

    @property
    def delivery(self) -> tuple[int, int, int]:
        """Order of deliveries of one change: the first one counts."""
        return self.kafka_ts, self.topic_partition, self.topic_offset


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns that one message's schema has.

    :param columns: in the message's order.
    :param names: their names in the history.
    """

    columns: tuple[ColumnType, ...]
    names: frozenset[str]

    def holds_key_alone(self, image: Mapping[str, Any], key_columns: frozenset[str]) -> bool:
        """Whether a before-image may hold the key and nothing else, as REPLICA IDENTITY DEFAULT sends it.

        :param image: as JSON.
        :param key_columns: their names in the history.
        """
        return all(column.name in key_columns or column.blank(image.get(column.field)) for column in self.columns)

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Read a JSON row.

        :raises ValueRefused: a value has no exact form in its column's type.
        :raises ValueError: a value is not of its column's type.
        """
        result = {}
        for column in self.columns:
            value = row.get(column.field)
            result[column.name] = None if value is None else column.read(value)
        return result

    def image(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Read a before-image, which is only compared: a value that is not of its column's type tells nothing.

        :raises ValueRefused: a value has no exact form in its column's type.
        """
        result = {}
        for column in self.columns:
            value = row.get(column.field)
            with suppress(ValueError):
                result[column.name] = None if value is None else column.read(value)
        return result


class Placeholder:
    """Recognises a large value that PostgreSQL did not send.

    :param text: the connector's ``unavailable.value.placeholder``.
    """

    def __init__(self, text: str = DEFAULT_PLACEHOLDER) -> None:
        raw = text.encode()
        digest = bytearray(hashlib.md5(raw, usedforsecurity=False).digest())
        digest[6], digest[8] = digest[6] & 0x0F | 0x30, digest[8] & 0x3F | 0x80
        uuid = digest.hex()
        dashed = f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"
        encoded = base64.b64encode(raw).decode()
        hstore = json.dumps({text: text}, separators=(",", ":"))
        self._texts = frozenset({text, encoded, hstore})
        signed = [byte - 256 if byte > 127 else byte for byte in raw]
        self._lists = ([text], [encoded], signed, [dashed])

    @property
    def texts(self) -> frozenset[str]:
        """Its forms that are texts."""
        return self._texts

    def __contains__(self, value: Any) -> bool:
        if value.__class__ is str:
            return value in self._texts
        return value.__class__ is list and bool(value) and value in self._lists


@dataclass(slots=True)
class Change:
    """A change of one key.

    :param position: order of commits.
    :param tx: the source's transaction number, None for snapshot rows.
    :param op: ``r``, ``c``, ``u``, ``d``; ``t`` (truncate) has no key.
    :param key: key columns as canonical JSON.
    :param ts: commit time at the source, microseconds UTC.
    :param shape: columns of the message.
    :param after: values after the change, None for deletes. Values that were not sent are missing here.
    :param unsent: columns whose large value PostgreSQL did not send.
    :param before: the before-image as JSON, None where none came.
    :param key_columns: names of the key's columns.
    :param raw: the row it was read from.
    :param partners: the other half of a changed primary key, where its header can be read.
    """

    position: Position
    tx: int | None
    op: str
    key: str | None
    ts: int
    shape: Shape
    after: dict[str, Any] | None
    unsent: tuple[str, ...]
    before: dict[str, Any] | None
    key_columns: frozenset[str]
    raw: RawChange
    snapshot: str = "false"
    partners: tuple[str, ...] = ()
    _before_values: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def identity(self) -> tuple[int, str | None, int, int | None, str]:
        """What makes two deliveries one change."""
        where = self.position
        # Rows of a snapshot taken while the slot lives have no log position but that of the commit before them.
        return where.epoch, self.key, where.lsn or where.commit, self.tx, self.op

    @property
    def transaction(self) -> tuple[int, int, int, int]:
        """Equal for all changes of one transaction, and in commit order; a snapshot row stands alone."""
        where = self.position
        return where.epoch, where.phase, where.commit, self.tx or 0 if where.phase else where.lsn

    def before_values(self) -> dict[str, Any]:
        """The before-image, read. Only where :attr:`before` is there."""
        if self._before_values is None:
            self._before_values = self.shape.image(self.before or {})
        return self._before_values

    @property
    def holds_key_alone(self) -> bool:
        """Whether the before-image may be the key alone. Only where :attr:`before` is there."""
        return self.shape.holds_key_alone(self.before or {}, self.key_columns)

    @property
    def moves_key(self) -> bool:
        """Whether Debezium marked it as half of a changed primary key."""
        headers = self.raw.headers
        return bool(headers) and not _KEY_HEADERS.isdisjoint(headers or ())


class Unread(NamedTuple):
    """A row of bronze that is no change: it stops nothing, and keeps the table's check red until it is settled."""

    topic: str
    topic_partition: int
    topic_offset: int
    kafka_ts: int
    message_key: str | None
    reason: str


def canonical_key(text: str) -> str:
    """One spelling of a key, whatever the order of its columns."""
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def header_key(text: str | None) -> dict[str, Any] | None:
    """The key in a header: JSON, with or without its schema."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
        value = value["payload"]
    return value if isinstance(value, dict) else None


def key_hash(key: str) -> int:
    """A signed 64-bit hash: the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)


class ChangeReader:
    """Reads rows of bronze.

    :param renamed_from: new column name → old one.
    :param text_columns: columns kept as text whatever their type.
    :param placeholder: ``unavailable.value.placeholder`` of records without the header that tells it.
    :param excluded: columns that the declaration leaves out.
    """

    def __init__(
        self,
        *,
        renamed_from: Mapping[str, str] | None = None,
        text_columns: frozenset[str] = frozenset(),
        placeholder: str = DEFAULT_PLACEHOLDER,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self._new_name = {old: new for new, old in (renamed_from or {}).items()}
        self._old_name = dict(renamed_from or {})
        self._text = text_columns
        self._excluded = excluded
        self._placeholder = Placeholder(placeholder)
        self._placeholders: dict[str, Placeholder] = {}
        self._shapes: dict[str, Shape] = {}

    @property
    def text_columns(self) -> frozenset[str]:
        """Columns kept as text whatever their type."""
        return self._text

    def placeholders(self, told: Iterable[str]) -> list[Placeholder]:
        """What stands for values that were not sent: in records that tell it, and in those that do not.

        :param told: texts of the header.
        """
        return [self._placeholder, *(Placeholder(text) for text in told)]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every distinct shape met so far."""
        return tuple({id(shape): shape for shape in self._shapes.values()}.values())

    def shape(self, schema: str) -> Shape:
        """The columns of a message's schema, read once for each distinct text.

        :param schema: the ``schema`` member of the message.
        :raises UnreadableChange: it is no schema of Debezium's envelope.
        """
        found = self._shapes.get(schema)
        if found is None:
            found = self._shapes[schema] = self._read_shape(schema)
        return found

    def _read_shape(self, schema: str) -> Shape:
        try:
            fields = {member["field"]: member for member in json.loads(schema)["fields"]}
            row = fields.get("after") or fields["before"]
            members = [member for member in row["fields"] if member["field"] not in self._excluded]
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableChange(
                f"a message's schema is not Debezium's envelope: {error!r}: {schema[:200]}"
            ) from error
        own = {member["field"] for member in members}
        columns = []
        for member in members:
            name = member["field"]
            renamed = self._new_name.get(name)
            if renamed is not None and renamed not in own:
                name = renamed
            columns.append(column_type(member, name=history_name(name, own), as_text=name in self._text))
        return Shape(tuple(columns), frozenset(column.name for column in columns))

    def read(self, raw: RawChange) -> Change:
        """Read one row.

        :raises UnreadableChange: the row is no change; the message names its topic, partition and offset.
        :raises ValueRefused: a value has no exact form in its column's type.
        """
        try:
            return self._read(raw)
        except ValueRefused as error:
            raise ValueRefused(f"{error} (key {raw.message_key}, {_place(raw)})") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableChange(f"{_place(raw)}: not a change of Debezium: {error!r}") from error

    def read_all(self, raws: Iterable[RawChange]) -> tuple[list[Change], list[Unread]]:
        """Read rows; what is no change is told apart, with its place and the reason.

        :raises ValueRefused: a value has no exact form in its column's type.
        """
        changes, unread = [], []
        for raw in raws:
            try:
                changes.append(self.read(raw))
            except UnreadableChange as error:
                unread.append(Unread(*raw[:5], str(error)))
        return changes, unread

    def _read(self, raw: RawChange) -> Change:
        payload = json.loads(raw.payload)
        source, op = payload["source"], payload["op"]
        position = of_source(source, epoch_number((raw.headers or {}).get(EPOCH_HEADER)))
        shape = self.shape(raw.value_schema)
        after, unsent = self._after(payload.get("after"), shape, self._placeholder_of(raw))
        key, columns = None, frozenset[str]()
        if raw.message_key is not None:
            members = _members(raw.message_key)
            key = self._spelled(members)
            columns = frozenset(history_name(self._new_name.get(name, name)) for name in members)
        elif op != "t":
            raise ValueError("it has no key")
        if op not in OPS:
            raise ValueError(f"it has an unknown op: {op!r}")
        micros, tx, before = source.get("ts_us"), source.get("txId"), payload.get("before")
        return Change(
            position=position,
            tx=int(tx) if position.phase and tx is not None else None,
            op=op,
            key=key if op != "t" else None,
            ts=int(micros) if micros is not None else int(source["ts_ms"]) * 1000,
            shape=shape,
            after=after,
            unsent=unsent,
            before=before if isinstance(before, dict) else None,
            key_columns=columns,
            raw=raw,
            snapshot=str(source.get("snapshot") or "false").lower(),
            partners=self._partners(raw),
        )

    @property
    def renames(self) -> bool:
        """Whether columns are declared to have had another name."""
        return bool(self._old_name)

    def key(self, text: str) -> str:
        """A key as the history spells it: with the names that its columns had at first, for a row stays the row.

        :param text: the message's key.
        :raises ValueError: it is no JSON object.
        """
        return self._spelled(_members(text))

    def _spelled(self, members: Mapping[str, Any]) -> str:
        if self._old_name:
            members = {first_name(name, self._old_name): value for name, value in members.items()}
        return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def _partners(self, raw: RawChange) -> tuple[str, ...]:
        if not raw.headers or _KEY_HEADERS.isdisjoint(raw.headers):
            return ()
        found = (header_key(raw.headers.get(name)) for name in sorted(_KEY_HEADERS))
        return tuple(self._spelled(key) for key in found if key is not None)

    def _placeholder_of(self, raw: RawChange) -> Placeholder:
        text = (raw.headers or {}).get(PLACEHOLDER_HEADER)
        if text is None:
            return self._placeholder
        found = self._placeholders.get(text)
        if found is None:
            found = self._placeholders[text] = Placeholder(text)
        return found

    def _after(
        self, row: dict[str, Any] | None, shape: Shape, placeholder: Placeholder
    ) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        if row is None:
            return None, ()
        missing = [column for column in shape.columns if row.get(column.field) in placeholder]
        if not missing:
            return shape.values(row), ()
        sent = {name: value for name, value in row.items() if name not in {column.field for column in missing}}
        values = shape.values(sent)
        for column in missing:
            del values[column.name]
        return values, tuple(column.name for column in missing)


def _members(key: str) -> dict[str, Any]:
    """The columns of a message's key and their values.

    :raises ValueError: it is no JSON object.
    """
    members = json.loads(key)
    if not isinstance(members, dict):
        raise ValueError("its key is no JSON object")
    return members


def _place(raw: RawChange) -> str:
    return f"topic {raw.topic} partition {raw.topic_partition} offset {raw.topic_offset}"
