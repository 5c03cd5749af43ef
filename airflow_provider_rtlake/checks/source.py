"""Does a history's current state equal its source at one instant, while the source goes on changing?

The source is read in one statement, which tells its own snapshot: the transactions that it saw, and the
place of the log
that all of them lie before. A version is current in that snapshot when the transaction that opened it was
seen and the
one that closed it was not. So the two sides can be compared exactly once the history has got that far.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from airflow_provider_rtlake.checks.names import TableName, literal, quoted
from airflow_provider_rtlake.checks.types import canonical
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.names import first_name, history_name

OPENED_TX, CLOSED_TX, KEY = "scd2_opened_tx", "scd2_closed_tx", "scd2_key"
SNAPSHOT, LSN = "rtlake_snapshot", "rtlake_lsn"


@dataclass(frozen=True)
class Instant:
    """One snapshot of PostgreSQL.

    :param xmin: every transaction below it was over.
    :param xmax: no transaction from it on had begun.
    :param running: transactions between the two that were still open.
    :param lsn: place of the log (bytes) that every transaction seen lies before.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...]
    lsn: int

    @classmethod
    def parse(cls, snapshot: str, lsn: int) -> Instant:
        """Read what PostgreSQL's ``pg_current_snapshot()`` says.

        :param snapshot: ``xmin:xmax:xid,xid,…``.
        :param lsn: place of the log in bytes.
        """
        xmin, xmax, running = snapshot.split(":")
        open_ = tuple(int(xid) % 2**32 for xid in running.split(",") if xid)
        return cls(int(xmin) % 2**32, int(xmax) % 2**32, open_, int(lsn))

    def saw(self, transaction: str) -> str:
        """An SQL condition: the snapshot saw what this transaction did.

        The log carries the lower 32 bits of a transaction's number: one above ``xmax`` is of the round
        before.

        :param transaction: SQL expression of a transaction's number, NULL for one that is long over.
        """
        number = f"mod({transaction}, 4294967296)"
        not_running = f" AND {number} NOT IN ({', '.join(str(xid) for xid in self.running)})" if self.running else ""
        # Nothing begins between the reading and the answer that would be 2^31 numbers ahead.
        older = f"{number} > {self.xmax} AND {number} - {self.xmax} > 2147483648"
        return f"({transaction} IS NULL OR {number} < {self.xmin} OR {older} OR ({number} < {self.xmax}{not_running}))"

    def passed(self, position: str) -> bool:
        """Whether a merge that reached this position holds every transaction that the snapshot saw.

        :param position: the stored position of a merge.
        """
        return int(position.split("-")[2]) >= self.lsn and position.split("-")[1] == "1"


def key_columns(sample: str) -> list[str]:
    """Names of the key's columns.

    :param sample: a history's ``scd2_key``.
    :raises UserError: it is no JSON object.
    """
    try:
        value = json.loads(sample)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not value:
        raise UserError(f"the history's {KEY} does not name its columns: {sample!r}")
    return list(value)


def present_names(keys: Sequence[str], source: Iterable[str], renamed_from: Mapping[str, str]) -> list[str]:
    """What the source calls the key's columns now: a history's keys keep the names that they had at first.

    :param keys: names in the history's keys.
    :param source: columns of the source.
    :param renamed_from: new name → old one.
    """
    # A renamed column comes last: another one may have taken its old name since.
    columns = sorted(source, key=lambda column: column in renamed_from)
    present = {first_name(column, renamed_from): column for column in columns}
    return [present.get(key, key) for key in keys]


@dataclass(frozen=True)
class Pair:
    """The columns that a history and its source share, and how each side spells them as text.

    :param keys: the key's columns.
    :param history: column → text expression on the history.
    :param source: column → text expression on the source.
    :param not_compared: column → why not.
    """

    keys: tuple[str, ...]
    history: dict[str, str]
    source: dict[str, str]
    not_compared: dict[str, str]


def pair(history: Mapping[str, str], source: Mapping[str, str], keys: Sequence[str], own: Sequence[str]) -> Pair:
    """Find out what can be compared.

    :param history: column → Trino type of the history.
    :param source: column → Trino type of the source.
    :param keys: the key's columns.
    :param own: columns that only a history has.
    :raises UserError: a key column is missing on one side, or cannot be compared.
    """
    left: dict[str, str] = {}
    right: dict[str, str] = {}
    skipped: dict[str, str] = {}
    places = {column: history_name(column, source) for column in source}
    for column, place in places.items():
        if place not in history:
            skipped[column] = "not in the history"
            continue
        mine = canonical(history[place], source[column])
        theirs = canonical(source[column], history[place])
        if mine is None or theirs is None:
            skipped[column] = f"{history[place]} and {source[column]} cannot be compared"
        else:
            left[column], right[column] = mine(quoted(place)), theirs(quoted(column))
    left_over = set(history) - set(places.values()) - set(own)
    skipped |= {column: "not in the source" for column in history if column in left_over}
    lost = [key for key in keys if key not in left]
    if lost:
        raise UserError(f"key columns cannot be compared: {', '.join(f'{key}: {skipped.get(key)}' for key in lost)}")
    return Pair(tuple(keys), left, right, skipped)


