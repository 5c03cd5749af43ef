"""A small PostgreSQL with a Debezium on it: transactions in, the connector's messages (as bronze keeps them) out."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.scd2.change import RawChange

PLACEHOLDER = "__debezium_unavailable_value"
COLLECTION = "public.t"
Row = dict[str, Any]


def column(name: str, kind: str = "string", *, semantic: str | None = None, **source: str) -> dict[str, Any]:
    """A field of a Connect schema as Debezium writes it."""
    parameters = {f"__debezium.source.column.{key}": value for key, value in source.items()}
    result: dict[str, Any] = {"type": kind, "optional": True, "field": name}
    if semantic:
        result["name"] = semantic
    if parameters:
        result["parameters"] = parameters
    return result


def envelope(columns: list[dict[str, Any]]) -> str:
    """The text of a message's schema."""
    rows = [
        {"type": "struct", "fields": columns, "optional": True, "name": "p.public.t.Value", "field": side}
        for side in ("before", "after")
    ]
    return json.dumps({"type": "struct", "fields": rows, "optional": False, "name": "p.public.t.Envelope"})


COLUMNS = [
    column("id", "int64", type="INT8"),
    column("a", type="TEXT"),
    column("b", "int32", type="INT4"),
    column("big", type="TEXT"),
    column("note", type="TEXT"),
    {**column("c", "int32", type="INT4"), "optional": False},
]


@dataclass
class Source:
    """The table ``public.t(id, a, b, big, note, c NOT NULL)``.

    :param full: REPLICA IDENTITY FULL.
    :param epoch: life of the slot.
    """

    full: bool = True
    epoch: int = 1
    columns: list[dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(COLUMNS))
    rows: dict[int, Row] = field(default_factory=dict)
    messages: list[list[RawChange]] = field(default_factory=list)  # one list for each commit
    commit_lsn: int = 0
    _offset: int = 0
    _tx: int = 500
    _lsn: int = 1000

    def begin(self, ts: int, lsn: int | None = None) -> Transaction:
        """Start a transaction that will commit at ``ts`` (microseconds); its changes are logged from ``lsn`` on."""
        self._tx += 1
        return Transaction(
            self,
            self._tx,
            ts,
            lsn if lsn is not None else self._lsn,
            {key: dict(row) for key, row in self.rows.items()},
        )

    def raw(self, op: str, key: Any, before: Row | None, after: Row | None, **source: Any) -> RawChange:
        """A row of bronze."""
        headers = {"rtlake.epoch": f"{self.epoch}:7000:1", **source.pop("headers", {})}
        payload = {
            "before": before,
            "after": after,
            "source": {"snapshot": "false", "table": "t", **source},
            "op": op,
            "ts_ms": 0,
            "transaction": {"id": f"{source.get('txId')}:{source.get('lsn')}", "total_order": 1},
        }
        self._offset += 1
        return RawChange(
            topic="p.public.t",
            topic_partition=0,
            topic_offset=self._offset,
            kafka_ts=self._offset,
            message_key=None if key is None else json.dumps({"id": key}, separators=(",", ":")),
            headers=headers,
            op=op,
            value_schema=envelope(self.columns),
            payload=json.dumps(payload, ensure_ascii=False),
        )

    def snapshot(self, ts: int, lsn: int | None = None) -> list[RawChange]:
        """Read the whole table, as the connector does with a new slot."""
        rows = sorted(self.rows.items())
        found = []
        for index, (key, row) in enumerate(rows):
            marker = "last" if index == len(rows) - 1 else "true"
            found.append(
                self.raw("r", key, None, dict(row), lsn=lsn or self._lsn, ts_us=ts, snapshot=marker, sequence=None)
            )
        self.messages.append(found)
        return found

    def keep_lsn(self, lsn: int) -> None:
        """Later transactions log after ``lsn``."""
        self._lsn = max(self._lsn, lsn)


@dataclass
class Transaction:
    """An open transaction. Statements fail like PostgreSQL's where the key is there already, or is not."""

    source: Source
    tx: int
    ts: int
    lsn: int
    rows: dict[int, Row]
    sent: list[tuple[str, Any, Row | None, Row | None, int, dict[str, str]]] = field(default_factory=list)

    def _log(self, op: str, key: Any, before: Row | None, after: Row | None, headers: Any = None) -> None:
        self.sent.append((op, key, before, after, self.lsn, headers or {}))

    def _before(self, row: Row) -> Row | None:
        return dict(row) if self.source.full else None

    def _key_image(self, key: int, row: Row) -> Row:
        if self.source.full:
            return dict(row)
        # Debezium makes up a value where null is not allowed.
        return {"id": key, **{name: 0 if name == "c" else None for name in row if name != "id"}}

    def insert(self, key: int, **values: Any) -> Transaction:
        assert key not in self.rows
        row = {"id": key, "a": None, "b": None, "big": None, "note": None, "c": 0, **values}
        self.lsn += 8
        self.rows[key] = row
        self._log("c", key, None, dict(row))
        return self

    def update(self, key: int, **values: Any) -> Transaction:
        old = self.rows[key]
        new = {**old, **values}
        self.lsn += 8
        self.rows[key] = new
        self._log("u", key, self._before(old), self._sent(old, new))
        return self

    def delete(self, key: int) -> Transaction:
        self.lsn += 8
        self._log("d", key, self._key_image(key, self.rows.pop(key)), None)
        return self

    def change_key(self, key: int, to: int, **values: Any) -> Transaction:
        assert to not in self.rows
        return self._move(key, to, **values)

    def _move(self, key: int, to: int, **values: Any) -> Transaction:
        old = self.rows.pop(key)
        new = {**old, **values, "id": to}
        self.lsn += 8
        self._log("d", key, self._key_image(key, old), None, {"__debezium.newkey": json.dumps({"id": to})})
        self._log("c", to, None, self._sent(old, new), {"__debezium.oldkey": json.dumps({"id": key})})
        self.rows[to] = new
        return self

    def swap(self, left: int, right: int) -> Transaction:
        """One UPDATE that exchanges two keys: allowed where the key is deferrable (and the identity FULL)."""
        assert self.source.full
        one, two = self.rows[left], self.rows[right]
        self._move(left, right)
        self.rows[right] = two
        moved = {**one, "id": right}
        self._move(right, left)
        self.rows[right] = moved
        return self

    def truncate(self) -> Transaction:
        self.lsn += 8
        self.rows.clear()
        self._log("t", None, None, None)
        return self

    def _sent(self, old: Row, new: Row) -> Row:
        row = dict(new)
        if not self.source.full and old["big"] is not None and old["big"] == new["big"]:
            row["big"] = PLACEHOLDER
        return row

    def commit(self) -> list[RawChange]:
        """Commit; the connector sends the transaction's messages."""
        source = self.source
        sequence = json.dumps([str(source.commit_lsn) if source.commit_lsn else None, "0"])
        found = []
        for op, key, before, after, lsn, headers in self.sent:
            facts = {"lsn": lsn, "txId": self.tx, "ts_us": self.ts, "sequence": sequence, "headers": headers}
            found.append(source.raw(op, key, before, after, **facts))
        source.rows = self.rows
        source.keep_lsn(self.lsn + 8)
        source.commit_lsn = max(source.commit_lsn, self.lsn) + 8
        source.keep_lsn(source.commit_lsn + 8)
        source.messages.append(found)
        return found
