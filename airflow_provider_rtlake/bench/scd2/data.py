"""The workload: a table of orders and its changes, the same for every side, made from a seed.

Each batch changes different rows of the table: 96 of 100 changes are updates, 2 inserts, 2 deletes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLLECTION = "public.orders"
BRONZE = (
    "topic string, topic_partition int, topic_offset bigint, kafka_ts timestamp, message_key string, "
    "headers map<string,string>, op string, value_schema string, payload string, dt string"
)
_STATES = ("new", "paid", "packed", "sent", "returned")
_START = 1_700_000_000_000_000  # microseconds: the time of the first change at the source
_PER_TRANSACTION = 10
_PIECE = 200_000  # rows of a snapshot that are made at once: an array of texts holds 2 GB
_UPDATES, _INSERTS = 0.96, 0.98  # shares, added up


def _column(name: str, kind: str, source: str, semantic: str | None = None, **detail: str) -> dict[str, Any]:
    parameters = {"__debezium.source.column.type": source}
    parameters |= {f"__debezium.source.column.{key}": value for key, value in detail.items()}
    found: dict[str, Any] = {"type": kind, "optional": name != "id", "field": name, "parameters": parameters}
    return {**found, "name": semantic} if semantic else found


FIELDS = [
    _column("id", "int64", "INT8"),
    _column("customer", "int32", "INT4"),
    _column("amount", "string", "NUMERIC", length="10", scale="2"),
    _column("state", "string", "TEXT"),
    _column("note", "string", "TEXT"),
    _column("changed_at", "int64", "TIMESTAMP", "io.debezium.time.MicroTimestamp"),
]
SCHEMA = json.dumps(
    {
        "type": "struct",
        "fields": [
            {"type": "struct", "fields": FIELDS, "optional": True, "field": side} for side in ("before", "after")
        ],
        "optional": False,
        "name": "bench.public.orders.Envelope",
    }
)


@dataclass
class Orders:
    """The table at the source.

    :param keys: rows at the beginning.
    :param seed: of everything that is made up.
    """

    keys: int
    seed: int = 1
    alive: np.ndarray[Any, Any] = field(init=False)
    revision: np.ndarray[Any, Any] = field(init=False)
    _lsn: int = 1000
    _offset: int = 0
    _batch: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self.alive = np.ones(self.keys, bool)
        self.revision = np.zeros(self.keys, np.int64)

    def snapshot(self) -> Iterator[pa.Table]:
        """The rows of bronze that the first snapshot of the table makes, piece by piece."""
        for start in range(0, self.keys, _PIECE):
            ids = np.arange(start, min(start + _PIECE, self.keys))
            count = len(ids)
            marker = np.where(ids == self.keys - 1, "last", "true")
            yield self._bronze(
                ids,
                None,
                self._rows(ids, self.revision[ids]),
                np.full(count, "r"),
                np.full(count, self._lsn),
                None,
                np.full(count, _START),
                pa.array(marker),
                None,
            )
        self._lsn += 8

    def change(self, count: int) -> tuple[pa.Table, pa.Table]:
        """One batch.

        :param count: changes, each of another row.
        :return: rows of bronze, and the rows of the table that are new or altered.
        """
        self._batch += 1
        kinds = self._random.random(count)
        living = np.flatnonzero(self.alive)
        wanted = min(count, len(living))
        chosen = self._random.choice(living, wanted, replace=False)
        op = np.where(kinds < _UPDATES, "u", np.where(kinds < _INSERTS, "c", "d"))
        inserts = int((op == "c").sum())
        fresh = len(self.alive) + np.arange(inserts)
        self.alive = np.concatenate([self.alive, np.ones(inserts, bool)])
        self.revision = np.concatenate([self.revision, np.zeros(inserts, np.int64)])
        ids = np.empty(count, np.int64)
        ids[op == "c"] = fresh
        others = op != "c"
        if int(others.sum()) > wanted:
            raise ValueError(f"{count} changes do not fit into {len(living)} rows")
        ids[others] = chosen[: int(others.sum())]
        before = self._rows(ids, self.revision[ids])
        self.revision[ids] += 1
        self.alive[ids[op == "d"]] = False
        after = self._rows(ids, self.revision[ids])
        number = np.arange(count)
        lsn = self._lsn + 8 + 16 * number + 64 * (number // _PER_TRANSACTION)
        transaction = number // _PER_TRANSACTION
        starts = np.concatenate([[self._lsn], lsn[_PER_TRANSACTION - 1 :: _PER_TRANSACTION] + 32])[transaction]
        ts = _START + self._batch * 3_600_000_000 + transaction * 1000
        tx = self._batch * 10_000_000 + transaction
        changes = self._bronze(ids, before, after, op, lsn, tx, ts, pa.array(["false"] * count), starts)
        self._lsn = int(lsn[-1]) + 64
        return changes, self._table(after).filter(pa.array(op != "d"))

    def whole(self) -> pa.Table:
        """The table as it is now."""
        ids = np.flatnonzero(self.alive)
        return self._table(self._rows(ids, self.revision[ids]))

    def _rows(self, ids: Any, revision: Any) -> dict[str, Any]:
        """Values that follow from id and revision alone."""
        mixed = (ids * 2654435761 + revision * 40503) % 4294967296
        cents = pa.array(mixed % 10_000_000)
        return {
            "id": pa.array(ids),
            "customer": pa.array((ids % 50_000).astype(np.int32)),
            "amount": pc.binary_join_element_wise(
                pc.divide(cents, 100).cast(pa.string()),
                pc.utf8_lpad(pa.array(mixed % 100).cast(pa.string()), 2, "0"),
                ".",
            ),
            "state": pa.array(_STATES).take(pa.array(revision % len(_STATES))),
            "note": pc.binary_join_element_wise("order ", pa.array(mixed).cast(pa.string()), " of the bench", ""),
            "changed_at": pa.array(_START + revision * 1_000_000),
        }

    @staticmethod
    def _table(rows: dict[str, Any]) -> pa.Table:
        return pa.table(
            {
                **rows,
                "amount": rows["amount"].cast(pa.decimal128(10, 2)),
                "changed_at": rows["changed_at"].cast(pa.timestamp("us")),
            }
        )

    def _bronze(
        self, ids: Any, before: Any, after: Any, op: Any, lsn: Any, tx: Any, ts: Any, snapshot: pa.Array, starts: Any
    ) -> pa.Table:
        count = len(ids)
        text = _texts
        null = pa.array(["null"] * count)
        old = null if before is None else pc.if_else(pa.array(op == "c"), null, _json(before))
        new = pc.if_else(pa.array(op == "d"), null, _json(after))
        sequence = (
            pc.binary_join_element_wise('[null,\\"', text(lsn), '\\"]', "")
            if starts is None
            else pc.binary_join_element_wise('[\\"', text(starts), '\\",\\"', text(lsn), '\\"]', "")
        )
        number = null if tx is None else text(tx)
        payload = pc.binary_join_element_wise(
            '{"before":', old, ',"after":', new,
            ',"source":{"version":"3.7.0.Final","connector":"postgresql","name":"bench","ts_ms":', text(ts // 1000),
            ',"snapshot":"', snapshot, '","db":"bench","sequence":"', sequence, '","ts_us":', text(ts),
            ',"schema":"public","table":"orders","txId":', number, ',"lsn":', text(lsn), ',"xmin":null}',
            ',"transaction":null,"op":"', pa.array(op), '","ts_ms":', text(ts // 1000), "}", "",
        )  # fmt: skip
        keys = pc.binary_join_element_wise('{"id":', text(ids), "}", "")
        offsets = self._offset + np.arange(count)
        self._offset += count
        one = pa.array([[("rtlake.epoch", "1:7000:1")]], pa.map_(pa.string(), pa.string()))
        zero = pa.array(np.zeros(count, np.int64))
        return pa.table(
            {
                "topic": pa.array(["bench.public.orders"]).take(zero),
                "topic_partition": pa.array(np.zeros(count, np.int32)),
                "topic_offset": pa.array(offsets),
                "kafka_ts": pa.array(ts).cast(pa.timestamp("us", tz="UTC")),
                "message_key": keys,
                "headers": one.take(zero),
                "op": pa.array(op),
                "value_schema": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([SCHEMA])),
                "payload": payload,
                "dt": pa.array(["2026-01-01"]).take(zero),
            }
        )


def _texts(numbers: Any) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _json(rows: dict[str, Any]) -> pa.Array:
    parts: list[Any] = []
    for number, (name, values) in enumerate(rows.items()):
        parts.append(("," if number else "{") + json.dumps(name) + ":")
        plain = pa.types.is_string(values.type)
        parts.append(pc.binary_join_element_wise('"', values, '"', "") if plain else values.cast(pa.string()))
    return pc.binary_join_element_wise(*parts, "}", "")