def _row(expressions: Mapping[str, str], keys: Sequence[str]) -> str:
    """Key and content hash of a row. Null and text differ in the hash, and so do columns that swap values."""
    parts = ", ".join(expressions[column] for column in sorted(expressions) if column not in keys)
    content = f"json_format(CAST(ARRAY[{parts}] AS json))" if parts else "''"
    key = f"json_format(CAST(ARRAY[{', '.join(expressions[column] for column in keys)}] AS json))"
    return f"{key} AS row_key, lower(to_hex(md5(to_utf8({content})))) AS row_hash"


def remote_columns_sql(catalog: str, schema: str, table: str) -> str:
    """A query for the source table's columns as PostgreSQL spells them, and whether each is an array.

    :param catalog: Trino's name of the source database.
    :param schema: schema as PostgreSQL spells it.
    :param table: table as PostgreSQL spells it.
    """
    inner = (
        "SELECT a.attname::text, t.typcategory = 'A' AS is_array "  # noqa: S608
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        f"WHERE a.attrelid = {literal(f'{quoted(schema)}.{quoted(table)}')}::regclass "
        "AND a.attnum > 0 AND NOT a.attisdropped"
    )
    return f"SELECT * FROM TABLE({quoted(catalog)}.system.query(query => {literal(inner)}))"  # noqa: S608


def source_sql(catalog: str, schema: str, table: str, columns: Pair, remote: Mapping[str, bool]) -> str:
    """A query for key, hash, snapshot and log position of each source row, all of one snapshot.

    A source without rows gives one row without a key.

    :param catalog: Trino's name of the source database.
    :param schema: schema as PostgreSQL spells it.
    :param table: table as PostgreSQL spells it.
    :param columns: what is compared.
    :param remote: column as PostgreSQL spells it → whether it is an array.
    """
    wanted = ", ".join(
        # Trino 476 cannot read arrays through a passed query.
        f"to_jsonb(x.{quoted(name)}) AS {quoted(name)}" if is_array else f"x.{quoted(name)}"
        for name, is_array in remote.items()
        if name.lower() in columns.source
    )
    inner = (
        f"SELECT t.*, s.{SNAPSHOT}, s.{LSN} FROM "  # noqa: S608
        f"(SELECT pg_current_snapshot()::text AS {SNAPSHOT}, "
        f"(pg_current_wal_insert_lsn() - '0/0')::bigint AS {LSN}) s LEFT JOIN "
        f"(SELECT true AS rtlake_present, {wanted} FROM {quoted(schema)}.{quoted(table)} x) t ON true"
    )
    return (
        f"SELECT rtlake_present, {SNAPSHOT}, {LSN}, {_row(columns.source, columns.keys)} "  # noqa: S608
        f"FROM TABLE({quoted(catalog)}.system.query(query => {literal(inner)}))"
    )


def history_sql(table: TableName, columns: Pair, instant: Instant) -> str:
    """A query for key and hash of each row of the history that was current in the source's snapshot.

    :param table: the history.
    :param columns: what is compared.
    :param instant: the snapshot.
    """
    return (
        f"SELECT {_row(columns.history, columns.keys)} FROM {table.sql} "  # noqa: S608
        f"WHERE {instant.saw(quoted(OPENED_TX))} AND (effective_end_ts IS NULL OR "
        f"({quoted(CLOSED_TX)} IS NOT NULL AND NOT {instant.saw(quoted(CLOSED_TX))}))"
    )


def position_sql(checkpoint: TableName) -> str:
    """A query for the newest stored position.

    :param checkpoint: the table of positions.
    """
    return f"SELECT position, merge_id FROM {checkpoint.sql} ORDER BY merged_at DESC LIMIT 1"  # noqa: S608


def differences(history: Mapping[str, str], source: Mapping[str, str], samples: int) -> list[str]:
    """One line for each kind of difference, with keys; none where both are equal.

    :param history: key → hash.
    :param source: key → hash.
    :param samples: at most so many keys of each kind are shown.
    """
    found = {
        "are not in the history": [key for key in source if key not in history],
        "are in the history and not in the source": [key for key in history if key not in source],
        "differ": [key for key, value in source.items() if key in history and history[key] != value],
    }
    return [
        f"{len(keys)} keys {what}: {'; '.join(sorted(keys)[:samples])}"
        + (f" and {len(keys) - samples} more" if len(keys) > samples else "")
        for what, keys in found.items()
        if keys
    ]
