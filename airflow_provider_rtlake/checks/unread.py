"""Rows of bronze that a merge could not understand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_rtlake.checks.names import TableName

_TEXT_LIMIT = 300  # characters shown of a key or a reason


def unread_sql(table: TableName, samples: int) -> str:
    """A query for their number and the first of them: number, place of origin, key, reason.

    :param table: where merges put them.
    :param samples: at most so many rows.
    """
    place = "topic || ':' || CAST(topic_partition AS varchar) || ':' || CAST(topic_offset AS varchar)"
    return (
        f"SELECT count(*) OVER (), {place}, message_key, reason FROM {table.sql} "  # noqa: S608
        f"ORDER BY topic, topic_partition, topic_offset LIMIT {max(1, samples)}"
    )


def describe_unread(table: TableName, rows: Sequence[Sequence[Any]]) -> str:
    """The message of a failed check: how many, their keys and reasons, and what to do.

    :param table: where they are.
    :param rows: of :func:`unread_sql`, at least one.
    """
    number = int(rows[0][0])
    lines = [f"{number} rows of bronze are in no history, because the merge could not understand them:"]
    lines += [f"  {place}: key {_short(key or 'none')}: {_short(reason)}" for _, place, key, reason in rows]
    if number > len(rows):
        lines.append(f"  … and {number - len(rows)} more")
    lines.append(f"when they are settled, delete them from {table}: then this check is green again")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"
