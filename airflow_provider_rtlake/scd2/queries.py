"""Trino queries that a history answers: current rows, rows as of a time, changes between two times. Pure."""

# ruff: noqa: S608 (names are quoted; times are parsed)

from __future__ import annotations

from collections.abc import Sequence
from datetime import timezone

from dateutil.parser import isoparse

from airflow_provider_rtlake.checks.names import TableName, quoted
from airflow_provider_rtlake.exceptions import UserError

START, END = '"effective_start_ts"', '"effective_end_ts"'


def moment(text: str) -> str:
    """A time as a Trino literal, UTC, microseconds.

    :param text: ISO 8601; without a zone it is UTC.
    :raises UserError: it is no time.
    """
    try:
        parsed = isoparse(text)
    except ValueError as error:
        raise UserError(f"{text} is no time: write 2026-11-21T12:00:00Z") from error
    zoned = parsed.replace(tzinfo=timezone.utc) if parsed.tzinfo is None else parsed.astimezone(timezone.utc)
    return f"TIMESTAMP '{zoned:%Y-%m-%d %H:%M:%S.%f} UTC'"


def current_rows(table: TableName, columns: Sequence[str]) -> str:
    """The rows that exist, in their newest state.

    :param table: the history.
    :param columns: of the source.
    """
    return f"SELECT {_listed(columns)}\nFROM {table.sql}\nWHERE is_current"


def rows_as_of(table: TableName, columns: Sequence[str], at: str) -> str:
    """The rows that existed at a time, as they were.

    :param table: the history.
    :param columns: of the source.
    :param at: the time, as :func:`moment` reads it.
    """
    when = moment(at)
    return f"SELECT {_listed(columns)}\nFROM {table.sql}\nWHERE {START} <= {when} AND ({END} IS NULL OR {END} > {when})"


def changes_between(table: TableName, columns: Sequence[str], begin: str, end: str) -> str:
    """What happened from a time on, before another: ``change`` (insert, update, delete), ``changed_at``, the columns
    after it (of a delete: before it), and where it came from.

    :param table: the history.
    :param columns: of the source.
    :param begin: included.
    :param end: excluded.
    """
    first, last = moment(begin), moment(end)
    listed = _listed(columns)
    return f"""WITH versions AS (
  SELECT *,
    lag({END}) OVER (PARTITION BY "scd2_key" ORDER BY {START}) AS previous_end,
    lag("is_deleted") OVER (PARTITION BY "scd2_key" ORDER BY {START}) AS previous_deleted
  FROM {table.sql}
)
SELECT
  IF(previous_end = {START} AND NOT previous_deleted, 'update', 'insert') AS change,
  {START} AS changed_at, {listed}, "scd2_opened_tx" AS transaction, "scd2_opened_position" AS position
FROM versions
WHERE {START} >= {first} AND {START} < {last}
UNION ALL
SELECT 'delete', {END}, {listed}, "scd2_closed_tx", "scd2_closed_position"
FROM versions
WHERE "is_deleted" AND {END} >= {first} AND {END} < {last}"""


def _listed(columns: Sequence[str]) -> str:
    if not columns:
        raise UserError("name the columns of the source")
    return ", ".join(quoted(name) for name in columns)
